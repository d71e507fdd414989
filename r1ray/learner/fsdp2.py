"""The FSDP2 back end: parameters, gradients and optimizer sharded over all processes, over NCCL or gloo.

Master weights are float32; FSDP2 gathers them in the compute dtype for each block and reduces gradients in float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from r1ray.learner import state
from r1ray.learner.policy import Policy, cast_parameters
from r1ray.learner.protocol import LearnerOptions
from r1ray.weights.protocol import WeightSource
from r1ray.weights.source import ModuleWeightSource


class Fsdp2Engine:
    """See `learner/engine.py`."""

    def __init__(self, options: LearnerOptions, policy: Policy, reference: Policy | None) -> None:
        """Shard loaded models over all processes."""
        config = options.learner
        self._options = options
        self._mesh = init_device_mesh(options.device, (options.world_size,))
        self._dtype: torch.dtype = getattr(torch, options.dtype)
        self.policy = self._shard(policy, torch.float32, offload=config.offload_optimizer)
        self.reference = (
            None if reference is None else self._shard(reference, self._dtype, offload=config.offload_reference)
        )
        self._optimizer = torch.optim.AdamW(
            [p for p in self.policy.parameters() if p.requires_grad],
            lr=config.lr,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_eps,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def _shard(self, policy: Policy, dtype: torch.dtype, *, offload: bool) -> Policy:
        """Cast and shard block by block, so that a process never holds more than one block in `dtype`."""
        offload_policy = CPUOffloadPolicy() if offload and self._options.device == "cuda" else OffloadPolicy()
        compute = MixedPrecisionPolicy(param_dtype=self._dtype, reduce_dtype=torch.float32)
        for layer in policy.decoder_layers:
            fully_shard(
                cast_parameters(layer, dtype), mesh=self._mesh, mp_policy=compute, offload_policy=offload_policy
            )
        if self._options.learner.fp32_lm_head:
            compute = MixedPrecisionPolicy(param_dtype=torch.float32, reduce_dtype=torch.float32)
        fully_shard(cast_parameters(policy, dtype), mesh=self._mesh, mp_policy=compute, offload_policy=offload_policy)
        return policy

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add a micro-batch to the step's gradient."""
        # FSDP averages gradients over processes; the sum over all of them is wanted.
        torch.autograd.backward(loss * self._mesh.size())

    @torch.no_grad()
    def step(self, *, denominator: float, lr: float) -> float:
        """Divide, clip, update, clear; see `TrainingEngine.step`."""
        gradients = [p.grad for p in self.policy.parameters() if p.grad is not None]
        norm = 0.0
        if denominator and gradients:
            total = torch.nn.utils.get_total_norm(gradients)
            norm = float(total.full_tensor() if hasattr(total, "full_tensor") else total) / denominator
            if math.isfinite(norm):
                scale = min(1.0, self._options.learner.max_grad_norm / (norm + 1e-6)) / denominator
                torch._foreach_mul_(gradients, scale)
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
        for module in (self.policy, self.reference):
            if isinstance(module, FSDPModule):
                for part in module.modules():
                    if isinstance(part, FSDPModule):
                        part.reshard()

    @torch.no_grad()
    def refresh_reference(self) -> None:
        """Make the reference equal to the policy."""
        if self.reference is not None:
            self.release()
            for source, target in zip(self.policy.parameters(), self.reference.parameters(), strict=True):
                target.copy_(source.to(target.dtype))

    def weights(self) -> WeightSource:
        """Return the policy's parameters under their Hugging Face names in the compute dtype."""
        return ModuleWeightSource(self.policy.causal_lm, dtype=self._dtype)

    def save(self, directory: str) -> None:
        """Write parameters, optimizer and reference as shards."""
        state.save(directory, self.policy, self._optimizer, self.reference)

    def load(self, directory: str) -> None:
        """Restore what `save` wrote."""
        state.load(directory, self.policy, self._optimizer, self.reference)
