import itertools

import pytest
import torch

from r1ray.algorithms.advantages import group_advantages, leave_one_out_advantages, pass_at_k_advantages


def test_advantages_equal_hand_computed_z_scores() -> None:
    # mean 0.5, population std 0.5
    advantages = group_advantages(torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64), divide_by_std=True)
    scale = 0.5 / (0.5 + 1e-6)
    assert advantages.tolist() == pytest.approx([scale, -scale, -scale, scale], abs=1e-12)


def test_without_std_only_the_mean_is_taken_off() -> None:
    assert group_advantages(torch.tensor([2.0, 0.0, 1.0]), divide_by_std=False).tolist() == [1.0, -1.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reward", [0.1, 1 / 3, 0.0, 2.0])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_equal_rewards_give_exact_zeros(reward: float, size: int, dtype: torch.dtype) -> None:
    rewards = torch.full((size,), reward, dtype=dtype)
    for advantages in (
        group_advantages(rewards, divide_by_std=True),
        group_advantages(rewards, divide_by_std=False),
        leave_one_out_advantages(rewards),
    ):
        assert advantages.tolist() == [0.0] * size
        assert advantages.dtype == dtype


def test_leave_one_out_compares_with_the_mean_of_the_siblings() -> None:
    advantages = leave_one_out_advantages(torch.tensor([3.0, 0.0, 1.5], dtype=torch.float64))
    assert advantages.tolist() == pytest.approx([3 - 0.75, 0 - 2.25, 1.5 - 1.5], abs=1e-12)


def test_pass_at_k_equals_hand_computed() -> None:
    # One of four correct, pairs: half of the pairs hold it, so p = 1/2 and std 1/2. The correct one is only in pairs
    # that earn 1 (z-score 1); each wrong one in one such pair of three (z-scores 1, -1, -1).
    correct = torch.tensor([False, True, False, False])
    scale = 0.5 / (0.5 + 1e-6)
    expected = [-scale / 3, scale, -scale / 3, -scale / 3]
    assert pass_at_k_advantages(correct, k=2).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("size", [4, 6, 7])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_pass_at_k_equals_the_mean_over_all_subsets(size: int, k: int) -> None:
    for num_correct in range(size + 1):
        correct = torch.arange(size) < num_correct
        subsets = list(itertools.combinations(range(size), k))
        worth = torch.tensor([float(correct[list(s)].any()) for s in subsets], dtype=torch.float64)
        scores = (worth - worth.mean()) / (worth.std(correction=0) + 1e-6)
        expected = [
            torch.stack([scores[n] for n, s in enumerate(subsets) if i in s]).mean().item() for i in range(size)
        ]
        assert pass_at_k_advantages(correct, k=k).tolist() == pytest.approx(expected, abs=1e-9)


def test_pass_at_1_is_the_z_score_of_correctness() -> None:
    correct = torch.tensor([True, False, False, True, False])
    torch.testing.assert_close(
        pass_at_k_advantages(correct, k=1), group_advantages(correct.double(), divide_by_std=True)
    )


@pytest.mark.parametrize(
    ("correct", "k"), [([False] * 5, 2), ([True] * 5, 2), ([True] * 4 + [False], 2), ([True, False], 2), ([True], 1)]
)
def test_pass_at_k_is_exactly_zero_where_no_subset_differs(correct: list[bool], k: int) -> None:
    assert pass_at_k_advantages(torch.tensor(correct), k=k).tolist() == [0.0] * len(correct)


def test_empty_group_is_refused() -> None:
    with pytest.raises(ValueError, match="non-empty"):
        group_advantages(torch.zeros(0), divide_by_std=True)
    with pytest.raises(ValueError, match="non-empty"):
        leave_one_out_advantages(torch.zeros(0))


def test_pass_at_k_refuses_rewards_and_k_below_1() -> None:
    with pytest.raises(ValueError, match="pass verdicts, not rewards"):
        pass_at_k_advantages(torch.tensor([1.0, 0.0]), k=1)
    with pytest.raises(ValueError, match="k must be >= 1, got 0"):
        pass_at_k_advantages(torch.tensor([True, False]), k=0)
