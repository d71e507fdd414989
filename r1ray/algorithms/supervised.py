"""Losses from examples instead of rewards: imitation, and preferences between completions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid


def cross_entropy_loss(logprobs: Tensor) -> Tensor:
    """Return the negative log-likelihood of each completion token: supervised fine-tuning.

    Args:
        logprobs: [N] float of the completion tokens; prompts are not trained on.

    Returns:
        [N] float.
    """
    return -logprobs


def bradley_terry_loss(chosen: Tensor, rejected: Tensor, *, margin: Tensor | None = None) -> Tensor:
    """Return the pairwise loss of a reward model: -log sigmoid(chosen - rejected - margin).

    Args:
        chosen: [B] float, scores of the preferred completions.
        rejected: [B] float, scores of the others.
        margin: [B] float, by how much the preference is stronger than a bare one; None: 0.

    Returns:
        [B] float.

    Source: arXiv:2203.02155 eq. 1; the margin, arXiv:2307.09288.
    """
    difference = chosen - rejected
    return -logsigmoid(difference if margin is None else difference - margin)


def pointwise_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the binary cross-entropy of a reward model that judges completions one by one.

    Args:
        scores: [B] float, logits.
        labels: [B] float in [0, 1]: 1 for a good (safe) completion.

    Returns:
        [B] float.

    Source: the safety reward model of DeepSeek-R1, arXiv:2501.12948 v2.
    """
    return binary_cross_entropy_with_logits(scores, labels.to(scores.dtype), reduction="none")


class DpoLoss(NamedTuple):
    """The loss of B pairs and what the policy implicitly pays for each completion.

    Attributes:
        loss: [B] float.
        chosen_rewards: [B] float without gradient.
        rejected_rewards: [B] float without gradient.
    """

    loss: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor


def dpo_loss(
    chosen_logprobs: Tensor,
    rejected_logprobs: Tensor,
    ref_chosen_logprobs: Tensor,
    ref_rejected_logprobs: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> DpoLoss:
    """Return the loss of direct preference optimization.

        margin = (chosen - ref_chosen) - (rejected - ref_rejected)
        loss   = -(1 - e) * log sigmoid(beta * margin) - e * log sigmoid(-beta * margin)

    Args:
        chosen_logprobs: [B] float, summed over the tokens of each preferred completion; policy.
        rejected_logprobs: [B] float, of the other completion.
        ref_chosen_logprobs: [B] float, reference.
        ref_rejected_logprobs: [B] float, reference.
        beta: strength of the tie to the reference.
        label_smoothing: e, the share of preferences that are wrong.

    Source: DPO, arXiv:2305.18290 eq. 7; smoothing, E. Mitchell, "A note on DPO with noisy preferences", 2023.
    """
    chosen, rejected = chosen_logprobs - ref_chosen_logprobs, rejected_logprobs - ref_rejected_logprobs
    margin = beta * (chosen - rejected)
    loss = -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)
    with torch.no_grad():
        return DpoLoss(loss, beta * chosen, beta * rejected)
