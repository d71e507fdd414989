import math

import pytest
import torch
from torch import Tensor

from r1ray.algorithms.aggregation import loss_denominator, token_weights
from r1ray.algorithms.importance import importance_weights
from r1ray.algorithms.kl import kl_estimate
from r1ray.algorithms.policy_losses import (
    cispo_policy_loss,
    clipped_policy_loss,
    gmpo_policy_loss,
    gspo_policy_loss,
    policy_loss,
    reinforce_policy_loss,
    sapo_policy_loss,
)

KINDS = ["clipped", "gspo", "cispo", "gmpo", "sapo", "reinforce"]


def logs(*ratios: float) -> Tensor:
    """Log-probabilities beside old ones of 0."""
    return torch.tensor([math.log(r) for r in ratios], dtype=torch.float64, requires_grad=True)


def zeros(like: Tensor) -> Tensor:
    return torch.zeros(len(like), dtype=torch.float64)


def full(like: Tensor, value: float) -> Tensor:
    return torch.full((len(like),), value, dtype=torch.float64)


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
    logprobs = logs(ratio)
    got, was_clipped = clipped_policy_loss(
        logprobs, zeros(logprobs), full(logprobs, advantage), clip_low=0.2, clip_high=0.2, clip_delta=4.0
    )
    got.sum().backward()
    assert got.tolist() == pytest.approx([loss], abs=1e-12)
    assert was_clipped.item() is clipped
    # Clipped tokens, and only those, carry no gradient.
    assert logprobs.grad is not None
    assert (logprobs.grad.item() == 0.0) is clipped


def test_gspo_clips_whole_completions_by_their_geometric_mean() -> None:
    # First completion: ratio sqrt(1.21) = 1.1, clipped at 1.05; second: 0.98.
    logprobs = logs(1.21, 1.0, 0.98)
    index = torch.tensor([0, 0, 1])
    loss, clipped = gspo_policy_loss(
        logprobs, zeros(logprobs), full(logprobs, 2.0), index, 2, clip_low=0.05, clip_high=0.05
    )
    assert loss.tolist() == pytest.approx([-2.1, -2.1, -1.96], abs=1e-12)
    assert clipped.tolist() == [True, True, False]


def test_gspo_has_the_gradient_of_the_loss_of_sequences() -> None:
    generator = torch.Generator().manual_seed(0)
    log_ratio = (0.01 * torch.randn(6, generator=generator, dtype=torch.float64)).requires_grad_()
    index = torch.tensor([0, 0, 0, 1, 1, 1])
    loss, _ = gspo_policy_loss(
        log_ratio, zeros(log_ratio), torch.tensor([1.0, 1, 1, -2, -2, -2]).double(), index, 2, clip_low=1, clip_high=1
    )
    (ours,) = torch.autograd.grad(loss.sum() / 3, log_ratio)
    sequence = -1.0 * log_ratio[:3].mean().exp() + 2.0 * log_ratio[3:].mean().exp()
    (expected,) = torch.autograd.grad(sequence, log_ratio)
    torch.testing.assert_close(ours, expected, atol=1e-12, rtol=0)


def test_cispo_keeps_the_gradient_of_every_token() -> None:
    logprobs = logs(1.5, 0.5, 0.01)
    loss, clipped = cispo_policy_loss(logprobs, zeros(logprobs), full(logprobs, 2.0), clip_low=1.0, clip_high=0.2)
    loss.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-2.4, -1.0, -0.02], abs=1e-12)
    assert loss.tolist() == pytest.approx([-2.4 * math.log(1.5), -math.log(0.5), -0.02 * math.log(0.01)], abs=1e-12)
    assert clipped.tolist() == [True, False, False]


@pytest.mark.parametrize(("advantage", "expected"), [(1.0, math.exp((0.4 - 0.6) / 2)), (-1.0, math.exp(0.15))])
def test_gmpo_takes_the_geometric_mean_of_clipped_ratios(advantage: float, expected: float) -> None:
    # Log ratios 0.7 and -0.6 (0.7 and -0.4 where the advantage is negative).
    logprobs = torch.tensor([0.7, -0.6], dtype=torch.float64, requires_grad=True)
    loss, clipped = gmpo_policy_loss(
        logprobs,
        zeros(logprobs),
        full(logprobs, advantage),
        torch.tensor([0, 0]),
        1,
        clip_low=0.4,
        clip_high=0.4,
    )
    assert loss.tolist() == pytest.approx([-advantage * expected] * 2, abs=1e-12)
    assert clipped.tolist() == [advantage > 0, advantage < 0]
    (loss.sum() / 2).backward()
    assert logprobs.grad is not None
    # The mean over two tokens: each that is not clipped has half of the sequence's derivative.
    assert sorted(logprobs.grad.abs().tolist()) == pytest.approx([0.0, expected / 2], abs=1e-12)


