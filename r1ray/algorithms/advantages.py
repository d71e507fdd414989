"""Advantages: what each completion is worth beside its siblings, or beside the whole batch.

A group holds the completions of one prompt. Groups may differ in size, since completions that could not be graded have
left theirs. Standard deviations are those of the population, with 1e-6 added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

STD_EPSILON = 1e-6


def group_advantages(rewards: Tensor, *, divide_by_std: bool) -> Tensor:
    """Center the rewards of one prompt's group.

        A_i = (r_i - mean(r)) / (std(r) + 1e-6)      divisor dropped if not divide_by_std

    Args:
        rewards: [G] float, the group's rewards.
        divide_by_std: whether to scale by the population standard deviation.

    Returns:
        [G] in the dtype of `rewards`. A group with equal rewards, or of one, gives exact zeros.

    Raises:
        ValueError: `rewards` is empty or not one-dimensional.

    Source: GRPO, arXiv:2402.03300; without std, Dr. GRPO, arXiv:2503.20783.
    """
    _check(rewards)
    if bool((rewards == rewards[0]).all()):
        return torch.zeros_like(rewards)
    centered = rewards - rewards.mean()
    if not divide_by_std:
        return centered
    return centered / (rewards.std(correction=0) + STD_EPSILON)


def leave_one_out_advantages(rewards: Tensor) -> Tensor:
    """Compare each completion with the mean of its siblings.

        A_i = r_i - mean_{j != i}(r_j) = G / (G - 1) * (r_i - mean(r))

    Args:
        rewards: [G] float, the group's rewards.

    Returns:
        [G] in the dtype of `rewards`. A group with equal rewards, or of one, gives exact zeros.

    Raises:
        ValueError: `rewards` is empty or not one-dimensional.

    Source: RLOO, arXiv:2402.14740.
    """
    size = rewards.numel()
    return group_advantages(rewards, divide_by_std=False) * (size / max(size - 1, 1))


def pass_at_k_advantages(correct: Tensor, *, k: int) -> Tensor:
    """Value completions by the success of k of them together, in closed form.

        p     = 1 - C(wrong, k) / C(G, k),     s = sqrt(p * (1 - p))
        right : (1 - p) / s
        wrong : (1 - p - C(wrong - 1, k - 1) / C(G - 1, k - 1)) / s

    A prompt solved half the time teaches little, a rarely solved one much; once any k completions hold a right one,
    nothing is left to gain.

    Args:
        correct: [G] bool.
        k: completions that count as solved if one of them is right, 1 <= k <= G.

    Returns:
        [G] float64; exact zeros where p is 0 or 1.

    Raises:
        ValueError: k is out of range, or `correct` is empty.

    Source: "Pass@k training", arXiv:2508.10751.
    """
    _check(correct)
    size, wrong = correct.numel(), int((~correct).sum())
    if not 1 <= k <= size:
        raise ValueError(f"k must be in 1..{size}, the size of the group, got {k}")
    success = 1 - math.comb(wrong, k) / math.comb(size, k)
    spread = math.sqrt(success * (1 - success))
    if spread == 0:
        return torch.zeros(size, dtype=torch.float64, device=correct.device)
    for_right = (1 - success) / spread
    for_wrong = (1 - success - math.comb(wrong - 1, k - 1) / math.comb(size - 1, k - 1)) / spread
    right, wrong_ones = torch.tensor([for_right, for_wrong], dtype=torch.float64, device=correct.device)
    return torch.where(correct, right, wrong_ones)


def batch_std_advantages(groups: Sequence[Tensor]) -> list[Tensor]:
    """Center rewards in each group and divide by their standard deviation over the whole batch.

        A_i = (r_i - mean of its group) / (std of all r + 1e-6)

    Args:
        groups: [G_i] float each.

    Returns:
        As `groups`. A group with equal rewards gives exact zeros.

    Source: Lite PPO, arXiv:2508.08221.
    """
    if not groups:
        return []
    scale = torch.cat(list(groups)).std(correction=0) + STD_EPSILON
    return [group_advantages(rewards, divide_by_std=False) / scale for rewards in groups]


def group_mean_batch_zscore_advantages(groups: Sequence[Tensor]) -> list[Tensor]:
    """Center rewards in each group and divide by the standard deviation of what that gives over the whole batch.

        c_i = r_i - mean of its group,     A_i = c_i / (std of all c + 1e-6)

    The mean of all c is 0.

    Args:
        groups: [G_i] float each.

    Returns:
        As `groups`. A group with equal rewards gives exact zeros.

    Source: ScaleRL, arXiv:2510.13786; REINFORCE++-baseline, arXiv:2501.03262.
    """
    if not groups:
        return []
    centered = [group_advantages(rewards, divide_by_std=False) for rewards in groups]
    scale = torch.cat(centered).std(correction=0) + STD_EPSILON
    return [c / scale for c in centered]


def batch_zscore_advantages(groups: Sequence[Tensor]) -> list[Tensor]:
    """Compare each completion with the whole batch, whatever its prompt.

        A_i = (r_i - mean of all r) / (std of all r + 1e-6)

    Args:
        groups: [G_i] float each.

    Returns:
        As `groups`. A batch with equal rewards gives exact zeros.

    Source: REINFORCE++, arXiv:2501.03262.
    """
    if not groups:
        return []
    advantages = group_advantages(torch.cat(list(groups)), divide_by_std=True)
    return list(torch.split(advantages, [len(rewards) for rewards in groups]))


def per_reward_advantages(groups: Sequence[Mapping[str, Tensor]], weights: Mapping[str, float]) -> list[Tensor]:
    """Normalise each reward by itself in each group, add them up, and normalise the sums over the whole batch.

        s_i = sum_k w_k * (r_ik - mean_k) / (std_k + 1e-6)     mean and std over the group's completions that have r_k
        A_i = (s_i - mean of all s) / (std of all s + 1e-6)

    So a reward with a small spread counts as much as one with a large spread.

    Args:
        groups: for each group, [G_i] float by reward; NaN where a reward does not apply to a completion.
        weights: of every reward.

    Returns:
        [G_i] float for each group.

    Raises:
        ValueError: a reward has no weight.

    Source: GDPO, arXiv:2601.05242.
    """
    sums = [_normalised_sum(group, weights) for group in groups]
    return batch_zscore_advantages(sums)


def _normalised_sum(group: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    unknown = sorted(group.keys() - weights.keys())
    if unknown:
        raise ValueError(f"no weight for reward {unknown[0]!r}; weights are known for {', '.join(sorted(weights))}")
    total = torch.zeros_like(next(iter(group.values())))
    for name, rewards in group.items():
        given = ~rewards.isnan()
        if bool(given.any()):
            total[given] += weights[name] * group_advantages(rewards[given], divide_by_std=True)
    return total


def _check(values: Tensor) -> None:
    if values.ndim != 1 or values.numel() == 0:
        raise ValueError(f"rewards must be a non-empty vector, got shape {tuple(values.shape)}")
