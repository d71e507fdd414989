import math

import pytest
import torch
from torch import Tensor

from r1ray.algorithms.importance import ImportanceCorrection, ImportanceLevel, importance_weights

# Two completions of two tokens and of one: ratios 4, 1/2 | 1/8.
LOG_RATIO = torch.tensor([4.0, 0.5, 0.125], dtype=torch.float64).log()
SAMPLE_INDEX = torch.tensor([0, 0, 1])


def weights(
    correction: ImportanceCorrection, level: ImportanceLevel, cap: float = 2.0, floor: float = 0.0
) -> list[float]:
    rollout = torch.tensor([-1.0, -2.0, -3.0], dtype=torch.float64)
    got = importance_weights(
        rollout + LOG_RATIO, rollout, SAMPLE_INDEX, 2, correction=correction, level=level, cap=cap, floor=floor
    )
    assert got.dtype == torch.float64
    return got.tolist()  # type: ignore[no-any-return]


ROOT = math.sqrt(2)


@pytest.mark.parametrize(
    ("correction", "level", "cap", "floor", "expected"),
    [
        ("none", "token", 2.0, 0.5, [1, 1, 1]),
        ("truncate", "token", 2.0, 0.0, [2, 0.5, 0.125]),
        ("truncate", "token", 2.0, 0.5, [2, 0.5, 0.125]),  # the floor is for masks
        ("mask", "token", 5.0, 0.25, [4, 0.5, 0]),
        ("mask", "token", 2.0, 0.0, [0, 0.5, 0.125]),
        ("truncate", "sequence", 1.5, 0.0, [1.5, 1.5, 0.125]),
        ("mask", "sequence", 3.0, 0.5, [2, 2, 0]),
        ("mask", "sequence", 1.5, 0.0, [0, 0, 0.125]),
        ("truncate", "geometric", 3.0, 0.0, [ROOT, ROOT, 0.125]),
        ("mask", "geometric", 1.5, 0.5, [ROOT, ROOT, 0]),
    ],
)
def test_weights_equal_hand_computed(
    correction: ImportanceCorrection, level: ImportanceLevel, cap: float, floor: float, expected: list[float]
) -> None:
    assert weights(correction, level, cap, floor) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("level", ["token", "sequence", "geometric"])
@pytest.mark.parametrize("correction", ["truncate", "mask"])
@pytest.mark.parametrize("shift", [-5.0, 5.0])
def test_long_sequences_overflow_to_nothing_worse_than_cap_or_zero(
    correction: ImportanceCorrection, level: ImportanceLevel, shift: float
) -> None:
    rollout = torch.full((32768,), -6.0)
    index = torch.zeros(32768, dtype=torch.int64)
    got = importance_weights(rollout + shift, rollout, index, 1, correction=correction, level=level, cap=2.0, floor=0.0)
    assert torch.isfinite(got).all()
    assert got.max() <= 2.0
    if shift > 0:
        assert (got == (2.0 if correction == "truncate" else 0.0)).all()


def test_weights_carry_no_gradient() -> None:
    old: Tensor = torch.zeros(3, requires_grad=True)
    got = importance_weights(
        old, torch.zeros(3), SAMPLE_INDEX, 2, correction="truncate", level="token", cap=2.0, floor=0.0
    )
    assert not got.requires_grad
