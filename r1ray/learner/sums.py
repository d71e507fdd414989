"""What one optimizer step adds up over micro-batches and processes, and the metrics made of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from r1ray.learner.micro_batch import MicroBatch
from r1ray.learner.objective import MicroBatchLoss
from r1ray.learner.packing import Bundle

NAMES = (
    "trained_tokens",
    "trained_completions",
    "trained_prompts",
    "weighted_policy_loss",
    "kl",
    "entropy",
    "clipped",
    "importance",
    "mismatch",
    "mismatch_tokens",
    "staleness",
    "tokens",
    "packed_tokens",
    "attention_slots",
    "capacity",
    "model_flops",
)


class StepSums:
    """Running sums of one step on one process."""

    def __init__(self, *, capacity_tokens: int) -> None:
        """Start at zero; `capacity_tokens` is what a micro-batch could hold."""
        self.totals: dict[str, float | Tensor] = dict.fromkeys(NAMES, 0.0)
        self._capacity_tokens = capacity_tokens

    def _add(self, name: str, value: float | Tensor) -> None:
        self.totals[name] = self.totals[name] + value

    def add_packing(self, bundles: Sequence[Bundle], batch: MicroBatch, *, flops: float) -> None:
        """Count what a micro-batch computes: tokens with prompts once, with prompts each time, attention slots."""
        self._add("packed_tokens", float(sum(b.tokens for b in bundles)))
        self._add("attention_slots", float(batch.layout.slots if bundles else 0))
        self._add("capacity", float(self._capacity_tokens if bundles else 0))
        self._add("tokens", float(sum(len(s.prompt_ids) + len(s.completion_ids) for b in bundles for s in b.samples)))
        self._add("model_flops", flops if bundles else 0.0)

    @torch.no_grad()
    def add_losses(self, batch: MicroBatch, loss: MicroBatchLoss, *, rollout_version: int, policy_version: int) -> None:
        """Add the statistics of one micro-batch."""
        trained = batch.trained[batch.sample_index].double()
        same_version = (batch.policy_versions == rollout_version).double()
        difference = (batch.rollout_logprobs - loss.old_logprobs).abs().double()
        for name, value in {
            "trained_tokens": trained,
            # Each token's share of its prompt: they add up to the number of prompts.
            "trained_prompts": trained / batch.group_tokens.clamp(min=1)[batch.sample_index],
            "weighted_policy_loss": (loss.policy_loss * loss.weight).double(),
            "kl": loss.kl.double() * trained,
            "entropy": loss.entropy.double() * trained,
            "clipped": loss.clipped.double() * trained,
            "importance": loss.importance.double() * trained,
            "mismatch": difference * same_version,
            "mismatch_tokens": same_version,
            "staleness": (policy_version - batch.policy_versions).double() * trained,
        }.items():
            self._add(name, value.sum())
        self._add("trained_completions", batch.trained.double().sum())

    def reduced(self, device: torch.device, *, num_copies: int = 1) -> dict[str, float]:
        """Return the sums over all processes, of which `num_copies` each have counted the same samples."""
        values = torch.tensor([float(self.totals[name]) for name in NAMES], dtype=torch.float64, device=device)
        dist.all_reduce(values)
        values /= num_copies
        return dict(zip(NAMES, values.tolist(), strict=True))

    @staticmethod
    def metrics(sums: dict[str, float], *, denominator: float, has_reference: bool) -> dict[str, float]:
        """Turn sums into metrics; what was not observed is left out."""
        metrics = {
            "learner/tokens": sums["tokens"],
            "learner/computed_tokens": sums["packed_tokens"],
            "learner/model_flops": sums["model_flops"],
        }
        if sums["attention_slots"]:
            metrics["learner/packing_efficiency"] = sums["packed_tokens"] / sums["attention_slots"]
            metrics["learner/micro_batch_fill"] = sums["packed_tokens"] / sums["capacity"]
        if sums["mismatch_tokens"]:
            metrics["train/logprob_mismatch"] = sums["mismatch"] / sums["mismatch_tokens"]
        tokens = sums["trained_tokens"]
        if not tokens:
            return metrics
        means = {
            "train/entropy": "entropy",
            "train/clip_fraction": "clipped",
            "train/importance_weight_mean": "importance",
            "train/staleness_mean_steps": "staleness",
            **({"train/kl": "kl"} if has_reference else {}),
        }
        metrics |= {name: sums[key] / tokens for name, key in means.items()}
        metrics["train/policy_loss"] = sums["weighted_policy_loss"] / denominator
        return metrics
