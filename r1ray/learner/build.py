"""Builds the engine of one learner process: join the others, load the model, hand it to the back end."""

from __future__ import annotations

import functools
import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from r1ray.errors import ConfigError, LearnerError, ModelError
from r1ray.learner.attention import ATTENTION_NAME, packed_attention
from r1ray.learner.engine import TrainingEngine
from r1ray.learner.lora import add_adapters
from r1ray.learner.policy import Policy, Scorer, cast_parameters
from r1ray.learner.protocol import LearnerOptions
from r1ray.models.flops import ModelFlops, model_flops
from r1ray.models.tokenizer import load_tokenizer

# What selective activation checkpointing keeps: the results of matrix products and attention.
KEPT_OPERATIONS = (
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
)


def join_process_group(options: LearnerOptions) -> None:
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


def build_engine(options: LearnerOptions) -> tuple[TrainingEngine, ModelFlops]:
    """Load the policy and, where a KL is taken, the reference, and shard them.

    Raises:
        ModelError: the model cannot be loaded, or is of a kind the learner does not know.
    """
    policy = load_policy(options, trainable=True)
    flops = model_flops(policy.causal_lm.config)
    has_reference = options.algorithm.kl_coef > 0 and options.learner.lora.rank == 0
    reference = load_policy(options, trainable=False) if has_reference else None
    if options.learner.backend == "deepspeed":
        from r1ray.learner.deepspeed import DeepSpeedEngine

        for module in filter(None, (policy, reference)):
            cast_parameters(module, getattr(torch, options.dtype))
        return DeepSpeedEngine(options, policy, reference), flops
    from r1ray.learner.fsdp2 import Fsdp2Engine

    return Fsdp2Engine(options, policy, reference), flops


def load_policy(options: LearnerOptions, *, trainable: bool) -> Policy:
    """Load the model on the CPU with packed attention, as `learner` configures it.

    Args:
        options: of this learner.
        trainable: the reference model is not.

    Raises:
        ModelError: the model cannot be loaded, or is of a kind the learner does not know.
    """
    scores = options.task in ("pairwise", "pointwise")
    causal_lm = _load_classifier(options) if scores else _load_causal_lm(options)
    config = options.learner
    if config.fused_kernels:
        _fuse_kernels(causal_lm, options)
    if trainable and config.activation_checkpointing != "none":
        how: dict[str, Any] = {"use_reentrant": False}
        if config.activation_checkpointing == "selective":
            how["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _keep_products)
        causal_lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)
    causal_lm.requires_grad_(trainable)
    if trainable and config.lora.rank:
        add_adapters(causal_lm, config.lora)
    policy = Scorer(causal_lm) if scores else Policy(causal_lm, fp32_lm_head=config.fp32_lm_head)
    policy.train(trainable)
    if config.compile:
        for layer in policy.decoder_layers:
            # The forward alone: the hooks that gather parameters stay outside of the graph.
            layer.forward = torch.compile(layer.forward, dynamic=True)
    return policy


def _load_causal_lm(options: LearnerOptions) -> Any:
    from transformers import AutoModelForCausalLM

    causal_lm = _from_pretrained(AutoModelForCausalLM, options)
    causal_lm.config.use_cache = False
    return causal_lm


def _load_classifier(options: LearnerOptions) -> Any:
    """Load the model with a scalar head in place of its LM head.

    A new head is zero, so that all completions score alike until it has learned something.
    """
    from transformers import AutoModelForSequenceClassification

    classifier = _from_pretrained(AutoModelForSequenceClassification, options, num_labels=1)
    if not hasattr(classifier, "score"):
        raise ModelError(
            f"model.path {options.model_path!r} as a {type(classifier).__name__} has no head called score: reward "
            "models are trained on decoder-only models of the Llama and Qwen kind"
        )
    if not _is_classifier(options):
        torch.nn.init.zeros_(classifier.score.weight)
    tokenizer = load_tokenizer(options.model_path, options.revision, options.trust_remote_code)
    classifier.config.pad_token_id = tokenizer.pad_token_id
    classifier.config.use_cache = False
    return classifier


def _is_classifier(options: LearnerOptions) -> bool:
    """Whether the checkpoint has a scalar head already."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(
        options.model_path, revision=options.revision, trust_remote_code=options.trust_remote_code
    )
    return any("SequenceClassification" in name for name in config.architectures or ())


def _from_pretrained(kind: Any, options: LearnerOptions, **more: Any) -> Any:
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION_NAME, packed_attention)
    try:
        causal_lm = kind.from_pretrained(
            options.model_path,
            revision=options.revision,
            trust_remote_code=options.trust_remote_code,
            attn_implementation=ATTENTION_NAME,
            dtype="auto",
            **more,
        )
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"model.path {options.model_path!r} could not be loaded: {error}") from error
    if not hasattr(causal_lm.base_model, "layers"):
        raise ModelError(
            f"model.path {options.model_path!r} is a {type(causal_lm).__name__}, whose transformer blocks are not "
            "found at base_model.layers: r1ray trains decoder-only models of the Llama and Qwen kind"
        )
    return causal_lm


def _keep_products(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    kept = operation in KEPT_OPERATIONS or "varlen_attn" in str(operation)
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def _fuse_kernels(causal_lm: Any, options: LearnerOptions) -> None:
    if options.device != "cuda":
        raise ConfigError("learner.fused_kernels must be false with cluster.device=cpu: they are Triton kernels")
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
    except ImportError as error:
        raise ConfigError(
            f"learner.fused_kernels needs liger-kernel: {error}; pip install liger-kernel, or set it to false"
        ) from error
    _apply_liger_kernel_to_instance(causal_lm, fused_linear_cross_entropy=False, cross_entropy=False)
