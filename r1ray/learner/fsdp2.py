"""The FSDP2 learner: GRPO steps over gloo or NCCL.

`accumulate` adds up unnormalised gradient sums, so micro-batches can come while others still generate;
`finish_step` divides by the denominator of the whole batch. Hence the update does not depend on how the
batch was split, packed or spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from r1ray.algorithms.losses import (
    clipped_policy_loss,
    k3_kl,
    loss_denominator,
    token_weights,
    truncated_importance_weights,
)
from r1ray.algorithms.schedule import learning_rate
from r1ray.learner import state
from r1ray.learner.build import build_policy, join_process_group
from r1ray.learner.packing import Bundle, MicroBatch, collate
from r1ray.learner.policy import Policy
from r1ray.learner.protocol import LearnerOptions
from r1ray.learner.sums import StepSums
from r1ray.types import TrainingSample
from r1ray.weights.protocol import WeightSender, WeightSyncClient
from r1ray.weights.senders import open_sender
from r1ray.weights.source import ModuleWeightSource


class Fsdp2Learner:
    """One of `world_size` processes that hold the sharded policy; see `learner/protocol.py`."""

    def __init__(self, options: LearnerOptions) -> None:
        """Join the group and load the model; `ModelError` or `LearnerError` say what failed."""
        self.options = options
        self.device = torch.device(options.device)
        self.mesh = join_process_group(options)
        torch.manual_seed(options.seed)
        self.policy = build_policy(options, self.mesh, trainable=True)
        uses_reference = options.algorithm.kl_coef > 0
        self.reference = build_policy(options, self.mesh, trainable=False) if uses_reference else None
        config = options.learner
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(),
            lr=config.lr,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_eps,
            weight_decay=config.weight_decay,
        )
        self.policy_version = 0
        self.sums = StepSums()
        self.sender: WeightSender | None = None

    # -- one step ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def logprobs(self, micro_batches: Sequence[Sequence[Bundle]]) -> list[list[tuple[float, ...]]]:
        """Return the policy's log-probabilities, per micro-batch and sample: [C] each."""
        results = []
        for bundles in micro_batches:
            batch = collate(bundles).to(self.device)
            logprobs, _ = self.policy(batch, self.options.temperature)
            results.append([tuple(part.tolist()) for part in logprobs.split(batch.lengths.tolist())] if bundles else [])
        self._reshard(self.policy)
        return results

    def accumulate(self, micro_batches: Sequence[Sequence[Bundle]], *, rollout_version: int) -> None:
        """Add the gradient of these micro-batches to the step under way."""
        for bundles in micro_batches:
            batch = collate(bundles).to(self.device)
            mode = "gradient" if self.options.algorithm.entropy_coef else "value"
            logprobs, entropy = self.policy(batch, self.options.temperature, entropy=mode)
            loss = self._loss(batch, logprobs, entropy, rollout_version)
            # FSDP averages gradients over processes; the sum over all of them is wanted.
            torch.autograd.backward(loss * self.options.world_size)
            self.sums.add_packing(bundles, slots=batch.layout.token_of_slot.numel())

    def _loss(self, batch: MicroBatch, logprobs: Tensor, entropy: Tensor, rollout_version: int) -> Tensor:
        """Return the weighted sum over this micro-batch's tokens, and note its statistics."""
        a = self.options.algorithm
        weights = token_weights(
            batch.lengths, aggregation=a.loss_aggregation, max_completion_tokens=self.options.max_completion_tokens
        )
        weight = (weights * batch.trained)[batch.sample_index]
        advantages = batch.advantages[batch.sample_index]
        old = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        policy_loss, clipped = clipped_policy_loss(
            logprobs, old, advantages, clip_low=a.clip_low, clip_high=a.clip_high, clip_delta=a.clip_delta
        )
        importance = torch.ones_like(old)
        if a.importance_correction == "truncate":
            importance = truncated_importance_weights(old, batch.rollout_logprobs, cap=a.importance_cap)
        per_token = policy_loss * importance
        kl = self._kl(batch, logprobs)
        objective = per_token + a.kl_coef * kl - a.entropy_coef * entropy
        self.sums.add_losses(
            batch,
            weight=weight,
            policy_loss=per_token,
            kl=kl,
            entropy=entropy,
            clipped=clipped,
            importance=importance,
            old_logprobs=old,
            rollout_version=rollout_version,
            policy_version=self.policy_version,
        )
        return (objective * weight).sum()

    def _kl(self, batch: MicroBatch, logprobs: Tensor) -> Tensor:
        if self.reference is None:
            return torch.zeros_like(logprobs)
        with torch.no_grad():
            ref_logprobs, _ = self.reference(batch, self.options.temperature)
        return k3_kl(logprobs, ref_logprobs)

    def finish_step(self) -> dict[str, float]:
        """Divide by the global denominator, clip, update; return metrics, the same on every process."""
        config, algorithm = self.options.learner, self.options.algorithm
        sums = self.sums.reduced(self.device)
        denominator = loss_denominator(
            num_tokens=int(sums["trained_tokens"]),
            num_completions=int(sums["trained_completions"]),
            aggregation=algorithm.loss_aggregation,
        )
        lr = learning_rate(
            self.policy_version,
            peak=config.lr,
            warmup_steps=config.warmup_steps,
            total_steps=self.options.total_steps,
            schedule=config.lr_schedule,
        )
        grad_norm = self._update(denominator, lr)
        metrics = StepSums.metrics(sums, denominator=denominator, has_reference=self.reference is not None)
        self.sums = StepSums()
        self.policy_version += 1
        every = algorithm.reference_refresh_steps
        if self.reference is not None and every and self.policy_version % every == 0:
            self.refresh_reference()
        return {**metrics, "train/grad_norm": grad_norm, "train/lr": lr}

    def _update(self, denominator: int, lr: float) -> float:
        """Take the optimizer step; skipped where nothing was trained on or a gradient is not finite."""
        parameters = [p for p in self.policy.parameters() if p.grad is not None]
        norm = 0.0
        if denominator and parameters:
            for parameter in parameters:
                assert parameter.grad is not None
                parameter.grad.div_(denominator)
            total = torch.nn.utils.clip_grad_norm_(parameters, self.options.learner.max_grad_norm)
            norm = float(total.full_tensor() if hasattr(total, "full_tensor") else total)
            if math.isfinite(norm):
                for group in self.optimizer.param_groups:
                    group["lr"] = lr
                self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    @torch.no_grad()
    def refresh_reference(self) -> None:
        """Make the reference model equal to the policy."""
        if self.reference is not None:
            self._reshard(self.reference)
            state.copy_parameters(source=self.policy, target=self.reference)

    @torch.no_grad()
    def score(self, token_ids: Sequence[int]) -> list[float]:
        """Return [T-1] log-probabilities of `token_ids[1:]` at temperature 1."""
        rest = tuple(token_ids[1:])
        sample = TrainingSample(
            prompt_ids=(token_ids[0],),
            completion_ids=rest,
            rollout_logprobs=(0.0,) * len(rest),
            policy_versions=(0,) * len(rest),
            advantage=0.0,
        )
        batch = collate([Bundle([sample])]).to(self.device)
        logprobs, _ = self.policy(batch, 1.0)
        self._reshard(self.policy)
        return [float(v) for v in logprobs]

    @staticmethod
    def _reshard(module: Policy) -> None:
        """Let go of gathered root parameters.

        After a backward pass FSDP2 does so itself; after a forward pass alone it keeps them, and they would
        outlive the next change of the shards.
        """
        assert isinstance(module, FSDPModule)
        module.reshard()

    # -- weights and checkpoints ------------------------------------------------------------------------------

    def connect_rollout(self, client: WeightSyncClient) -> None:
        """Open the weight-transfer channel to the rollout workers behind `client`; rank 0 sends."""
        if self.sender is not None:
            self.sender.close()
        self.sender = open_sender(
            self.options.sync_backend,
            ModuleWeightSource(self.policy.causal_lm, dtype=getattr(torch, self.options.dtype)),
            client,
            rank=self.options.rank,
            address=self.options.master_address,
            timeout_s=self.options.timeout_s,
        )
        self.sender.connect()

    def send_weights(self, policy_version: int) -> None:
        """Send the current weights to every rollout engine."""
        assert self.sender is not None, "connect_rollout comes first"
        self.sender.send(policy_version)

    def save(self, directory: str) -> None:
        """Write sharded training state and, from rank 0, the model in Hugging Face layout."""
        state.save(directory, self.policy, self.optimizer, self.reference, self.options)

    def load(self, directory: str, policy_version: int) -> None:
        """Restore what `save` wrote; world size may differ."""
        state.load(directory, self.policy, self.optimizer, self.reference)
        self.policy_version = policy_version

    def shutdown(self) -> None:
        """Leave the process groups."""
        if self.sender is not None:
            self.sender.close()
        if dist.is_initialized():
            dist.destroy_process_group()
