"""Advantages: what each completion is worth beside its siblings."""

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
    if rewards.ndim != 1 or rewards.numel() == 0:
        raise ValueError(f"rewards must be a non-empty vector, got shape {tuple(rewards.shape)}")
    if bool((rewards == rewards[0]).all()):
        return torch.zeros_like(rewards)
    centered = rewards - rewards.mean()
    if not divide_by_std:
        return centered
    return centered / (rewards.std(correction=0) + STD_EPSILON)


def _x(*a, **k):
    raise NotImplementedError


batch_std_advantages = batch_zscore_advantages = leave_one_out_advantages = pass_at_k_advantages = (
    per_reward_advantages
) = _x
