"""Policy losses per token: the clipped surrogate and its relatives, negated so that they are minimised.

Tokens are flat: [N] log-probabilities and advantages, and `sample_index` [N] says which of `num_samples` completions
each belongs to, of which all tokens must be in the call. Losses of whole sequences (gspo, gmpo) are spread over
their tokens such that the mean over a completion's tokens is the sequence's loss, in value and gradient; what weighs
tokens stands in `aggregation`.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from r1ray.algorithms.ratios import MAX_LOG_RATIO, bounded_ratio, mean_per_sample

PolicyLossKind = Literal["clipped", "gspo", "cispo", "gmpo", "sapo", "reinforce"]


class TokenLoss(NamedTuple):
    """Loss of each token, [N] float, and whether a clip has cut its gradient (cispo: bounded it), [N] bool."""

    loss: Tensor
    clipped: Tensor


def clipped_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    clip_delta: float | None = None,
) -> TokenLoss:
    """Compute the clipped surrogate of PPO and GRPO.

        ratio = exp(logprobs - old_logprobs)
        loss  = -min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A)

    With `clip_delta` the ratio of tokens with A < 0 is capped at it first, which bounds the loss where the
    lower clip cannot (two-sided clip).

    Args:
        logprobs: [N] float, current policy; carries the gradient.
        old_logprobs: [N] float, the learner's at the start of the update.
        advantages: [N] float, that of each token's completion.
        clip_low: width of the clip below 1.
        clip_high: width of the clip above 1.
        clip_delta: cap above 1 + clip_high for negative advantages, or None.

    Returns:
        loss and clipped, [N].

    Source: arXiv:1707.06347; arXiv:2402.03300 eq. 3; the cap, arXiv:1912.09729 and INTELLECT-2, arXiv:2505.07291.
    """
    return _clipped_surrogate(logprobs - old_logprobs, advantages, clip_low, clip_high, clip_delta)


def gspo_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    sample_index: Tensor,
    num_samples: int,
    clip_low: float,
    clip_high: float,
) -> TokenLoss:
    """Clip whole sequences by the geometric mean of their tokens' ratios.

        s    = exp(mean over the sequence of logprobs - old_logprobs)
        s_t  = sg(s) * exp(logprobs_t - sg(logprobs_t))      equal to s; sg: without gradient
        loss = -min(s_t * A, clip(s_t, 1 - clip_low, 1 + clip_high) * A)

    This token form has the value and, where the tokens of a sequence weigh the same, the gradient of the sequence
    form.

    Args:
        logprobs: [N] float, current policy; carries the gradient.
        old_logprobs: [N] float, the learner's at the start of the update.
        advantages: [N] float, that of each token's completion.
        sample_index: [N] int64, completion of each token.
        num_samples: completions.
        clip_low: width of the clip below 1, of the order of 1e-4.
        clip_high: width of the clip above 1, of the order of 1e-4.

    Returns:
        loss and clipped, [N], clipped alike for all tokens of a sequence.

    Source: GSPO and its token form GSPO-token, arXiv:2507.18071.
    """
    means = mean_per_sample((logprobs - old_logprobs).detach(), sample_index, num_samples)
    log_ratio = means[sample_index] + (logprobs - logprobs.detach())
    return _clipped_surrogate(log_ratio, advantages, clip_low, clip_high, None)


def cispo_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> TokenLoss:
    """Weigh the policy gradient by the clipped ratio, so that no token is without gradient.

        loss = -sg(clip(ratio, 1 - clip_low, 1 + clip_high)) * A * logprobs      sg: without gradient

    MiniMax-M1 and ScaleRL bound the ratio from above only: clip_low = 1. ScaleRL's cap is 1 + clip_high.

    Args:
        logprobs: [N] float, current policy; carries the gradient.
        old_logprobs: [N] float, the learner's at the start of the update.
        advantages: [N] float, that of each token's completion.
        clip_low: width of the clip below 1; 1 or more switches it off.
        clip_high: width of the clip above 1.

    Returns:
        loss, and clipped: tokens whose weight, and so their gradient, is bounded but not cut, [N].

    Source: CISPO, MiniMax-M1, arXiv:2506.13585, eq. 4 and 5; ScaleRL, arXiv:2510.13786.
    """
    ratio = bounded_ratio((logprobs - old_logprobs).detach())
    weight = ratio.clamp(1 - clip_low, 1 + clip_high)
    return TokenLoss(-weight * advantages * logprobs, weight != ratio)


def gmpo_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    sample_index: Tensor,
    num_samples: int,
    clip_low: float,
    clip_high: float,
) -> TokenLoss:
    """Clip tokens, then take the geometric mean of their ratios as that of the sequence.

        l_t  = min(logprobs_t - old_logprobs_t, clip_high) if A > 0, else max(.., -clip_low)
        loss = -A * exp(mean over the sequence of l)

    spread over the tokens as g * exp(l_t - sg(l_t)), g = sg(exp(mean l)), which has the paper's value and gradient
    where completions are averaged over their tokens (`sequence` aggregation).

    Args:
        logprobs: [N] float, current policy; carries the gradient.
        old_logprobs: [N] float, the learner's at the start of the update.
        advantages: [N] float, that of each token's completion.
        sample_index: [N] int64, completion of each token.
        num_samples: completions.
        clip_low: bound of the logarithm of the ratio below 0.
        clip_high: bound of the logarithm of the ratio above 0.

    Returns:
        loss and clipped, [N].

    Source: GMPO, arXiv:2507.20673, eq. 4.
    """
    log_ratio = logprobs - old_logprobs
    positive, negative = advantages > 0, advantages < 0
    bounded = torch.where(positive, log_ratio.clamp(max=clip_high), log_ratio.clamp(min=-clip_low))
    means = mean_per_sample(bounded.detach(), sample_index, num_samples)
    spread = means[sample_index] + (bounded - bounded.detach())
    clipped = (positive & (log_ratio > clip_high)) | (negative & (log_ratio < -clip_low)) | (spread > MAX_LOG_RATIO)
    return TokenLoss(-advantages * bounded_ratio(spread), clipped)


def sapo_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    gate_temperature_positive: float,
    gate_temperature_negative: float,
) -> TokenLoss:
    """Let a soft gate weaken tokens the more, the further their ratio is from 1.

        loss = -4 / tau * sigmoid(tau * (ratio - 1)) * A      tau by the sign of A; the gradient at ratio 1 is A

    Args:
        logprobs: [N] float, current policy; carries the gradient.
        old_logprobs: [N] float, the learner's at the start of the update.
        advantages: [N] float, that of each token's completion.
        gate_temperature_positive: tau where A > 0.
        gate_temperature_negative: tau where A <= 0; higher, as the gradients of these spread over the vocabulary.

    Returns:
        loss and clipped, [N]; no token is clipped.

    Source: SAPO, arXiv:2511.20347, eq. 5 and 6.
    """
    ratio = bounded_ratio(logprobs - old_logprobs)
    temperature = torch.where(
        advantages > 0,
        torch.full_like(advantages, gate_temperature_positive),
        torch.full_like(advantages, gate_temperature_negative),
    )
    gate = torch.sigmoid(temperature * (ratio - 1)) * 4 / temperature
    return TokenLoss(-gate * advantages, torch.zeros_like(advantages, dtype=torch.bool))


def reinforce_policy_loss(logprobs: Tensor, advantages: Tensor) -> TokenLoss:
    """Compute the plain policy gradient, -A * logprobs: right only for completions of the current policy.

    Args:
        logprobs: [N] float, current policy; carries the gradient.
        advantages: [N] float, that of each token's completion.

    Returns:
        loss and clipped, [N]; no token is clipped.

    Source: REINFORCE, Williams 1992; with leave-one-out advantages RLOO, arXiv:2402.14740.
    """
    return TokenLoss(-advantages * logprobs, torch.zeros_like(advantages, dtype=torch.bool))


def policy_loss(
    kind: PolicyLossKind,
    *,
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    sample_index: Tensor,
    num_samples: int,
    clip_low: float,
    clip_high: float,
    clip_delta: float | None,
    gate_temperature_positive: float,
    gate_temperature_negative: float,
) -> TokenLoss:
    """Compute the policy loss named `kind`; each takes the arguments that it knows and leaves the others."""
    tokens = (logprobs, old_logprobs, advantages)
    match kind:
        case "clipped":
            return clipped_policy_loss(*tokens, clip_low=clip_low, clip_high=clip_high, clip_delta=clip_delta)
        case "gspo" | "gmpo":
            by_sequence = gspo_policy_loss if kind == "gspo" else gmpo_policy_loss
            return by_sequence(
                *tokens, sample_index=sample_index, num_samples=num_samples, clip_low=clip_low, clip_high=clip_high
            )
        case "cispo":
            return cispo_policy_loss(*tokens, clip_low=clip_low, clip_high=clip_high)
        case "sapo":
            return sapo_policy_loss(
                *tokens,
                gate_temperature_positive=gate_temperature_positive,
                gate_temperature_negative=gate_temperature_negative,
            )
        case "reinforce":
            return reinforce_policy_loss(logprobs, advantages)


def _clipped_surrogate(
    log_ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float, clip_delta: float | None
) -> TokenLoss:
    ratio = bounded_ratio(log_ratio)
    negative = advantages < 0
    surrogate, capped = ratio, negative & (log_ratio > MAX_LOG_RATIO)
    if clip_delta is not None:
        capped = negative & (ratio > clip_delta)
        surrogate = torch.where(negative, ratio.clamp(max=clip_delta), ratio)
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = -torch.minimum(surrogate * advantages, bounded * advantages)
    clipped = ((advantages > 0) & (ratio > 1 + clip_high)) | (negative & (ratio < 1 - clip_low)) | capped
    return TokenLoss(loss, clipped)
