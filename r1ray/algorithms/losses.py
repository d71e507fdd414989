"""Per-token losses of GRPO and their weights in the whole batch.

All functions are elementwise over tokens, so any layout (padded, packed, flat) gives the same numbers; the
sum over tokens times `token_weights`, divided by a denominator over the global batch, is the loss.
"""

from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["token", "sequence", "constant"]


def clipped_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    clip_delta: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the clipped surrogate of PPO and GRPO, negated so that it is minimised.

        ratio = exp(logprobs - old_logprobs)
        loss  = -min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A)

    With `clip_delta` the ratio of tokens with A < 0 is capped at it first, which bounds the loss where the
    lower clip cannot (two-sided clip).

    Args:
        logprobs: [...] float, current policy; carries the gradient.
        old_logprobs: [...] float, the learner's at the start of the update.
        advantages: [...] float, broadcast over each completion's tokens.
        clip_low: width of the clip below 1.
        clip_high: width of the clip above 1.
        clip_delta: cap above 1 + clip_high for negative advantages, or None.

    Returns:
        loss [...] and clipped [...] bool: tokens whose gradient the clip or the cap has cut.

    Source: arXiv:1707.06347; arXiv:2402.03300 eq. 3; the cap, arXiv:1912.09729 and INTELLECT-2.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    negative = advantages < 0
    surrogate = ratio
    capped = torch.zeros_like(negative)
    if clip_delta is not None:
        capped = negative & (ratio > clip_delta)
        surrogate = torch.where(negative, ratio.clamp(max=clip_delta), ratio)
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = -torch.minimum(surrogate * advantages, bounded * advantages)
    clipped = ((advantages > 0) & (ratio > 1 + clip_high)) | (negative & (ratio < 1 - clip_low)) | capped
    return loss, clipped


def k3_kl(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Estimate KL(policy || reference) per token; never negative, unbiased under the policy.

        k3 = exp(ref - logprobs) - (ref - logprobs) - 1

    Args:
        logprobs: [...] float, current policy.
        ref_logprobs: [...] float, reference policy.

    Returns:
        [...] float.

    Source: arXiv:2402.03300 eq. 4; J. Schulman, "Approximating KL divergence", 2020.
    """
    log_ratio = ref_logprobs - logprobs
    return torch.expm1(log_ratio) - log_ratio


def truncated_importance_weights(old_logprobs: Tensor, rollout_logprobs: Tensor, *, cap: float) -> Tensor:
    """Weigh tokens by how much likelier the learner finds them than the engine that sampled them.

        w = min(exp(old - rollout), cap)

    Args:
        old_logprobs: [...] float, the learner's at the start of the update.
        rollout_logprobs: [...] float, as the engine reported them.
        cap: upper bound of the weight.

    Returns:
        [...] float without gradient.

    Source: truncated importance sampling between rollout and training engines, as vLLM and verl describe it.
    """
    return torch.exp(old_logprobs - rollout_logprobs).clamp(max=cap).detach()


def token_weights(lengths: Tensor, *, aggregation: Aggregation, max_completion_tokens: int) -> Tensor:
    """Return the weight of every token of each completion before division by `loss_denominator`.

    Args:
        lengths: [B] int, trained tokens of each completion, at least 1.
        aggregation: `token` (1), `sequence` (1 / length), `constant` (1 / max_completion_tokens).
        max_completion_tokens: the constant of Dr. GRPO.

    Returns:
        [B] float32.

    Source: `sequence`, arXiv:2402.03300 eq. 3; `token`, DAPO, arXiv:2503.14476; `constant`, arXiv:2503.20783.
    """
    if aggregation == "sequence":
        return 1.0 / lengths.float()
    weight = 1.0 if aggregation == "token" else 1.0 / max_completion_tokens
    return torch.full(lengths.shape, weight, device=lengths.device)


def loss_denominator(*, num_tokens: int, num_completions: int, aggregation: Aggregation) -> int:
    """Return what the weighted sum over the global batch is divided by: tokens or completions."""
    return num_tokens if aggregation == "token" else num_completions
