"""Builds the sharded policy of one learner process: load, shard, cast.

Master weights are float32; FSDP2 gathers them in the compute dtype for each block and reduces gradients in
float32.
"""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from r1ray.errors import LearnerError, ModelError
from r1ray.learner.attention import ATTENTION_NAME, packed_attention
from r1ray.learner.policy import Policy
from r1ray.learner.protocol import LearnerOptions


def join_process_group(options: LearnerOptions) -> DeviceMesh:
    """Bind this process to its cores or GPU and join the other learners.

    Raises:
        LearnerError: the others did not come within `timeout_s`.
    """
    if options.cores:
        os.sched_setaffinity(0, options.cores)
        torch.set_num_threads(len(options.cores))
    if options.device == "cuda":
        torch.cuda.set_device(0)
    try:
        dist.init_process_group(
            backend="cpu:gloo,cuda:nccl" if options.device == "cuda" else "gloo",
            init_method=f"tcp://{options.master_address}:{options.master_port}",
            rank=options.rank,
            world_size=options.world_size,
            timeout=timedelta(seconds=options.timeout_s),
        )
    except dist.DistError as error:
        raise LearnerError(
            f"learner {options.rank} of {options.world_size} could not join the process group at "
            f"{options.master_address}:{options.master_port}: {error}"
        ) from error
    return init_device_mesh(options.device, (options.world_size,))


def build_policy(options: LearnerOptions, mesh: DeviceMesh, *, trainable: bool) -> Policy:
    """Load the model and shard it over the mesh.

    Args:
        options: of this learner.
        mesh: one-dimensional, all learner processes.
        trainable: the reference model is not: it is kept in the compute dtype and without gradients.

    Raises:
        ModelError: the model cannot be loaded, or is of a kind the learner does not know.
    """
    from transformers import AttentionInterface, AutoModelForCausalLM

    AttentionInterface.register(ATTENTION_NAME, packed_attention)
    try:
        causal_lm = AutoModelForCausalLM.from_pretrained(
            options.model_path,
            revision=options.revision,
            trust_remote_code=options.trust_remote_code,
            attn_implementation=ATTENTION_NAME,
            dtype="auto",
        )
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"model.path {options.model_path!r} could not be loaded: {error}") from error
    if not hasattr(causal_lm.base_model, "layers"):
        raise ModelError(
            f"model.path {options.model_path!r} is a {type(causal_lm).__name__}, whose transformer blocks are not "
            "found at base_model.layers: r1ray trains decoder-only models of the Llama and Qwen kind"
        )
    causal_lm.config.use_cache = False
    if trainable and options.learner.activation_checkpointing == "full":
        causal_lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    compute_dtype = getattr(torch, options.dtype)
    policy = Policy(causal_lm)
    policy.to(device=options.device, dtype=torch.float32 if trainable else compute_dtype)
    policy.requires_grad_(trainable)
    policy.train(trainable)
    mixed = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
    for layer in policy.decoder_layers:
        fully_shard(layer, mesh=mesh, mp_policy=mixed)
    fully_shard(policy, mesh=mesh, mp_policy=mixed)
    return policy