def test_sapo_equals_hand_computed_and_has_the_policy_gradient_at_ratio_1() -> None:
    logprobs = logs(1.0, 2.0, 2.0)
    advantages = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    loss, _ = sapo_policy_loss(
        logprobs, zeros(logprobs), advantages, temperature_positive=1.0, temperature_negative=2.0
    )
    sigmoid = [1 / (1 + math.exp(-x)) for x in (0.0, 1.0, 2.0)]
    assert loss.tolist() == pytest.approx([-4 * sigmoid[0], -4 * sigmoid[1], 2 * sigmoid[2]], abs=1e-12)
    (gradient,) = torch.autograd.grad(loss.sum(), logprobs)
    # d/dr of the gate at r = 1 is 4 * s * (1 - s) = 1.
    assert gradient[0].item() == pytest.approx(-1.0, abs=1e-12)


def test_reinforce_is_minus_advantage_times_logprob() -> None:
    logprobs = logs(0.5)
    loss, clipped = reinforce_policy_loss(logprobs, full(logprobs, 3.0))
    assert loss.item() == pytest.approx(-3 * math.log(0.5))
    assert not clipped.any()


def random_batch(completions: int = 7) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    lengths = torch.randint(1, 9, (completions,), generator=generator)
    index = torch.repeat_interleave(torch.arange(completions), lengths)
    logprobs = -3 * torch.rand(len(index), generator=generator, dtype=torch.float64) - 0.1
    noise = [0.4 * torch.randn(len(index), generator=generator, dtype=torch.float64) for _ in range(3)]
    advantages = torch.randn(completions, generator=generator, dtype=torch.float64)[index]
    return {
        "logprobs": logprobs.requires_grad_(),
        "old_logprobs": logprobs.detach() + noise[0],
        "rollout_logprobs": logprobs.detach() + noise[1],
        "ref_logprobs": logprobs.detach() + noise[2],
        "advantages": advantages,
        "sample_index": index,
        "lengths": lengths,
        "group_tokens": torch.bincount(torch.arange(completions) // 2, weights=lengths.double())[
            torch.arange(completions) // 2
        ],
    }


def weighted_sum(batch: dict[str, Tensor], kind: str, aggregation: str, level: str) -> Tensor:
    """The whole objective over some completions, before the global denominator."""
    count = len(batch["lengths"])
    loss, _ = policy_loss(
        kind,  # type: ignore[arg-type]
        logprobs=batch["logprobs"],
        old_logprobs=batch["old_logprobs"],
        advantages=batch["advantages"],
        sample_index=batch["sample_index"],
        num_samples=count,
        clip_low=0.2,
        clip_high=0.3,
        clip_delta=None,
        gate_temperature_positive=1.0,
        gate_temperature_negative=1.05,
    )
    importance = importance_weights(
        batch["old_logprobs"],
        batch["rollout_logprobs"],
        batch["sample_index"],
        count,
        correction="truncate",
        level=level,  # type: ignore[arg-type]
        cap=2.0,
    )
    kl = kl_estimate(
        "weighted_k3",
        logprobs=batch["logprobs"],
        ref_logprobs=batch["ref_logprobs"],
        old_logprobs=batch["old_logprobs"],
    )
    weights = token_weights(
        batch["lengths"],
        aggregation=aggregation,  # type: ignore[arg-type]
        max_completion_tokens=16,
        group_tokens=batch["group_tokens"],
    )
    return ((loss * importance + 0.1 * kl) * weights[batch["sample_index"]]).sum()


def part_of(batch: dict[str, Tensor], completions: list[int]) -> dict[str, Tensor]:
    tokens = torch.cat([(batch["sample_index"] == c).nonzero()[:, 0] for c in completions])
    part = {k: v[tokens] for k, v in batch.items() if len(v) == len(batch["sample_index"])}
    part |= {k: batch[k][torch.tensor(completions)] for k in ("lengths", "group_tokens")}
    renumber = {c: i for i, c in enumerate(completions)}
    part["sample_index"] = torch.tensor([renumber[int(c)] for c in batch["sample_index"][tokens]])
    return part


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("aggregation", ["token", "sequence", "prompt", "constant"])
@pytest.mark.parametrize("level", ["token", "sequence", "geometric"])
def test_loss_and_gradient_do_not_depend_on_the_split(kind: str, aggregation: str, level: str) -> None:
    batch = random_batch()
    whole = weighted_sum(batch, kind, aggregation, level)
    parts = sum(weighted_sum(part_of(batch, c), kind, aggregation, level) for c in ([5, 0], [3], [1, 6, 2, 4]))
    assert isinstance(parts, Tensor)
    torch.testing.assert_close(parts, whole, atol=1e-10, rtol=0)
    (expected,) = torch.autograd.grad(whole, batch["logprobs"])
    (ours,) = torch.autograd.grad(parts, batch["logprobs"])
    torch.testing.assert_close(ours, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("aggregation", "weights", "denominator"),
    [
        ("token", [1, 1, 1], 9),
        ("sequence", [1 / 2, 1 / 4, 1 / 3], 3),
        ("prompt", [1 / 6, 1 / 6, 1 / 3], 2),
        ("constant", [0.1, 0.1, 0.1], 3),
    ],
)
def test_token_weights_per_aggregation(aggregation, weights, denominator) -> None:  # type: ignore[no-untyped-def]
    got = token_weights(
        torch.tensor([2, 4, 3]),
        aggregation=aggregation,
        max_completion_tokens=10,
        group_tokens=torch.tensor([6, 6, 3]),
    )
    assert got.tolist() == pytest.approx(weights, abs=1e-15)
    assert loss_denominator(num_tokens=9, num_completions=3, num_prompts=2, aggregation=aggregation) == denominator


