import math

import pytest
import torch
from torch import Tensor

from r1ray.algorithms.advantages import (
    batch_std_advantages,
    batch_zscore_advantages,
    group_advantages,
    group_mean_batch_zscore_advantages,
    leave_one_out_advantages,
    pass_at_k_advantages,
    per_reward_advantages,
)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_z_scores_equal_hand_computed() -> None:
    # mean 0.5, population std 0.5
    scale = 0.5 / (0.5 + 1e-6)
    advantages = group_advantages(vector(1, 0, 0, 1), divide_by_std=True)
    assert advantages.tolist() == pytest.approx([scale, -scale, -scale, scale], abs=1e-12)


def test_without_std_only_the_mean_is_taken_off() -> None:
    assert group_advantages(vector(2, 0, 1), divide_by_std=False).tolist() == [1.0, -1.0, 0.0]


def test_leave_one_out_compares_with_the_mean_of_the_others() -> None:
    assert leave_one_out_advantages(vector(1, 0, 0.5)).tolist() == pytest.approx([0.75, -0.75, 0.0], abs=1e-15)


@pytest.mark.parametrize("reward", [0.1, 1 / 3, 0.0, 2.0])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_equal_rewards_give_exact_zeros(reward: float, size: int) -> None:
    rewards = torch.full((size,), reward)
    others = torch.rand(5, generator=torch.Generator().manual_seed(0))
    for advantages in (
        group_advantages(rewards, divide_by_std=True),
        group_advantages(rewards, divide_by_std=False),
        leave_one_out_advantages(rewards),
        batch_std_advantages([others, rewards])[1],
        group_mean_batch_zscore_advantages([others, rewards])[1],
        batch_zscore_advantages([rewards, rewards])[1],
        per_reward_advantages([{"a": rewards}, {"a": rewards}], {"a": 1.0})[1],
    ):
        assert advantages.tolist() == [0.0] * size


def test_empty_group_is_refused() -> None:
    with pytest.raises(ValueError, match="non-empty"):
        group_advantages(torch.zeros(0), divide_by_std=True)


def test_batch_std_is_of_all_rewards() -> None:
    # All: 1, 0, 4, 2, 3: mean 2, variance (1 + 4 + 4 + 0 + 1) / 5 = 2.
    one, other = batch_std_advantages([vector(1, 0), vector(4, 2, 3)])
    scale = math.sqrt(2) + 1e-6
    assert one.tolist() == pytest.approx([0.5 / scale, -0.5 / scale], abs=1e-12)
    assert other.tolist() == pytest.approx([1 / scale, -1 / scale, 0.0], abs=1e-12)


def test_batch_zscore_after_the_group_mean_is_of_what_is_left() -> None:
    # Left: 0.5, -0.5, 1, -1, 0: variance (0.25 + 0.25 + 1 + 1) / 5 = 0.5.
    one, other = group_mean_batch_zscore_advantages([vector(1, 0), vector(4, 2, 3)])
    scale = math.sqrt(0.5) + 1e-6
    assert one.tolist() == pytest.approx([0.5 / scale, -0.5 / scale], abs=1e-12)
    assert other.tolist() == pytest.approx([1 / scale, -1 / scale, 0.0], abs=1e-12)


def test_batch_zscore_compares_over_prompts() -> None:
    one, other = batch_zscore_advantages([vector(1, 0), vector(4, 2, 3)])
    scale = math.sqrt(2) + 1e-6
    assert [*one.tolist(), *other.tolist()] == pytest.approx([x / scale for x in (-1, -2, 2, 0, 1)], abs=1e-12)


@pytest.mark.parametrize(
    "function", [batch_std_advantages, group_mean_batch_zscore_advantages, batch_zscore_advantages]
)
def test_an_empty_batch_has_no_advantages(function) -> None:  # type: ignore[no-untyped-def]
    assert function([]) == []


def test_pass_at_k_equals_hand_computed() -> None:
    # One right of four, k = 2: C(3,2)/C(4,2) = 1/2, so p = 1/2, s = 1/2; C(2,1)/C(3,1) = 2/3.
    advantages = pass_at_k_advantages(torch.tensor([True, False, False, False]), k=2)
    assert advantages.tolist() == pytest.approx([1.0, *[(0.5 - 2 / 3) / 0.5] * 3], abs=1e-12)


def test_pass_at_k_equals_the_average_over_all_subsets() -> None:
    """What it stands for: each completion's mean over the groups of k it is in, z-scored over all groups of k."""
    from itertools import combinations

    correct = [True, False, True, False, False, False, False]
    k = 3
    subsets = list(combinations(range(len(correct)), k))
    rewards = torch.tensor([float(any(correct[i] for i in s)) for s in subsets], dtype=torch.float64)
    scores = (rewards - rewards.mean()) / rewards.std(correction=0)
    expected = [
        float(torch.stack([score for s, score in zip(subsets, scores, strict=True) if i in s]).mean())
        for i in range(len(correct))
    ]
    assert pass_at_k_advantages(torch.tensor(correct), k=k).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("right", [0, 3, 4])
def test_pass_at_k_is_zero_where_nothing_can_be_gained(right: int) -> None:
    correct = torch.arange(4) < right
    assert pass_at_k_advantages(correct, k=2).tolist() == [0.0] * 4


def test_pass_at_1_orders_like_the_z_score() -> None:
    correct = torch.tensor([True, False, False, True, False])
    expected = (correct.double() - 0.4) / math.sqrt(0.24)
    torch.testing.assert_close(pass_at_k_advantages(correct, k=1), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("k", [0, 5])
def test_pass_at_k_needs_k_within_the_group(k: int) -> None:
    with pytest.raises(ValueError, match=r"k must be in 1\.\.4"):
        pass_at_k_advantages(torch.tensor([True, False, False, False]), k=k)


def test_per_reward_weighs_rewards_alike_whatever_their_spread() -> None:
    groups = [{"accuracy": vector(1, 0, 1, 0), "length": vector(0.001, 0.001, 0.0, 0.0)}]
    (advantages,) = per_reward_advantages(groups, {"accuracy": 1.0, "length": 1.0})
    # z-scores +-1 each (but for the epsilon): sums 2, 0, 0, -2.
    assert advantages.tolist() == pytest.approx([math.sqrt(2), 0, 0, -math.sqrt(2)], abs=2e-3)


def test_per_reward_equals_the_formula_with_missing_rewards() -> None:
    nan = float("nan")
    groups = [
        {"a": vector(1, 0, 1), "b": vector(0.2, nan, 0.6)},
        {"a": vector(0, 1)},
    ]
    advantages = torch.cat(per_reward_advantages(groups, {"a": 1.0, "b": 0.5}))

    def z(x: Tensor) -> Tensor:
        return (x - x.mean()) / (x.std(correction=0) + 1e-6)

    first = z(vector(1, 0, 1))
    b = z(vector(0.2, 0.6))
    first = first + 0.5 * torch.stack([b[0], torch.zeros(()).double(), b[1]])
    torch.testing.assert_close(advantages, z(torch.cat([first, z(vector(0, 1))])), atol=1e-12, rtol=0)


def test_a_reward_without_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="no weight for reward 'b'"):
        per_reward_advantages([{"b": vector(1, 0)}], {"a": 1.0})
