import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from r1ray.algorithms.kl import KlEstimator, k1_kl, k2_kl, k3_kl, kl_estimate, weighted_k3_kl


def distributions() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    logits, ref, old = torch.randn(3, 20, dtype=torch.float64)
    return logits.requires_grad_(), ref.log_softmax(-1), old.log_softmax(-1)


def gradient(value: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(value, logits)[0]


def mean_over_tokens(sampler: Tensor, estimates: Tensor) -> Tensor:
    """Mean over tokens drawn from `sampler`, which as a loss carries no gradient through the draw."""
    return (sampler.detach().exp() * estimates).sum()


def test_estimators_equal_hand_computed() -> None:
    logprobs, ref = torch.tensor([-1.0, -2.0], dtype=torch.float64), torch.tensor([-1.0, -1.5], dtype=torch.float64)
    old = logprobs - math.log(3)
    k3 = math.exp(0.5) - 0.5 - 1
    assert k1_kl(logprobs, ref).tolist() == [0.0, -0.5]
    assert k2_kl(logprobs, ref).tolist() == [0.0, 0.125]
    assert k3_kl(logprobs, ref).tolist() == pytest.approx([0.0, k3], abs=1e-12)
    assert weighted_k3_kl(logprobs, ref, old).tolist() == pytest.approx([0.0, 3 * k3], abs=1e-12)


@pytest.mark.parametrize("estimator", [k1_kl, k3_kl])
def test_k1_and_k3_average_to_the_exact_kl(estimator: Callable[[Tensor, Tensor], Tensor]) -> None:
    logits, ref, _ = distributions()
    p = logits.detach().log_softmax(-1)
    exact = (p.exp() * (p - ref)).sum()
    assert mean_over_tokens(p, estimator(p, ref)).item() == pytest.approx(exact.item(), abs=1e-12)


def test_gradients_of_losses_are_what_the_module_says() -> None:
    logits, ref, old = distributions()
    p = logits.log_softmax(-1)
    forward = gradient((ref.exp() * (ref - p)).sum(), logits)
    exact = gradient(((p := logits.log_softmax(-1)).exp() * (p - ref)).sum(), logits)

    def of(sampler: Tensor, estimate: Callable[[Tensor], Tensor]) -> Tensor:
        return gradient(mean_over_tokens(sampler, estimate(logits.log_softmax(-1))), logits)

    torch.testing.assert_close(of(p, lambda q: k1_kl(q, ref)), torch.zeros_like(exact), rtol=0, atol=1e-12)
    torch.testing.assert_close(of(p, lambda q: k2_kl(q, ref)), exact)
    torch.testing.assert_close(of(p, lambda q: k3_kl(q, ref)), forward)
    torch.testing.assert_close(of(p, lambda q: weighted_k3_kl(q, ref, p.detach())), exact)
    torch.testing.assert_close(of(old, lambda q: weighted_k3_kl(q, ref, old)), exact)


def test_weighted_k3_has_the_right_value_on_tokens_of_the_old_policy() -> None:
    logits, ref, old = distributions()
    p = logits.detach().log_softmax(-1)
    exact = (p.exp() * (p - ref)).sum()
    assert mean_over_tokens(old, weighted_k3_kl(p, ref, old)).item() == pytest.approx(exact.item(), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_k3_stays_finite_with_finite_gradients_at_any_distance(dtype: torch.dtype) -> None:
    logprobs = torch.tensor([-2000.0, 0.0, -1000.0], dtype=dtype, requires_grad=True)
    old, ref = torch.tensor([0.0, -1500.0, -1000.0], dtype=dtype), torch.tensor([0.0, -1000.0, 0.0], dtype=dtype)
    for estimate in (k3_kl(logprobs, ref), weighted_k3_kl(logprobs, ref, old)):
        assert torch.isfinite(estimate).all()
        assert torch.isfinite(torch.autograd.grad(estimate.sum(), logprobs)[0]).all()


@pytest.mark.parametrize("kind", ["k1", "k2", "k3", "weighted_k3"])
def test_dispatcher_returns_the_named_estimator(kind: KlEstimator) -> None:
    logits, ref, old = distributions()
    p = logits.detach().log_softmax(-1)
    expected = {
        "k1": k1_kl(p, ref),
        "k2": k2_kl(p, ref),
        "k3": k3_kl(p, ref),
        "weighted_k3": weighted_k3_kl(p, ref, old),
    }[kind]
    assert torch.equal(kl_estimate(kind, logprobs=p, ref_logprobs=ref, old_logprobs=old), expected)
