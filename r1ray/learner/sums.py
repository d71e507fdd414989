"""What one optimizer step adds up over micro-batches and processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from r1ray.learner.micro_batch import MicroBatch
from r1ray.learner.packing import Bundle

# By name; the same names on every process.
Sums = dict[str, float | Tensor]
_PACKING = ("tokens", "packed_tokens", "attention_slots", "capacity", "model_flops")


class StepSums:
    """Running sums of one step on one process."""

    def __init__(self, *, capacity_tokens: int) -> None:
        """Start at zero; `capacity_tokens` is what a micro-batch could hold."""
        self.totals: Sums = dict.fromkeys(_PACKING, 0.0)
        self._capacity_tokens = capacity_tokens

    def add(self, sums: Mapping[str, float | Tensor]) -> None:
        """Add the sums of a micro-batch."""
        for name, value in sums.items():
            self.totals[name] = self.totals.get(name, 0.0) + value

    def add_packing(self, bundles: Sequence[Bundle], batch: MicroBatch, *, flops: float) -> None:
        """Count what a micro-batch computes: tokens with prompts once, with prompts each time, attention slots."""
        if not bundles:
            return
        self.add(
            {
                "packed_tokens": float(sum(b.tokens for b in bundles)),
                "attention_slots": float(batch.layout.slots),
                "capacity": float(self._capacity_tokens),
                "tokens": float(sum(len(s.prompt_ids) + len(s.completion_ids) for b in bundles for s in b.samples)),
                "model_flops": flops,
            }
        )

    def reduced(self, device: torch.device, *, num_copies: int = 1) -> dict[str, float]:
        """Return the sums over all processes, of which `num_copies` each have counted the same samples."""
        names = sorted(self.totals)
        values = torch.tensor([float(self.totals[name]) for name in names], dtype=torch.float64, device=device)
        dist.all_reduce(values)
        values /= num_copies
        # A step without any samples has no sums but those of packing: what is missing is 0.
        return defaultdict(float, zip(names, values.tolist(), strict=True))


def packing_metrics(sums: Mapping[str, float]) -> dict[str, float]:
    """Turn the sums of `add_packing` into metrics."""
    metrics = {
        "learner/tokens": sums["tokens"],
        "learner/computed_tokens": sums["packed_tokens"],
        "learner/model_flops": sums["model_flops"],
    }
    if sums["attention_slots"]:
        metrics["learner/packing_efficiency"] = sums["packed_tokens"] / sums["attention_slots"]
        metrics["learner/micro_batch_fill"] = sums["packed_tokens"] / sums["capacity"]
    return metrics
