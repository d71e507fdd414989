import math

import pytest
import torch

from r1ray.algorithms.advantages import group_advantages
from r1ray.algorithms.logprobs import token_logprobs
from r1ray.algorithms.losses import (
    clipped_policy_loss,
    k3_kl,
    loss_denominator,
    token_weights,
    truncated_importance_weights,
)
from r1ray.algorithms.schedule import learning_rate


def test_advantages_equal_hand_computed_z_scores() -> None:
    # mean 0.5, population std 0.5
    advantages = group_advantages(torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64), divide_by_std=True)
    scale = 0.5 / (0.5 + 1e-6)
    assert advantages.tolist() == pytest.approx([scale, -scale, -scale, scale], abs=1e-12)


def test_without_std_only_the_mean_is_taken_off() -> None:
    assert group_advantages(torch.tensor([2.0, 0.0, 1.0]), divide_by_std=False).tolist() == [1.0, -1.0, 0.0]


@pytest.mark.parametrize("reward", [0.1, 1 / 3, 0.0, 2.0])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_equal_rewards_give_exact_zeros(reward: float, size: int) -> None:
    assert group_advantages(torch.full((size,), reward), divide_by_std=True).tolist() == [0.0] * size


def test_empty_group_is_refused() -> None:
    with pytest.raises(ValueError, match="non-empty"):
        group_advantages(torch.zeros(0), divide_by_std=True)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 1.0, -1.0, False),
        (1.5, 1.0, -1.2, True),  # clipped above
        (0.5, 1.0, -0.5, False),  # min takes the unclipped side
        (0.5, -1.0, 0.8, True),  # clipped below
        (1.5, -1.0, 1.5, False),
        (9.0, -1.0, 4.0, True),  # capped by clip_delta
    ],
)
def test_clipped_loss_equals_hand_computed(ratio: float, advantage: float, loss: float, clipped: bool) -> None:
    logprobs = torch.tensor([math.log(ratio)], dtype=torch.float64)
    got, was_clipped = clipped_policy_loss(
        logprobs,
        torch.zeros(1, dtype=torch.float64),
        torch.tensor([advantage], dtype=torch.float64),
        clip_low=0.2,
        clip_high=0.2,
        clip_delta=4.0,
    )
    assert got.item() == pytest.approx(loss, abs=1e-12)
    assert was_clipped.item() is clipped


@pytest.mark.parametrize(("ratio", "advantage"), [(1.5, 1.0), (0.5, -1.0), (9.0, -1.0)])
def test_clipped_tokens_carry_no_gradient(ratio: float, advantage: float) -> None:
    logprobs = torch.tensor([math.log(ratio)], requires_grad=True)
    loss, _ = clipped_policy_loss(
        logprobs, torch.zeros(1), torch.tensor([advantage]), clip_low=0.2, clip_high=0.2, clip_delta=4.0
    )
    loss.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.item() == 0.0


def test_k3_equals_its_definition_and_is_zero_at_equality() -> None:
    logprobs, reference = torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -1.5])
    expected = [0.0, math.exp(0.5) - 0.5 - 1]
    assert k3_kl(logprobs, reference).tolist() == pytest.approx(expected, abs=1e-7)


def test_k3_averages_to_the_exact_kl() -> None:
    torch.manual_seed(0)
    p, q = torch.randn(2, 50, dtype=torch.float64).log_softmax(-1)
    exact = (p.exp() * (p - q)).sum()
    assert (p.exp() * k3_kl(p, q)).sum().item() == pytest.approx(exact.item(), abs=1e-12)


def test_importance_weights_are_capped_and_detached() -> None:
    old = torch.tensor([0.0, 0.0], requires_grad=True)
    weights = truncated_importance_weights(old, torch.tensor([-3.0, 0.5]), cap=2.0)
    assert weights.tolist() == pytest.approx([2.0, math.exp(-0.5)])
    assert not weights.requires_grad


@pytest.mark.parametrize(
    ("aggregation", "expected", "denominator"),
    [("token", [1, 1], 6), ("sequence", [0.5, 0.25], 2), ("constant", [0.1, 0.1], 2)],
)
def test_token_weights_per_aggregation(aggregation, expected, denominator) -> None:  # type: ignore[no-untyped-def]
    weights = token_weights(torch.tensor([2, 4]), aggregation=aggregation, max_completion_tokens=10)
    assert weights.tolist() == pytest.approx(expected)
    assert loss_denominator(num_tokens=6, num_completions=2, aggregation=aggregation) == denominator


def test_token_logprobs_and_entropy_equal_torch_distributions() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 11) * 3, torch.tensor([0, 3, 10, 5, 5])
    logprobs, entropy = token_logprobs(logits, targets, temperature=0.7)
    reference = torch.distributions.Categorical(logits=logits / 0.7)
    torch.testing.assert_close(logprobs, reference.log_prob(targets))
    torch.testing.assert_close(entropy, reference.entropy())


def test_learning_rate_warms_up_and_falls_to_a_tenth() -> None:
    def lr(step: int, schedule: str) -> float:
        return learning_rate(step, peak=1.0, warmup_steps=2, total_steps=12, schedule=schedule)  # type: ignore[arg-type]

    assert [lr(0, "cosine"), lr(1, "cosine"), lr(2, "cosine")] == pytest.approx([0.5, 1.0, 1.0])
    assert lr(11, "cosine") == pytest.approx(0.1)
    assert lr(11, "linear") == pytest.approx(0.1)
    assert lr(11, "constant") == 1.0
