"""Estimates of KL(policy || reference) from the log-probabilities of sampled tokens.

An estimate whose mean is the KL divergence need not be one whose gradient's mean is the KL's gradient, because the
tokens themselves depend on the policy. On tokens of the current policy:

    estimator     value        gradient as a term of the loss
    k1            right        0 on average: it only adds noise. For rewards
    k2            biased       right, where tokens come from the current policy
    k3            right        that of KL(reference || policy), the other way round
    weighted_k3   right        right, also for tokens of the old policy
"""

from typing import Literal

import torch
from torch import Tensor

from r1ray.algorithms.ratios import MAX_LOG_RATIO, bounded_ratio

KlEstimator = Literal["k1", "k2", "k3", "weighted_k3"]


def k1_kl(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Estimate the KL divergence per token by the log ratio; right on average, but often negative.

        k1 = logprobs - ref

    Args:
        logprobs: [N] float, current policy.
        ref_logprobs: [N] float, reference policy.

    Returns:
        [N] float.

    Source: J. Schulman, "Approximating KL divergence", 2020.
    """
    return logprobs - ref_logprobs


def k2_kl(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Estimate the KL divergence per token by half the squared log ratio, for its gradient.

        k2 = (logprobs - ref)^2 / 2

    Args:
        logprobs: [N] float, current policy.
        ref_logprobs: [N] float, reference policy.

    Returns:
        [N] float, never negative.

    Source: J. Schulman, "Approximating KL divergence", 2020.
    """
    return 0.5 * (logprobs - ref_logprobs) ** 2


def k3_kl(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Estimate the KL divergence per token; right on average, never negative, of low variance.

        k3 = exp(ref - logprobs) - (ref - logprobs) - 1

    Args:
        logprobs: [N] float, current policy.
        ref_logprobs: [N] float, reference policy.

    Returns:
        [N] float. Log ratios above 20 count as 20 and carry no gradient: their exponential would drown the step.

    Source: arXiv:2402.03300 eq. 4; J. Schulman, "Approximating KL divergence", 2020.
    """
    log_ratio = (ref_logprobs - logprobs).clamp(max=MAX_LOG_RATIO)
    return torch.expm1(log_ratio) - log_ratio


def weighted_k3_kl(logprobs: Tensor, ref_logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """Estimate the KL divergence per token from tokens of the old policy, with an unbiased gradient.

        exp(logprobs - old) * k3      the ratio carries its gradient

    Args:
        logprobs: [N] float, current policy.
        ref_logprobs: [N] float, reference policy.
        old_logprobs: [N] float, the policy that the tokens come from: the learner's at the start of the update.

    Returns:
        [N] float, never negative.

    Source: DeepSeek-V3.2, arXiv:2512.02556, eq. 7.
    """
    return bounded_ratio(logprobs - old_logprobs) * k3_kl(logprobs, ref_logprobs)


def kl_estimate(kind: KlEstimator, *, logprobs: Tensor, ref_logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """Estimate the KL divergence per token, [N], by the estimator named `kind`; only weighted_k3 looks at `old`."""
    match kind:
        case "k1":
            return k1_kl(logprobs, ref_logprobs)
        case "k2":
            return k2_kl(logprobs, ref_logprobs)
        case "k3":
            return k3_kl(logprobs, ref_logprobs)
        case "weighted_k3":
            return weighted_k3_kl(logprobs, ref_logprobs, old_logprobs)
