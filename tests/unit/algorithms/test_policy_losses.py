import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from r1ray.algorithms.aggregation import Aggregation, loss_denominator, token_weights
from r1ray.algorithms.policy_losses import (
    PolicyLossKind,
    TokenLoss,
    cispo_policy_loss,
    clipped_policy_loss,
    gmpo_policy_loss,
    gspo_policy_loss,
    policy_loss,
    reinforce_policy_loss,
    sapo_policy_loss,
)

KINDS: tuple[PolicyLossKind, ...] = get_args(PolicyLossKind)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def run(kind: PolicyLossKind, logprobs: Tensor, old: Tensor, advantages: Tensor, **options: Any) -> TokenLoss:
    defaults: dict[str, Any] = {
        "sample_index": torch.zeros(len(logprobs), dtype=torch.int64),
        "num_samples": 1,
        "clip_low": 0.2,
        "clip_high": 0.2,
        "clip_delta": None,
        "gate_temperature_positive": 1.0,
        "gate_temperature_negative": 1.05,
    }
    return policy_loss(kind, logprobs=logprobs, old_logprobs=old, advantages=advantages, **{**defaults, **options})


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
    logprobs = vector(math.log(ratio)).requires_grad_()
    got = clipped_policy_loss(logprobs, vector(0), vector(advantage), clip_low=0.2, clip_high=0.2, clip_delta=4.0)
    assert got.loss.item() == pytest.approx(loss, abs=1e-12)
    assert got.clipped.item() is clipped
    gradient = torch.autograd.grad(got.loss.sum(), logprobs)[0].item()
    assert gradient == pytest.approx(0.0 if clipped else -advantage * ratio, abs=1e-12)


@pytest.mark.parametrize(
    ("advantage", "expected", "clipped"), [(1.0, 1.2, True), (-1.0, math.sqrt(2), False), (0.0, 0.0, False)]
)
def test_gspo_clips_whole_sequences_by_the_geometric_mean(advantage: float, expected: float, clipped: bool) -> None:
    # Ratios 4 and 1/2: geometric mean sqrt(2).
    logprobs = vector(math.log(4), math.log(0.5)).requires_grad_()
    got = gspo_policy_loss(
        logprobs,
        vector(0, 0),
        vector(advantage, advantage),
        sample_index=torch.tensor([0, 0]),
        num_samples=1,
        clip_low=0.2,
        clip_high=0.2,
    )
    assert got.loss.tolist() == pytest.approx([-advantage * expected] * 2, abs=1e-12)
    assert got.clipped.tolist() == [clipped] * 2
    gradient = torch.autograd.grad(got.loss.mean(), logprobs)[0]
    wanted = 0.0 if clipped else -advantage * math.sqrt(2) / 2
    assert gradient.tolist() == pytest.approx([wanted] * 2, abs=1e-12)


@pytest.mark.parametrize(
    ("ratio", "clip_low", "weight", "clipped"),
    [(1.5, 0.2, 1.2, True), (0.5, 0.2, 0.8, True), (0.5, 1.0, 0.5, False), (1.1, 0.2, 1.1, False)],
)
def test_cispo_bounds_the_weight_of_a_gradient_that_stays(
    ratio: float, clip_low: float, weight: float, clipped: bool
) -> None:
    for advantage in (1.0, -2.0):
        logprobs = vector(-0.7).requires_grad_()
        old = vector(-0.7 - math.log(ratio))
        got = cispo_policy_loss(logprobs, old, vector(advantage), clip_low=clip_low, clip_high=0.2)
        assert got.loss.item() == pytest.approx(-weight * advantage * -0.7, abs=1e-12)
        assert got.clipped.item() is clipped
        gradient = torch.autograd.grad(got.loss.sum(), logprobs)[0].item()
        assert gradient == pytest.approx(-weight * advantage, abs=1e-12)


@pytest.mark.parametrize(
    ("advantage", "log_ratios", "clipped"),
    [(1.0, (0.4, -0.6), (True, False)), (-1.0, (0.9, -0.4), (False, True)), (0.0, (0.0, 0.0), (False, False))],
)
def test_gmpo_clips_tokens_and_takes_their_geometric_mean(
    advantage: float, log_ratios: tuple[float, float], clipped: tuple[bool, bool]
) -> None:
    # Log ratios 0.9 and -0.6, clipped at +-0.4 on the side that the advantage pushes to.
    logprobs = vector(0.9, -0.6).requires_grad_()
    got = gmpo_policy_loss(
        logprobs,
        vector(0, 0),
        vector(advantage, advantage),
        sample_index=torch.tensor([0, 0]),
        num_samples=1,
        clip_low=0.4,
        clip_high=0.4,
    )
    mean = math.exp(sum(log_ratios) / 2)
    assert got.loss.mean().item() == pytest.approx(-advantage * mean, abs=1e-12)
    assert got.clipped.tolist() == list(clipped)
    gradient = torch.autograd.grad(got.loss.mean(), logprobs)[0]
    wanted = [0.0 if cut else -advantage * mean / 2 for cut in clipped]
    assert gradient.tolist() == pytest.approx(wanted, abs=1e-12)


