"""Advantages that look at the whole step: normalised over the batch, or reward by reward.

All take one tensor per group, which may differ in size, and return one per group. Statistics run over completions,
each counted once, whatever its length.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from r1ray.algorithms.advantages import STD_EPSILON, all_equal, check_group, group_advantages


def batch_std_advantages(groups: Sequence[Tensor]) -> list[Tensor]:
    """Center rewards within their groups, then scale all by one standard deviation.

        A'_i = r_i - mean(r of i's group)
        A_i  = A'_i / (std(A' of the batch) + 1e-6)

    The population standard deviation is that of the centered rewards, as ScaleRL and REINFORCE++-baseline write it
    (which also takes the batch mean off: of centered rewards it is 0) and as ROLL, the framework of Lite PPO, does.
    TRL divides by that of the raw rewards: larger by the spread of the groups' means, one factor for the whole batch.

    Args:
        groups: [G_i] float each, the rewards of one group.

    Returns:
        [G_i] each, in the dtype of its rewards. A group with equal rewards gives exact zeros.

    Raises:
        ValueError: a group is empty or not one-dimensional.

    Source: ScaleRL, arXiv:2510.13786, section 4; REINFORCE++-baseline, arXiv:2501.03262; Lite PPO, arXiv:2508.08221.
    """
    centered = [group_advantages(rewards, divide_by_std=False) for rewards in groups]
    if not centered:
        return []
    divisor = torch.cat(centered).std(correction=0) + STD_EPSILON
    return [advantages / divisor for advantages in centered]


def batch_zscore_advantages(groups: Sequence[Tensor]) -> list[Tensor]:
    """Normalise rewards over the whole batch, whatever their groups.

        A_i = (r_i - mean(r of the batch)) / (std(r of the batch) + 1e-6)

    with the population standard deviation. Eq. 5 of the paper speaks of advantages of tokens, which differ where KL is
    part of the reward; here a completion has one.

    Args:
        groups: [G_i] float each, the rewards of one group.

    Returns:
        [G_i] each, in the dtype of its rewards. Exact zeros where all rewards of the batch are equal; unlike
        elsewhere not where only those of a group are.

    Raises:
        ValueError: a group is empty or not one-dimensional.

    Source: REINFORCE++, arXiv:2501.03262.
    """
    for rewards in groups:
        check_group(rewards)
    if not groups:
        return []
    everything = torch.cat(list(groups))
    if all_equal(everything):
        return [torch.zeros_like(rewards) for rewards in groups]
    mean, divisor = everything.mean(), everything.std(correction=0) + STD_EPSILON
    return [(rewards - mean) / divisor for rewards in groups]


def per_reward_advantages(breakdowns: Sequence[Mapping[str, Tensor]], weights: Mapping[str, float]) -> list[Tensor]:
    """Normalise each reward within its group before they are added, so that none drowns the others.

        S_i = sum over rewards k of  w_k * (r_ik - mean(r_k)) / (std(r_k) + 1e-6)      within the group
        A_i = S_i / (std(S of the batch) + 1e-6)

    Standard deviations are those of the population. The paper also takes off the batch mean of S, which is 0, as
    each reward's z-scores sum to 0 in each group; left out, groups with equal rewards stay at exact zeros.

    Args:
        breakdowns: for each group, each reward's values, [G_i] float; NaN where a reward does not apply to a
            completion. A reward that is missing, or NaN, adds nothing and is no part of mean and std.
        weights: of every reward that occurs.

    Returns:
        [G_i] each. A completion that no reward applies to gets 0, and is not counted in the batch's std.

    Raises:
        ValueError: a group without rewards or of unequal lengths, a reward without weight, or one that is infinite.

    Source: GDPO, arXiv:2601.05242; TRL's `normalize_then_sum`, which divides by the sample standard deviation.
    """
    sums, scored = [], []
    for breakdown in breakdowns:
        _check_breakdown(breakdown, weights)
        columns = list(breakdown.values())
        sums.append(torch.stack([weights[k] * _masked_zscores(v) for k, v in breakdown.items()]).sum(0))
        scored.append(torch.stack([~v.isnan() for v in columns]).any(0))
    if not sums:
        return []
    counted = torch.cat(sums)[torch.cat(scored)]
    divisor = (counted.std(correction=0) if counted.numel() else 0.0) + STD_EPSILON
    return [total / divisor for total in sums]


def _masked_zscores(rewards: Tensor) -> Tensor:
    """Return z-scores over the values that are not NaN, and 0 for those that are."""
    applies = ~rewards.isnan()
    scores = torch.zeros_like(rewards)
    if bool(applies.any()):
        scores[applies] = group_advantages(rewards[applies], divide_by_std=True)
    return scores


def _check_breakdown(breakdown: Mapping[str, Tensor], weights: Mapping[str, float]) -> None:
    if not breakdown:
        raise ValueError("a group's reward breakdown must hold at least one reward, got none")
    sizes = {name: tuple(values.shape) for name, values in breakdown.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"rewards of one group must have one value per completion each, got shapes {sizes}")
    for name, values in breakdown.items():
        check_group(values)
        if name not in weights:
            raise ValueError(f"reward {name!r} must have a weight; there are weights for {sorted(weights)}")
        if bool(values.isinf().any()):
            raise ValueError(f"reward {name!r} must be finite, or NaN where it does not apply, got an infinite value")
