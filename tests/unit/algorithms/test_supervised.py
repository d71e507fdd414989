import math

import pytest
import torch

from r1ray.algorithms.supervised import bradley_terry_loss, cross_entropy_loss, dpo_loss, pointwise_loss


def test_cross_entropy_equals_torch_on_the_completion_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 11, generator=generator)
    targets = torch.tensor([3, 0, 10, 2, 2])
    logprobs = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(cross_entropy_loss(logprobs), expected)


def test_bradley_terry_equals_hand_computed() -> None:
    chosen, rejected = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    expected = [math.log(1 + math.exp(-1)), math.log(1 + math.exp(2))]
    assert bradley_terry_loss(chosen, rejected).tolist() == pytest.approx(expected)
    with_margin = bradley_terry_loss(chosen, rejected, margin=torch.tensor([0.5, 0.0])).tolist()
    assert with_margin == pytest.approx([math.log(1 + math.exp(-0.5)), expected[1]])


def test_far_pairs_do_not_overflow() -> None:
    losses = bradley_terry_loss(torch.tensor([-500.0, 500.0]), torch.tensor([500.0, -500.0]))
    assert losses.tolist() == [1000.0, 0.0]


def test_pointwise_equals_hand_computed() -> None:
    losses = pointwise_loss(torch.tensor([2.0, 2.0, 0.0]), torch.tensor([1, 0, 1]))
    assert losses.tolist() == pytest.approx([math.log(1 + math.exp(-2)), math.log(1 + math.exp(2)), math.log(2)])


def test_dpo_at_the_reference_is_log_2_and_prefers_the_chosen() -> None:
    chosen = torch.tensor([-3.0], requires_grad=True)
    rejected = torch.tensor([-2.0], requires_grad=True)
    loss, rewards, others = dpo_loss(chosen, rejected, torch.tensor([-3.0]), torch.tensor([-2.0]), beta=0.5)
    loss.sum().backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert (rewards.item(), others.item()) == (0.0, 0.0)
    assert chosen.grad is not None
    assert rejected.grad is not None
    # -beta * sigmoid(-margin)
    assert chosen.grad.item() == pytest.approx(-0.25)
    assert rejected.grad.item() == pytest.approx(0.25)
