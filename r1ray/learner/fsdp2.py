"""The FSDP2 back end: parameters, gradients and optimizer sharded over all processes, over NCCL or gloo.

Master weights are float32; FSDP2 gathers them in the compute dtype for each block and reduces gradients in float32.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from r1ray.learner import state
from r1ray.learner.context import check_heads
from r1ray.learner.lora import MergedWeightSource, adapters_disabled, save_adapter
from r1ray.learner.micro_batch import MicroBatch
from r1ray.learner.parallel import apply_tensor_parallel, build_meshes, clip_gradients, synchronize_gradients
from r1ray.learner.policy import Policy, cast_parameters
from r1ray.learner.protocol import LearnerOptions
from r1ray.weights.protocol import WeightSource
from r1ray.weights.source import ModuleWeightSource

ADAPTER_FOLDER = "adapter"


class Fsdp2Engine:
    """See `learner/engine.py`."""

    def __init__(self, options: LearnerOptions, policy: Policy, reference: Policy | None) -> None:
        """Shard loaded models over all processes.

        Args:
            options: of this learner.
            policy: on the CPU; what is frozen in it, as with adapters, stays in the compute dtype.
            reference: likewise, frozen; None also where the policy without its adapters is the reference.

        Raises:
            ConfigError, ModelError: the model cannot be split as `learner` asks.
        """
        config = options.learner
        self._options = options
        self._dtype: torch.dtype = getattr(torch, options.dtype)
        self._meshes = build_meshes(
            options.device,
            options.world_size,
            tensor_parallel=config.tensor_parallel,
            context_parallel=config.context_parallel,
            timeout_s=options.timeout_s,
        )
        self.context = self._meshes.context
        self.num_copies = config.tensor_parallel * config.context_parallel
        check_heads(
            policy.causal_lm.config,
            tensor_parallel=config.tensor_parallel,
            context_parallel=config.context_parallel,
        )
        self._partial = self._shard(policy, offload=config.offload_optimizer)
        self.policy = policy
        self._reference = reference
        if reference is not None:
            self._shard(reference, offload=config.offload_reference)
        self.reference = self._reference_forward if options.algorithm.kl_coef > 0 else None
        self._optimizer = torch.optim.AdamW(
            [p for p in policy.parameters() if p.requires_grad],
            lr=config.lr,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_eps,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def _shard(self, policy: Policy, *, offload: bool) -> tuple[nn.Module, ...]:
        """Split layers, cast and shard block by block; return the modules whose gradients are partial sums.

        Without tensor parallelism a process never holds more than one block in float32.
        """
        mesh = self._meshes.shard
        partial: tuple[nn.Module, ...] = ()
        policy.context = self._meshes.context
        if self._meshes.tensor is not None:
            cast_parameters(policy, self._dtype)
            partial = apply_tensor_parallel(policy.causal_lm, self._meshes.tensor)
        offload_policy = CPUOffloadPolicy() if offload and self._options.device == "cuda" else OffloadPolicy()
        compute = MixedPrecisionPolicy(param_dtype=self._dtype, reduce_dtype=torch.float32)
        for layer in policy.decoder_layers:
            fully_shard(
                cast_parameters(layer, self._dtype),
                mesh=mesh,
                mp_policy=compute,
                offload_policy=offload_policy,
                # A process alone has nothing to gather again for the backward pass.
                reshard_after_forward=mesh.size() > 1,
            )
        if self._options.learner.fp32_lm_head:
            compute = MixedPrecisionPolicy(param_dtype=torch.float32, reduce_dtype=torch.float32)
        fully_shard(cast_parameters(policy, self._dtype), mesh=mesh, mp_policy=compute, offload_policy=offload_policy)
        return partial

    def _reference_forward(self, batch: MicroBatch, temperature: float) -> tuple[Tensor, Tensor]:
        """Run the reference: a model of its own, or the policy without its adapters."""
        if self._reference is not None:
            result: tuple[Tensor, Tensor] = self._reference(batch, temperature)
            return result
        with adapters_disabled(self.policy):
            result = self.policy(batch, temperature)
        return result

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add a micro-batch to the step's gradient."""
        # FSDP averages gradients over its mesh; the sum over all of it is wanted.
        torch.autograd.backward(loss * self._meshes.shard.size())

    @torch.no_grad()
    def step(self, *, denominator: float, lr: float) -> float:
        """Divide, clip, update, clear; see `TrainingEngine.step`."""
        norm = 0.0
        if denominator:
            synchronize_gradients(self.policy, self._meshes, partial=self._partial)
            norm = clip_gradients(
                self.policy.parameters(),
                self._options.learner.max_grad_norm,
                meshes=self._meshes,
                denominator=denominator,
            )
            if math.isfinite(norm):
                for group in self._optimizer.param_groups:
                    group["lr"] = lr
                self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def release(self) -> None:
        """Let go of gathered parameters.

        After a backward pass FSDP2 does so itself; after a forward pass alone it keeps the root's, and a process alone
        all of them, and they would outlive the next change of the shards.
        """
        for module in (self.policy, self._reference):
            if isinstance(module, FSDPModule):
                for part in module.modules():
                    if isinstance(part, FSDPModule):
                        part.reshard()

    @torch.no_grad()
    def refresh_reference(self) -> None:
        """Make the reference equal to the policy."""
        if self._reference is not None:
            self.release()
            for source, target in zip(self.policy.parameters(), self._reference.parameters(), strict=True):
                target.copy_(source.to(target.dtype))

    @property
    def _has_adapters(self) -> bool:
        return self._options.learner.lora.rank > 0

    def weights(self) -> WeightSource:
        """Return the policy's parameters, adapters merged, under their Hugging Face names in the compute dtype."""
        source = MergedWeightSource if self._has_adapters else ModuleWeightSource
        return source(self.policy.causal_lm, dtype=self._dtype)

    def save(self, directory: str) -> None:
        """Write what is trained, optimizer and reference as shards; adapters also as PEFT does."""
        state.save(directory, self.policy, self._optimizer, self._reference)
        if self._has_adapters:
            save_adapter(
                str(Path(directory) / ADAPTER_FOLDER), self.policy.causal_lm, base_model=self._options.model_path
            )

    def load(self, directory: str) -> None:
        """Restore what `save` wrote."""
        state.load(directory, self.policy, self._optimizer, self._reference)
