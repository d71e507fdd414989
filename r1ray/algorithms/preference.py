"""Losses on judgements of whole completions: reward models (pairwise, pointwise) and DPO.

Each returns one loss per example; they are averaged over the global batch.
"""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional


class PreferenceLoss(NamedTuple):
    """Loss of each pair, and what the policy implicitly pays for its completions, all [B]; rewards carry no gradient.

    The implicit reward is beta * (policy - reference): the policy prefers as the pair says where the chosen one is
    higher.
    """

    loss: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor


def bradley_terry_loss(chosen: Tensor, rejected: Tensor, margin: Tensor | None = None) -> Tensor:
    """Train scores such that the chosen completion's is higher.

        loss = -log sigmoid(chosen - rejected - margin)

    Args:
        chosen: [B] float, scores of the chosen completions.
        rejected: [B] float, scores of the rejected ones.
        margin: [B] float, how far apart they should be at least; None: 0.

    Returns:
        [B] float.

    Source: Bradley and Terry 1952; reward models, arXiv:2203.02155; the margin, Llama 2, arXiv:2307.09288.
    """
    difference = chosen - rejected
    return -functional.logsigmoid(difference if margin is None else difference - margin)


def pointwise_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Train scores to be the log-odds that a completion is good: binary cross entropy.

        loss = -labels * log sigmoid(scores) - (1 - labels) * log sigmoid(-scores)

    Args:
        scores: [B] float, logits.
        labels: [B] bool or float in [0, 1], 1 for good.

    Returns:
        [B] float.

    Source: DeepSeek-R1's safety reward model, arXiv:2501.12948 v2, trained pointwise.
    """
    return functional.binary_cross_entropy_with_logits(scores, labels.to(scores.dtype), reduction="none")


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> PreferenceLoss:
    """Train the policy on pairs without a reward model.

        d    = beta * ((policy_chosen - ref_chosen) - (policy_rejected - ref_rejected))
        loss = -(1 - label_smoothing) * log sigmoid(d) - label_smoothing * log sigmoid(-d)

    Args:
        policy_chosen: [B] float, the policy's log-probability of each chosen completion, summed over its tokens.
        policy_rejected: [B] float, the same of the rejected ones.
        ref_chosen: [B] float, the reference policy's of the chosen ones.
        ref_rejected: [B] float, the reference policy's of the rejected ones.
        beta: how strongly the policy is held to the reference.
        label_smoothing: share of pairs supposed to be the wrong way round, below 0.5.

    Returns:
        loss and implicit rewards, [B].

    Source: DPO, arXiv:2305.18290, eq. 7; label smoothing, E. Mitchell, "A note on DPO with noisy preferences", 2023.
    """
    chosen_rewards = beta * (policy_chosen - ref_chosen)
    rejected_rewards = beta * (policy_rejected - ref_rejected)
    difference = chosen_rewards - rejected_rewards
    loss = -functional.logsigmoid(difference) * (1 - label_smoothing)
    if label_smoothing:
        loss = loss - functional.logsigmoid(-difference) * label_smoothing
    return PreferenceLoss(loss, chosen_rewards.detach(), rejected_rewards.detach())
