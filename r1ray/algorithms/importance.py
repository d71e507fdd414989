"""Weights for tokens that learner and rollout engine find differently likely.

The engine samples with other kernels, another precision and, with `max_staleness_steps`, older weights than the learner
trains with.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from r1ray.algorithms.segments import completion_means, completion_sums

ImportanceCorrection = Literal["none", "truncate", "mask"]
ImportanceLevel = Literal["token", "sequence", "geometric"]

# Of sums over a sequence, so that they do not overflow; every cap is far below exp of it.
MAX_LOG_RATIO = 60.0


@torch.no_grad()
def importance_weights(
    old_logprobs: Tensor,
    rollout_logprobs: Tensor,
    sample_index: Tensor,
    num_samples: int,
    *,
    correction: ImportanceCorrection,
    level: ImportanceLevel,
    cap: float,
    floor: float = 0.0,
) -> Tensor:
    """Weigh tokens by how much likelier the learner finds them than the engine that sampled them.

        w        = exp(old - rollout); of the sequence: the product of its tokens' w, or their geometric mean
        truncate : min(w, cap)
        mask     : w where floor <= w <= cap, else 0

    Args:
        old_logprobs: [N] float, the learner's at the start of the update.
        rollout_logprobs: [N] float, as the engine reported them.
        sample_index: [N] int64 into the completions.
        num_samples: B.
        correction: `none` gives ones.
        level: whose ratio.
        cap: upper bound.
        floor: lower bound of `mask`.

    Returns:
        [N] float without gradient.

    Source: truncated, "Your efficient RL framework secretly brings you off-policy RL training" (F. Yao et al., 2025);
    masked, IcePop (Ring-1T, arXiv:2510.18855) and, per sequence, "When speed kills stability" (J. Liu et al., 2025).
    """
    if correction == "none":
        return torch.ones_like(old_logprobs)
    log_ratio = old_logprobs - rollout_logprobs
    if level != "token":
        reduce = completion_sums if level == "sequence" else completion_means
        log_ratio = reduce(log_ratio, sample_index, num_samples)[sample_index]
    weights = torch.exp(log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
    if correction == "truncate":
        return weights.clamp(max=cap)
    return torch.where((weights >= floor) & (weights <= cap), weights, torch.zeros_like(weights))
