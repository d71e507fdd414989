"""Policy losses of the GRPO family, per token.

Tokens of B completions lie flat, [N]; `sample_index` says whose each is. All tokens of a completion must be in the same
call, else any layout and any split gives the same numbers. The sum over tokens times `aggregation.token_weights`,
divided by a denominator over the global batch, is the loss.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from r1ray.algorithms.segments import completion_means

PolicyLossKind = Literal["clipped", "gspo", "cispo", "gmpo", "sapo", "reinforce"]


class TokenLoss(NamedTuple):
    """The loss of each token.

    Attributes:
        loss: [N] float.
        clipped: [N] bool, tokens on whose ratio a bound acts.
    """

    loss: Tensor
    clipped: Tensor


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
    """Compute the named loss; the arguments are those of the functions below, each taking what it needs."""
    if kind == "reinforce":
        return reinforce_policy_loss(logprobs, advantages)
    if kind == "clipped":
        return clipped_policy_loss(
            logprobs, old_logprobs, advantages, clip_low=clip_low, clip_high=clip_high, clip_delta=clip_delta
        )
    if kind == "cispo":
        return cispo_policy_loss(logprobs, old_logprobs, advantages, clip_low=clip_low, clip_high=clip_high)
    if kind == "sapo":
        return sapo_policy_loss(
            logprobs,
            old_logprobs,
            advantages,
            temperature_positive=gate_temperature_positive,
            temperature_negative=gate_temperature_negative,
        )
    of_sequences = gspo_policy_loss if kind == "gspo" else gmpo_policy_loss
    return of_sequences(
        logprobs, old_logprobs, advantages, sample_index, num_samples, clip_low=clip_low, clip_high=clip_high
    )


def clipped_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    clip_delta: float | None = None,
) -> TokenLoss:
    """Compute the clipped surrogate of PPO and GRPO, negated so that it is minimised.

        ratio = exp(logprobs - old_logprobs)
        loss  = -min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A)

    With `clip_delta` the ratio of tokens with A < 0 is capped at it first, which bounds the loss where the
    lower clip cannot (two-sided clip).

    Args:
        logprobs: [N] float, current policy; carries the gradient.
        old_logprobs: [N] float, the learner's at the start of the update.
        advantages: [N] float, the same for all tokens of a completion.
        clip_low: width of the clip below 1.
        clip_high: width of the clip above 1.
        clip_delta: cap above 1 + clip_high for negative advantages, or None.

    Returns:
        The loss; clipped are tokens whose gradient the clip or the cap has cut.

    Source: arXiv:1707.06347; arXiv:2402.03300 eq. 3; the cap, arXiv:1912.09729 and INTELLECT-2, arXiv:2505.07291.
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
    return TokenLoss(loss, _cut(ratio, advantages, 1 - clip_low, 1 + clip_high) | capped)


def gspo_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    sample_index: Tensor,
    num_samples: int,
    *,
    clip_low: float,
    clip_high: float,
) -> TokenLoss:
    """Compute the clipped surrogate of the sequence's ratio, the geometric mean of its tokens' ratios.

        s_i     = exp(mean_t(logprobs - old_logprobs))
        s_i,t   = sg(s_i) * exp(logprobs - sg(logprobs))
        loss    = -min(s_i,t * A, clip(s_i,t, 1 - clip_low, 1 + clip_high) * A)

    Its mean over the tokens of a completion has value and gradient of the loss of the sequence, so the aggregation that
    gives the paper's objective is `sequence`.

    Args:
        logprobs: [N] float, current policy; carries the gradient.
        old_logprobs: [N] float.
        advantages: [N] float.
        sample_index: [N] int64.
        num_samples: B.
        clip_low: width of the clip below 1; the paper has 3e-4.
        clip_high: width of the clip above 1; the paper has 4e-4.

    Returns:
        The loss; clipped are all tokens of completions whose gradient the clip has cut.

    Source: GSPO, arXiv:2507.18071 eq. 5 and 14.
    """
    means = completion_means((logprobs - old_logprobs).detach(), sample_index, num_samples)
    ratio = torch.exp(means)[sample_index] * torch.exp(logprobs - logprobs.detach())
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = -torch.minimum(ratio * advantages, bounded * advantages)
    return TokenLoss(loss, _cut(ratio, advantages, 1 - clip_low, 1 + clip_high))


