"""Weights for the mismatch between the engine that sampled the tokens and the learner that trains on them."""

from typing import Literal

import torch
from torch import Tensor

from r1ray.algorithms.ratios import bounded_ratio, mean_per_sample, sum_per_sample

ImportanceCorrection = Literal["none", "truncate", "mask"]
ImportanceLevel = Literal["token", "sequence", "geometric"]


def importance_weights(
    old_logprobs: Tensor,
    rollout_logprobs: Tensor,
    sample_index: Tensor,
    num_samples: int,
    *,
    correction: ImportanceCorrection,
    level: ImportanceLevel,
    cap: float,
    floor: float,
) -> Tensor:
    """Weigh tokens by how much likelier the learner finds them than the engine that sampled them.

        w = exp(old - rollout)                           level token
        w = exp(sum over the sequence of old - rollout)  level sequence
        w = exp(mean ...)                                level geometric

        none: 1      truncate: min(w, cap)      mask: w if floor <= w <= cap, else 0

    Only `sequence` is unbiased (before it is bounded), with a variance that grows with the length; `token` leaves out
    what earlier tokens change, `geometric` does not depend on the length and is meant for `mask`.

    Args:
        old_logprobs: [N] float, the learner's at the start of the update.
        rollout_logprobs: [N] float, as the engine reported them.
        sample_index: [N] int64, completion of each token.
        num_samples: completions, all of whose tokens are in the call.
        correction: what becomes of the weights.
        level: what they are taken over.
        cap: upper bound, below exp(20).
        floor: lower bound, for `mask` only.

    Returns:
        [N] in the dtype of `old_logprobs`, finite, without gradient.

    Source: truncated, F. Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", 2025;
    masked per token, IcePop, Ling Team 2025; masked per sequence, J. Liu, Y. Li et al., "When Speed Kills
    Stability", 2025.
    """
    with torch.no_grad():
        if correction == "none":
            return torch.ones_like(old_logprobs)
        log_weights = old_logprobs - rollout_logprobs
        if level == "sequence":
            log_weights = sum_per_sample(log_weights, sample_index, num_samples)[sample_index]
        elif level == "geometric":
            log_weights = mean_per_sample(log_weights, sample_index, num_samples)[sample_index]
        weights = bounded_ratio(log_weights)
        if correction == "truncate":
            return weights.clamp(max=cap)
        return torch.where((weights >= floor) & (weights <= cap), weights, torch.zeros_like(weights))