def test_sapo_gate_equals_hand_computed() -> None:
    # tau 2 at ratio 1.5: sigmoid(1); tau 4 at ratio 0.5: sigmoid(-2).
    logprobs = vector(math.log(1.5), math.log(0.5)).requires_grad_()
    got = sapo_policy_loss(
        logprobs, vector(0, 0), vector(1, -3), gate_temperature_positive=2.0, gate_temperature_negative=4.0
    )
    up, down = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(2))
    assert got.loss.tolist() == pytest.approx([-2 * up, 3 * down], abs=1e-12)
    assert got.clipped.tolist() == [False, False]
    gradient = torch.autograd.grad(got.loss.sum(), logprobs)[0]
    assert gradient.tolist() == pytest.approx([-4 * up * (1 - up) * 1.5, 3 * 4 * down * (1 - down) * 0.5], abs=1e-12)


def test_reinforce_is_the_log_probability_times_the_advantage() -> None:
    got = reinforce_policy_loss(vector(-1, -2), vector(0.5, -1))
    assert got.loss.tolist() == [0.5, -2.0]
    assert got.clipped.tolist() == [False, False]


@pytest.mark.parametrize("kind", KINDS)
def test_on_policy_all_losses_have_the_policy_gradient(kind: PolicyLossKind) -> None:
    torch.manual_seed(0)
    logprobs = (-torch.rand(9, dtype=torch.float64)).requires_grad_()
    index = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2])
    advantages = vector(1.5, -0.5, 0.0)[index]
    got = run(kind, logprobs, logprobs.detach(), advantages, sample_index=index, num_samples=3)
    gradient = torch.autograd.grad(got.loss.sum(), logprobs)[0]
    torch.testing.assert_close(gradient, -advantages)
    assert not got.clipped.any()


@pytest.mark.parametrize("kind", ["clipped", "gspo", "gmpo"])
@pytest.mark.parametrize("clip_delta", [None, 2.0])
def test_clipped_marks_exactly_the_tokens_without_gradient(kind: PolicyLossKind, clip_delta: float | None) -> None:
    torch.manual_seed(1)
    index = torch.arange(200) // 2
    logprobs = torch.randn(200, dtype=torch.float64).requires_grad_()
    old = torch.randn(200, dtype=torch.float64)
    advantages = torch.randn(100, dtype=torch.float64)[index]
    got = run(kind, logprobs, old, advantages, sample_index=index, num_samples=100, clip_delta=clip_delta)
    gradient = torch.autograd.grad(got.loss.sum(), logprobs)[0]
    assert torch.equal(got.clipped, gradient == 0)
    assert 0 < got.clipped.sum() < 200


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huge_ratios_leave_loss_and_gradient_finite(kind: PolicyLossKind, dtype: torch.dtype) -> None:
    logprobs = torch.tensor([-1.0, -3000.0, -1.0, -3000.0], dtype=dtype, requires_grad=True)
    old = torch.tensor([-3000.0, -1.0, -3000.0, -1.0], dtype=dtype)
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=dtype)
    got = run(kind, logprobs, old, advantages, sample_index=torch.arange(4), num_samples=4)
    assert got.loss.dtype == dtype
    assert torch.isfinite(got.loss).all()
    assert torch.isfinite(torch.autograd.grad(got.loss.sum(), logprobs)[0]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("aggregation", get_args(Aggregation))
def test_micro_batches_of_whole_completions_add_up_to_the_full_batch(
    kind: PolicyLossKind, aggregation: Aggregation
) -> None:
    torch.manual_seed(2)
    lengths = torch.tensor([3, 1, 7, 4, 2, 5])
    groups = torch.tensor([0, 0, 0, 1, 1, 2])  # prompts of unequal numbers of completions
    group_tokens = torch.zeros(3, dtype=torch.int64).index_add(0, groups, lengths)[groups]
    logprobs = torch.randn(22, dtype=torch.float64).requires_grad_()
    old = logprobs.detach() + 0.3 * torch.randn(22, dtype=torch.float64)
    advantages = torch.randn(6, dtype=torch.float64)
    owner = torch.repeat_interleave(lengths)
    denominator = loss_denominator(num_tokens=22, num_completions=6, num_prompts=3, aggregation=aggregation)

    def loss(samples: list[int]) -> Tensor:
        """Loss of a micro-batch that holds these completions, in this order."""
        tokens = torch.cat([(owner == s).nonzero().squeeze(1) for s in samples])
        index = torch.repeat_interleave(lengths[samples])
        weights = token_weights(
            lengths[samples], aggregation=aggregation, max_completion_tokens=8, group_tokens=group_tokens[samples]
        )
        per_token = run(
            kind,
            logprobs[tokens],
            old[tokens],
            advantages[samples][index],
            sample_index=index,
            num_samples=len(samples),
        ).loss
        return (per_token * weights[index]).sum() / denominator

    full = loss([0, 1, 2, 3, 4, 5])
    full_gradient = torch.autograd.grad(full, logprobs)[0]
    for split in ([[5, 0], [2, 4, 1], [3]], [[i] for i in range(6)], [[3, 1, 2], [0, 4, 5]]):
        parts = torch.stack([loss(samples) for samples in split]).sum()
        torch.testing.assert_close(parts, full, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(torch.autograd.grad(parts, logprobs)[0], full_gradient, rtol=1e-12, atol=1e-12)
