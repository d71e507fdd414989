"""Estimators of KL(policy || reference) from sampled tokens.

All have the KL as their mean over tokens sampled from the policy (k2 nearly). As a term of the loss they differ in what
their gradient is: that of k1 is zero on average, that of k2 is the KL's, that of k3 is of another divergence, and that
of the weighted k3 is the KL's, also for tokens of an older policy (arXiv:2506.09477, arXiv:2512.02556).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

KlEstimator = Literal["k1", "k2", "k3", "weighted_k3"]

# exp of more would overflow float32 once squared; no reference is farther from its policy.
MAX_LOG_RATIO = 40.0


def kl_estimate(kind: KlEstimator, *, logprobs: Tensor, ref_logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """Estimate KL(policy || reference) per token.

        k1          = logprobs - ref
        k2          = (logprobs - ref)^2 / 2
        k3          = exp(ref - logprobs) - (ref - logprobs) - 1
        weighted_k3 = exp(logprobs - old) * k3

    Args:
        kind: which.
        logprobs: [N] float, current policy.
        ref_logprobs: [N] float, reference policy.
        old_logprobs: [N] float, the learner's at the start of the update; used by `weighted_k3` alone.

    Returns:
        [N] float; never negative but for k1.

    Source: J. Schulman, "Approximating KL divergence", 2020; k3 in GRPO, arXiv:2402.03300 eq. 4; weighted,
    DeepSeek-V3.2, arXiv:2512.02556.
    """
    log_ratio = (ref_logprobs - logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if kind == "k1":
        return -log_ratio
    if kind == "k2":
        return log_ratio.square() / 2
    k3 = torch.expm1(log_ratio) - log_ratio
    return k3 * torch.exp(logprobs - old_logprobs) if kind == "weighted_k3" else k3
