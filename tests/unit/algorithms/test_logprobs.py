import pytest
import torch
from torch import Tensor

from r1ray.algorithms.logprobs import linear_logprobs


def whole_logprobs(
    hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, temperature: float, mode: str
) -> tuple[Tensor, Tensor]:
    """From all logits at once, by torch.distributions."""
    reference = torch.distributions.Categorical(logits=(hidden @ weight.t() + bias) / temperature)
    entropy = reference.entropy()
    return reference.log_prob(targets), {"none": 0 * entropy, "value": entropy.detach(), "gradient": entropy}[mode]


@pytest.mark.parametrize("rows", [1, 5, 100])
@pytest.mark.parametrize("mode", ["none", "value", "gradient"])
def test_chunked_logprobs_equal_those_of_all_logits(rows: int, mode: str) -> None:
    """Values and gradients, against autograd through the whole logits in float64."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    hidden, weight, bias = (draw(*s).requires_grad_() for s in ((13, 8), (31, 8), (31,)))
    targets = torch.randint(0, 31, (13,), generator=generator)
    on_logprobs, on_entropy = draw(13), draw(13)
    results = []
    for logprobs, entropy in (
        whole_logprobs(hidden, weight, bias, targets, 0.7, mode),
        linear_logprobs(
            hidden,
            weight,
            bias,
            targets,
            temperature=0.7,
            entropy=mode,  # type: ignore[arg-type]
            chunk_elements=31 * rows,
        ),
    ):
        loss = (logprobs * on_logprobs).sum()
        if mode == "gradient":
            loss = loss + (entropy * on_entropy).sum()
        results.append((logprobs, entropy, *torch.autograd.grad(loss, (hidden, weight, bias))))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_do_not_change_the_numbers(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(64, 32, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(2000, 32, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(0, 2000, (64,), generator=generator)
    whole, _ = linear_logprobs(hidden, weight, None, targets, temperature=1.0, chunk_elements=1 << 30)
    parts, _ = linear_logprobs(hidden, weight, None, targets, temperature=1.0, chunk_elements=2000 * 7)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)
    expected = torch.autograd.grad(whole.sum(), (hidden, weight))
    for ours, theirs in zip(torch.autograd.grad(parts.sum(), (hidden, weight)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5 if dtype == torch.float32 else 2e-2, rtol=2e-2)


def test_no_tokens_give_no_values_and_zero_gradients() -> None:
    hidden = torch.zeros(0, 4, requires_grad=True)
    weight = torch.ones(9, 4, requires_grad=True)
    logprobs, entropy = linear_logprobs(hidden, weight, None, torch.zeros(0, dtype=torch.long), temperature=1.0)
    (logprobs.sum() + entropy.sum()).backward()
    assert logprobs.shape == (0,)
    assert weight.grad is not None
    assert not weight.grad.any()