def test_prompt_mean_needs_to_know_the_prompts() -> None:
    with pytest.raises(ValueError, match="group_tokens"):
        token_weights(torch.tensor([2]), aggregation="prompt", max_completion_tokens=1)


def test_importance_weights_equal_hand_computed() -> None:
    old = torch.tensor([0.0, 0.0, 0.0], requires_grad=True)
    rollout = torch.tensor([-3.0, 0.5, -0.1])
    index = torch.tensor([0, 0, 1])

    def weights(correction: str, level: str, cap: float = 2.0, floor: float = 0.0) -> list[float]:
        got = importance_weights(old, rollout, index, 2, correction=correction, level=level, cap=cap, floor=floor)  # type: ignore[arg-type]
        assert not got.requires_grad
        values: list[float] = got.tolist()
        return values

    assert weights("none", "token") == [1.0, 1.0, 1.0]
    assert weights("truncate", "token") == pytest.approx([2.0, math.exp(-0.5), math.exp(0.1)])
    assert weights("mask", "token") == pytest.approx([0.0, math.exp(-0.5), math.exp(0.1)])
    assert weights("mask", "token", floor=0.9) == pytest.approx([0.0, 0.0, math.exp(0.1)])
    assert weights("truncate", "sequence", cap=100) == pytest.approx([math.exp(2.5)] * 2 + [math.exp(0.1)])
    assert weights("truncate", "geometric", cap=100) == pytest.approx([math.exp(1.25)] * 2 + [math.exp(0.1)])


def test_long_sequences_do_not_overflow() -> None:
    old, rollout = torch.zeros(1000), torch.full((1000,), -1.0)
    index = torch.zeros(1000, dtype=torch.long)
    for correction in ("truncate", "mask"):
        got = importance_weights(old, rollout, index, 1, correction=correction, level="sequence", cap=2.0)  # type: ignore[arg-type]
        assert got.isfinite().all()


def test_kl_estimators_equal_their_definitions() -> None:
    logprobs, reference, old = torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -1.5]), torch.tensor([-1.0, -2.2])

    def kl(kind: str) -> list[float]:
        values: list[float] = kl_estimate(
            kind,  # type: ignore[arg-type]
            logprobs=logprobs,
            ref_logprobs=reference,
            old_logprobs=old,
        ).tolist()
        return values

    k3 = math.exp(0.5) - 0.5 - 1
    assert kl("k1") == pytest.approx([0.0, -0.5], abs=1e-7)
    assert kl("k2") == pytest.approx([0.0, 0.125], abs=1e-7)
    assert kl("k3") == pytest.approx([0.0, k3], abs=1e-7)
    assert kl("weighted_k3") == pytest.approx([0.0, k3 * math.exp(0.2)], abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "exact_gradient"), [("k1", False), ("k2", True), ("k3", False), ("weighted_k3", True)]
)
def test_kl_estimators_average_to_the_kl_and_some_to_its_gradient(kind: str, exact_gradient: bool) -> None:
    """Exact expectation over the tokens of a distribution, not a sample of them."""
    generator = torch.Generator().manual_seed(0)
    scores = (0.1 * torch.randn(50, generator=generator, dtype=torch.float64)).requires_grad_()
    reference = (0.1 * torch.randn(50, generator=generator, dtype=torch.float64)).log_softmax(-1)
    policy = scores.log_softmax(-1)
    exact = (policy.exp() * (policy - reference)).sum()
    estimate = kl_estimate(kind, logprobs=policy, ref_logprobs=reference, old_logprobs=policy.detach())  # type: ignore[arg-type]
    mean = (policy.detach().exp() * estimate).sum()
    assert mean.item() == pytest.approx(exact.item(), rel=0.2 if kind == "k2" else 1e-12)
    (expected,) = torch.autograd.grad(exact, scores, retain_graph=True)
    (gradient,) = torch.autograd.grad(mean, scores)
    assert torch.allclose(gradient, expected, atol=1e-12, rtol=1e-9) is exact_gradient
    if kind == "k1":
        assert gradient.abs().max() < 1e-12


def test_far_references_do_not_overflow() -> None:
    values = kl_estimate(
        "k3", logprobs=torch.tensor([-1000.0]), ref_logprobs=torch.zeros(1), old_logprobs=torch.zeros(1)
    )
    assert values.isfinite().all()
