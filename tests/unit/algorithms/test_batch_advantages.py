import math

import pytest
import torch
from torch import Tensor

from r1ray.algorithms.batch_advantages import (
    batch_std_advantages,
    batch_zscore_advantages,
    per_reward_advantages,
)

NAN = math.nan


def groups(*rewards: list[float]) -> list[Tensor]:
    return [torch.tensor(r, dtype=torch.float64) for r in rewards]


def test_batch_std_scales_groups_of_unequal_size_alike() -> None:
    # centered: 1, -1 | 2, -1, -1; their mean square is 8/5
    advantages = batch_std_advantages(groups([2.0, 0.0], [3.0, 0.0, 0.0]))
    std = math.sqrt(8 / 5) + 1e-6
    assert advantages[0].tolist() == pytest.approx([1 / std, -1 / std], abs=1e-12)
    assert advantages[1].tolist() == pytest.approx([2 / std, -1 / std, -1 / std], abs=1e-12)


def test_batch_std_takes_no_account_of_how_far_groups_lie_apart() -> None:
    near, far = batch_std_advantages(groups([1, 0], [1, 0])), batch_std_advantages(groups([1, 0], [101, 100]))
    for a, b in zip(near, far, strict=True):
        torch.testing.assert_close(a, b)


def test_batch_zscores_equal_hand_computed() -> None:
    # mean 1, squared deviations 1, 1 | 0, 4, 4
    advantages = batch_zscore_advantages(groups([2.0, 0.0], [1.0, 3.0, -1.0]))
    std = math.sqrt((1 + 1 + 0 + 4 + 4) / 5) + 1e-6
    assert advantages[0].tolist() == pytest.approx([1 / std, -1 / std], abs=1e-12)
    assert advantages[1].tolist() == pytest.approx([0, 2 / std, -2 / std], abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rewards_give_exact_zeros(dtype: torch.dtype) -> None:
    equal, other = torch.full((3,), 0.1, dtype=dtype), torch.tensor([1.0, 0.0], dtype=dtype)
    assert batch_std_advantages([equal, other])[0].tolist() == [0.0] * 3
    assert batch_std_advantages([equal, equal])[1].tolist() == [0.0] * 3
    assert batch_zscore_advantages([equal, equal[:2]])[1].tolist() == [0.0] * 2
    breakdowns = [{"a": equal, "b": equal}, {"a": other, "b": other}]
    assert per_reward_advantages(breakdowns, {"a": 1.0, "b": 0.3})[0].tolist() == [0.0] * 3
    assert per_reward_advantages(breakdowns[:1], {"a": 1.0, "b": 0.3})[0].tolist() == [0.0] * 3


def test_no_groups_give_no_advantages() -> None:
    assert batch_std_advantages([]) == batch_zscore_advantages([]) == per_reward_advantages([], {}) == []


def test_per_reward_advantages_equal_hand_computed() -> None:
    # Group 1: z-scores of a 1, -1 and of b 1, -1; with weights 1 and 2 they add up to 3, -3.
    # Group 2: of a 1, -1 and of b -1, 1: -1, 1. The mean square of 3, -3, -1, 1 is 5.
    first = {"a": torch.tensor([1.0, 0.0], dtype=torch.float64), "b": torch.tensor([10.0, 0.0], dtype=torch.float64)}
    second = {"a": torch.tensor([5.0, 1.0], dtype=torch.float64), "b": torch.tensor([0.0, 0.1], dtype=torch.float64)}
    advantages = per_reward_advantages([first, second], {"a": 1.0, "b": 2.0})
    root = math.sqrt(5)
    assert advantages[0].tolist() == pytest.approx([3 / root, -3 / root], abs=1e-4)
    assert advantages[1].tolist() == pytest.approx([-1 / root, 1 / root], abs=1e-4)


def test_rewards_that_a_plain_sum_confuses_stay_apart() -> None:
    # Sums 2 and 1 against 0 alike: a z-score of the sum of two rewards cannot tell the groups apart.
    one = {"a": torch.tensor([0.0, 1.0]), "b": torch.tensor([0.0, 0.0])}
    two = {"a": torch.tensor([0.0, 1.0]), "b": torch.tensor([0.0, 1.0])}
    advantages = per_reward_advantages([one, two], {"a": 1.0, "b": 1.0})
    assert advantages[1][1].item() == pytest.approx(2 * advantages[0][1].item(), rel=1e-5)


def test_nan_and_missing_rewards_add_nothing_and_are_not_counted() -> None:
    nan = torch.tensor([1.0, 0.0, NAN, NAN], dtype=torch.float64)
    a = torch.tensor([1.0, 0.0, 1.0, NAN], dtype=torch.float64)
    got = per_reward_advantages([{"a": a, "b": nan}, {"a": a}], {"a": 1.0, "b": 1.0})
    scores = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    z_a = (scores - 2 / 3) / (math.sqrt(2) / 3 + 1e-6)
    z_b = torch.tensor([0.5, -0.5, 0.0], dtype=torch.float64) / (0.5 + 1e-6)
    std = torch.cat([z_a + z_b, z_a]).std(correction=0) + 1e-6
    assert got[0].tolist() == pytest.approx([*((z_a + z_b) / std).tolist(), 0.0], abs=1e-12)
    assert got[1].tolist() == pytest.approx([*(z_a / std).tolist(), 0.0], abs=1e-12)


@pytest.mark.parametrize(
    ("breakdown", "message"),
    [
        ({}, "at least one reward"),
        ({"a": [1.0], "b": [1.0, 2.0]}, "one value per completion"),
        ({"c": [1.0]}, "reward 'c' must have a weight"),
        ({"a": [math.inf]}, "must be finite"),
        ({"a": []}, "non-empty"),
    ],
)
def test_bad_breakdowns_are_refused(breakdown: dict[str, list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        per_reward_advantages([{k: torch.tensor(v) for k, v in breakdown.items()}], {"a": 1.0, "b": 1.0})
