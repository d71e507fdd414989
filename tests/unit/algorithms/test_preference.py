import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from r1ray.algorithms.preference import bradley_terry_loss, dpo_loss, pointwise_loss


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_bradley_terry_equals_hand_computed() -> None:
    losses = bradley_terry_loss(vector(2, 0), vector(1, 0))
    assert losses.tolist() == pytest.approx([math.log(1 + math.exp(-1)), math.log(2)], abs=1e-12)
    with_margin = bradley_terry_loss(vector(2, 0), vector(1, 0), vector(1, 2))
    assert with_margin.tolist() == pytest.approx([math.log(2), math.log(1 + math.exp(2))], abs=1e-12)


def test_bradley_terry_is_finite_however_wrong_the_scores_are() -> None:
    scores = torch.tensor([-1e4], requires_grad=True)
    loss = bradley_terry_loss(scores, torch.tensor([1e4]))
    assert loss.item() == pytest.approx(2e4)
    assert torch.autograd.grad(loss.sum(), scores)[0].item() == -1.0


@pytest.mark.parametrize("labels", [torch.tensor([True, False]), vector(1, 0)])
def test_pointwise_equals_hand_computed(labels: Tensor) -> None:
    losses = pointwise_loss(vector(2, -1), labels)
    assert losses.tolist() == pytest.approx([math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1))], abs=1e-12)


def test_dpo_equals_hand_computed() -> None:
    # Log ratios to the reference: chosen +2, rejected -1; with beta 0.5 rewards 1 and -0.5, difference 1.5.
    got = dpo_loss(vector(-3), vector(-6), vector(-5), vector(-5), beta=0.5)
    assert got.loss.item() == pytest.approx(math.log(1 + math.exp(-1.5)), abs=1e-12)
    assert (got.chosen_rewards.item(), got.rejected_rewards.item()) == (1.0, -0.5)


def test_dpo_label_smoothing_is_cross_entropy_with_soft_labels() -> None:
    torch.manual_seed(0)
    tensors = torch.randn(4, 6, dtype=torch.float64)
    logits = 0.3 * ((tensors[0] - tensors[2]) - (tensors[1] - tensors[3]))
    soft = torch.full_like(logits, 0.9)
    expected = functional.binary_cross_entropy_with_logits(logits, soft, reduction="none")
    torch.testing.assert_close(dpo_loss(*tensors, beta=0.3, label_smoothing=0.1).loss, expected)


def test_implicit_rewards_carry_no_gradient() -> None:
    chosen = vector(-1).requires_grad_()
    got = dpo_loss(chosen, vector(-1), vector(-1), vector(-1), beta=0.1)
    assert got.loss.requires_grad
    assert not got.chosen_rewards.requires_grad
    assert not got.rejected_rewards.requires_grad
