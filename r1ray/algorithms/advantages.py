"""Advantages within one prompt's group: what each completion is worth beside its siblings.

Those that need the whole batch stand in `batch_advantages`.
"""

import math

import torch
from torch import Tensor

STD_EPSILON = 1e-6


def group_advantages(rewards: Tensor, *, divide_by_std: bool) -> Tensor:
    """Center the rewards of one prompt's group.

        A_i = (r_i - mean(r)) / (std(r) + 1e-6)      divisor dropped if not divide_by_std

    Args:
        rewards: [G] float, the group's rewards; G may differ from group to group.
        divide_by_std: whether to scale by the population standard deviation.

    Returns:
        [G] in the dtype of `rewards`. A group with equal rewards, or of one, gives exact zeros.

    Raises:
        ValueError: `rewards` is empty or not one-dimensional.

    Source: GRPO, arXiv:2402.03300; without std, Dr. GRPO, arXiv:2503.20783.
    """
    check_group(rewards)
    if all_equal(rewards):
        return torch.zeros_like(rewards)
    centered = rewards - rewards.mean()
    if not divide_by_std:
        return centered
    return centered / (rewards.std(correction=0) + STD_EPSILON)


def leave_one_out_advantages(rewards: Tensor) -> Tensor:
    """Compare each completion with the mean of its siblings, which makes the baseline independent of it.

        A_i = r_i - mean of r_j over j != i  =  (r_i - mean(r)) * G / (G - 1)

    Args:
        rewards: [G] float, the group's rewards.

    Returns:
        [G] in the dtype of `rewards`. A group with equal rewards, or of one, gives exact zeros.

    Raises:
        ValueError: `rewards` is empty or not one-dimensional.

    Source: RLOO, arXiv:2402.14740.
    """
    centered = group_advantages(rewards, divide_by_std=False)
    size = rewards.numel()
    return centered * (size / (size - 1)) if size > 1 else centered


def pass_at_k_advantages(correct: Tensor, *, k: int) -> Tensor:
    """Reward a group for the best of k completions, so that rare successes and variety are worth more.

    The mean, over all subsets of k of the G completions that hold completion i, of the subset's z-score, where a
    subset earns 1 if any of its completions is correct. With c correct ones, and C(n, k) the binomial coefficient:

        p          = 1 - C(G - c, k) / C(G, k)
        A_correct  = (1 - p) / (sqrt(p (1 - p)) + 1e-6)
        A_wrong    = (1 - p - C(G - c - 1, k - 1) / C(G - 1, k - 1)) / (sqrt(p (1 - p)) + 1e-6)

    k = 1 is `group_advantages` with std. Correctness is given, and not read from rewards, because a reward mixes in
    format and length, which the best of k says nothing about.

    Args:
        correct: [G] bool.
        k: completions that stand together, at least 1.

    Returns:
        [G] float64. Exact zeros where no subset differs from another: none is correct, fewer than k are wrong, or
        the group has no more than k completions.

    Raises:
        ValueError: `correct` is empty, not one-dimensional or not bool, or k < 1.

    Source: arXiv:2508.10751, the analytical derivation, and the code published with it.
    """
    check_group(correct)
    if correct.dtype != torch.bool:
        raise ValueError(f"correct must be bool, got {correct.dtype}: pass verdicts, not rewards")
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}")
    size, wrong = correct.numel(), int((~correct).sum())
    if wrong < k:
        return torch.zeros(size, dtype=torch.float64, device=correct.device)
    all_wrong = math.comb(wrong, k) / math.comb(size, k)
    all_others_wrong = math.comb(wrong - 1, k - 1) / math.comb(size - 1, k - 1)
    std = math.sqrt(all_wrong * (1 - all_wrong)) + STD_EPSILON
    advantages = torch.full((size,), (all_wrong - all_others_wrong) / std, dtype=torch.float64, device=correct.device)
    advantages[correct] = all_wrong / std
    return advantages


def check_group(values: Tensor) -> None:
    """Raise ValueError unless `values` is a non-empty vector."""
    if values.ndim != 1 or values.numel() == 0:
        raise ValueError(f"rewards must be a non-empty vector, got shape {tuple(values.shape)}")


def all_equal(values: Tensor) -> bool:
    """Say whether a vector holds one value only; its rounded mean would not, and leave a residue."""
    return bool((values == values[0]).all())
