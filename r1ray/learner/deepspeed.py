"""The policy on DeepSpeed ZeRO: stage 1 shards the optimizer, 2 the gradients too, 3 the parameters too.

Implements `learner/engine.py` over gloo or NCCL. DeepSpeed is made to accumulate plain sums: it neither counts
micro-batches nor averages, and the step's denominator, known only at the end, enters as the loss scale that ZeRO
divides gradients and norm by. Losses and schedules stand in `learner/policy_learner.py`; how engines start and where
ZeRO keeps its state, in `deepspeed_start.py` and `deepspeed_state.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from r1ray.learner import deepspeed_state
from r1ray.learner.deepspeed_start import SuspendableAdamW, configuration, start_engine
from r1ray.learner.deepspeed_weights import ZeroWeightSource
from r1ray.learner.policy import Policy
from r1ray.learner.protocol import LearnerOptions
from r1ray.weights.protocol import WeightSource
from r1ray.weights.source import ModuleWeightSource


class DeepSpeedEngine:
    """One of the processes that hold the policy; see `learner/engine.py`.

    Attributes:
        policy: the DeepSpeed engine, called like the policy.
        reference: sharded where the policy is, or where it is offloaded; else whole on each process.
    """

    policy: Policy
    reference: Callable[..., tuple[Tensor, Tensor]] | None
    context: dist.ProcessGroup | None = None
    num_copies = 1

    def __init__(self, options: LearnerOptions, policy: Policy, reference: Policy | None) -> None:
        """Take over the modules; a collective.

        Args:
            options: of this learner.
            policy: on the CPU, float32.
            reference: on the CPU, in the compute dtype, frozen.

        Raises:
            LearnerError: DeepSpeed cannot start here.
        """
        config = options.learner
        self._stage = config.zero_stage
        self._dtype: torch.dtype = getattr(torch, options.dtype)
        self._micro_batches = 0
        self._adam = SuspendableAdamW(
            [p for p in policy.parameters() if p.requires_grad],
            lr=config.lr,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_eps,
            weight_decay=config.weight_decay,
            fused=True,
        )
        rounded = self._rounded_weights(policy)
        buffers = {name: buffer.clone() for name, buffer in policy.named_buffers()}
        self._engine = start_engine(policy, options, configuration(options, policy, stage=self._stage), self._adam)
        self._state = deepspeed_state.ZeroState(self._engine, self._adam)
        self._state.set_masters(rounded)
        # DeepSpeed casts buffers with the parameters: rotary frequencies must not be rounded.
        for name, buffer in policy.named_buffers():
            buffer.data = buffers[name].to(buffer.device)
        self.policy = cast(Policy, self._engine)
        self._reference_engine: Any = None
        self._reference = self._start_reference(options, reference)
        self.reference = self._reference

    def _rounded_weights(self, policy: Policy) -> dict[str, Tensor]:
        """Return copies of the weights that the compute dtype cannot hold; DeepSpeed would round the masters."""
        return {
            name: parameter.detach().clone()
            for name, parameter in policy.named_parameters()
            if parameter.requires_grad and not torch.equal(parameter, parameter.to(self._dtype).to(parameter.dtype))
        }

    def _start_reference(self, options: LearnerOptions, reference: Policy | None) -> Policy | None:
        if reference is None:
            return None
        reference.requires_grad_(False).eval()
        offload = options.learner.offload_reference
        if self._stage < 3 and not offload:
            return reference.to(options.device)
        config = configuration(options, reference, stage=3, offload_parameters=offload)
        config["zero_optimization"].pop("offload_optimizer", None)
        buffers = {name: buffer.clone() for name, buffer in reference.named_buffers()}
        self._reference_engine = start_engine(reference, options, config, None)
        for name, buffer in reference.named_buffers():
            buffer.data = buffers[name].to(buffer.device)
        return cast(Policy, self._reference_engine)

    # -- one step ---------------------------------------------------------------------------------------------

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add a micro-batch to the step's gradient."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss, scale_wrt_gas=False)
        self._micro_batches += 1

    def step(self, *, denominator: float, lr: float) -> float:
        """Divide the gradient by `denominator`, clip it, update the parameters, clear the gradient."""
        if not self._micro_batches:
            return 0.0
        self._micro_batches = 0
        for group in self._adam.param_groups:
            group["lr"] = lr
        if not denominator:
            return self._drop_gradient()
        zero = self._engine.optimizer
        if hasattr(zero, "loss_scale"):
            # Stage 3 averages over the processes, the others add up.
            zero.loss_scale = denominator / (dist.get_world_size() if self._stage == 3 else 1)
        else:
            # The optimizer of stage 1 in bfloat16 has no loss scale.
            for gradient in zero.fp32_groups_gradients_flat:
                gradient.div_(denominator)
        self._engine.step()
        if hasattr(zero, "loss_scale"):
            zero.loss_scale = 1.0
        if zero.overflow:
            self._forget_gradient()
        return float(self._engine.get_global_grad_norm())

    def _drop_gradient(self) -> float:
        self._adam.suspended = True
        self._engine.step()
        self._adam.suspended = False
        return 0.0

    def _forget_gradient(self) -> None:
        """Finish what a skipped step leaves undone.

        With an offloaded optimizer, stages 1 and 2 of DeepSpeed 0.19.8 would add later gradients to the non-finite one.
        """
        if self._stage < 3:
            gradients = getattr(self._engine.optimizer, "averaged_gradients", {})
            gradients.update(dict.fromkeys(gradients))

    def release(self) -> None:
        """Let go of gathered parameters after a forward pass without a backward pass."""
        if self._stage == 3:
            self._engine.optimizer.empty_partition_cache()
        if self._reference_engine is not None:
            self._reference_engine.optimizer.empty_partition_cache()

    @torch.no_grad()
    def refresh_reference(self) -> None:
        """Make the reference equal to the policy."""
        if self._reference is None:
            return
        self.release()
        targets = self._reference.parameters()
        for source, target in zip(self._engine.module.parameters(), targets, strict=True):
            if not hasattr(target, "ds_tensor"):
                target.copy_(source)
                continue
            start = dist.get_rank() * target.ds_tensor.numel()
            whole = source.ds_tensor if hasattr(source, "ds_tensor") else source.flatten()[start:]
            run = whole[: target.ds_tensor.numel()]
            target.ds_tensor[: run.numel()].copy_(run)

    # -- weights and checkpoints ------------------------------------------------------------------------------

    def weights(self) -> WeightSource:
        """Return the policy's parameters by their Hugging Face names, in the compute dtype."""
        causal_lm = self._engine.module.causal_lm
        if self._stage == 3:
            return ZeroWeightSource(self._engine, causal_lm, dtype=self._dtype)
        return ModuleWeightSource(causal_lm, dtype=self._dtype)

    def save(self, directory: str) -> None:
        """Write parameters, optimizer and reference, sharded, under `directory`."""
        deepspeed_state.save(directory, self._state, self._reference_module)

    def load(self, directory: str) -> None:
        """Restore what `save` wrote, on any number of processes; `CheckpointError` says what is wrong with it."""
        self.release()
        deepspeed_state.load(directory, self._state, self._reference_module)
        self._micro_batches = 0

    @property
    def _reference_module(self) -> Policy | None:
        return self._reference if self._reference_engine is None else self._reference_engine.module