def cispo_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> TokenLoss:
    """Weigh REINFORCE by a clipped ratio without gradient: no token loses its gradient.

        loss = -sg(clip(ratio, 1 - clip_low, 1 + clip_high)) * A * logprobs

    Args:
        logprobs: [N] float, current policy; carries the gradient.
        old_logprobs: [N] float.
        advantages: [N] float.
        clip_low: width below 1; 1 leaves the ratio free below, as the papers do.
        clip_high: width above 1.

    Returns:
        The loss; clipped are tokens whose weight a bound has changed.

    Source: MiniMax-M1, arXiv:2506.13585 eq. 4; ScaleRL, arXiv:2510.13786.
    """
    ratio = torch.exp(logprobs - old_logprobs).detach()
    weight = ratio.clamp(1 - clip_low, 1 + clip_high)
    return TokenLoss(-weight * advantages * logprobs, weight != ratio)


def gmpo_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    sample_index: Tensor,
    num_samples: int,
    *,
    clip_low: float,
    clip_high: float,
) -> TokenLoss:
    """Maximise the geometric mean of a completion's clipped token ratios.

        l_t  = min(log_ratio, clip_high) where A > 0, max(log_ratio, -clip_low) where A < 0
        loss = -A * exp(mean_t(l_t)), the same for every token

    The aggregation that gives the paper's objective is `sequence`.

    Args:
        logprobs: [N] float, current policy; carries the gradient.
        old_logprobs: [N] float.
        advantages: [N] float.
        sample_index: [N] int64.
        num_samples: B.
        clip_low: bound of the log ratio below; the paper has 0.4.
        clip_high: bound of the log ratio above; the paper has 0.4.

    Returns:
        The loss; clipped are tokens whose gradient the clip has cut.

    Source: GMPO, arXiv:2507.20673.
    """
    log_ratio = logprobs - old_logprobs
    clipped = ((advantages > 0) & (log_ratio > clip_high)) | ((advantages < 0) & (log_ratio < -clip_low))
    bounded = torch.where(advantages < 0, log_ratio.clamp(min=-clip_low), log_ratio.clamp(max=clip_high))
    means = torch.exp(completion_means(bounded, sample_index, num_samples))
    return TokenLoss(-advantages * means[sample_index], clipped)


def sapo_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    temperature_positive: float,
    temperature_negative: float,
) -> TokenLoss:
    """Weigh the ratio by a soft gate that fades a token's gradient the farther its ratio is from 1.

        loss = -sigmoid(tau * (ratio - 1)) * 4 / tau * A,     tau by the sign of A

    Args:
        logprobs: [N] float, current policy; carries the gradient.
        old_logprobs: [N] float.
        advantages: [N] float.
        temperature_positive: tau where A > 0; the paper has 1.
        temperature_negative: tau elsewhere; the paper has 1.05.

    Returns:
        The loss; nothing is clipped.

    Source: SAPO, arXiv:2511.20347.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    temperature = torch.where(advantages > 0, temperature_positive, temperature_negative).to(ratio.dtype)
    gate = torch.sigmoid(temperature * (ratio - 1)) * 4 / temperature
    return TokenLoss(-gate * advantages, torch.zeros_like(advantages, dtype=torch.bool))


def reinforce_policy_loss(logprobs: Tensor, advantages: Tensor) -> TokenLoss:
    """Return -A * logprobs, the plain policy gradient.

    Args:
        logprobs: [N] float, current policy; carries the gradient.
        advantages: [N] float.

    Source: R. J. Williams, 1992; for language models, arXiv:2402.14740.
    """
    return TokenLoss(-advantages * logprobs, torch.zeros_like(advantages, dtype=torch.bool))


def _cut(ratio: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """Say which tokens the minimum of the surrogate leaves without gradient."""
    return ((advantages > 0) & (ratio > high)) | ((advantages < 0) & (ratio < low))
