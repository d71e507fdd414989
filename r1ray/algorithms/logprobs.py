"""Log-probabilities of chosen tokens, and the entropy of what they were chosen from, from the LM head's weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

# Entropy that is only looked at needs no gradient, which for large vocabularies saves a third of the work.
EntropyMode = Literal["none", "value", "gradient"]

# Logits made at once, in elements: 128 MiB and 1 GiB in float32. Smaller products are slower, and each chunk adds once
# to the gradient of the weights.
CPU_CHUNK_ELEMENTS = 1 << 25
CUDA_CHUNK_ELEMENTS = 1 << 28


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    temperature: float,
    entropy: EntropyMode = "none",
    chunk_elements: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the log-probability of each target and the entropy of its distribution, a chunk of tokens at a time.

        z = (hidden @ weight.T + bias) / temperature,     logprob = z[target] - log(sum(exp(z)))

    Where there is more than one chunk, the backward pass makes each chunk's logits again, so that at no time more than
    `chunk_elements` of them exist; the gradient of the weights is summed in float32. Chunks go over tokens only: a
    chunk over the vocabulary would need the normalizer first, hence one more pass over all logits.

    Args:
        hidden: [N, H] any float dtype.
        weight: [V, H] in the dtype of the product.
        bias: [V] or None.
        targets: [N] int64 token ids.
        temperature: the sampling temperature the distribution is taken at.
        entropy: `gradient` lets gradients flow through the entropy, `value` does not, `none` returns zeros.
        chunk_elements: upper bound of tokens * V at a time (at least one token); None: by the device.

    Returns:
        logprobs [N], which carry gradients, and entropy [N] in nats; float32 (float64 for float64 weights).
    """
    if chunk_elements is None:
        chunk_elements = CUDA_CHUNK_ELEMENTS if hidden.is_cuda else CPU_CHUNK_ELEMENTS
    rows = max(1, chunk_elements // weight.shape[0])
    logprobs, entropies = _LinearLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden.to(weight.dtype), weight, bias, targets, temperature, entropy, rows
    )
    return logprobs, entropies


class _LinearLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        entropy: EntropyMode,
        rows: int,
    ) -> tuple[Tensor, Tensor]:
        exact = _exact_dtype(weight.dtype)
        logprobs = torch.empty(hidden.shape[0], dtype=exact, device=hidden.device)
        normalizers, entropies = torch.empty_like(logprobs), torch.zeros_like(logprobs)
        chunks = _chunks(hidden.shape[0], rows)
        ctx.kept = None
        reduce = _fused(_reduce, hidden)
        for part in chunks:
            logits = _logits(hidden[part], weight, bias)
            normalizers[part], logprobs[part], chunk_entropy = reduce(
                logits, targets[part], temperature, entropy != "none"
            )
            if chunk_entropy is not None:
                entropies[part] = chunk_entropy
            if len(chunks) == 1:
                ctx.kept = logits
        ctx.save_for_backward(hidden, weight, bias, targets, normalizers, entropies)
        ctx.temperature, ctx.rows = temperature, rows
        ctx.entropy_has_gradient = entropy == "gradient"
        if not ctx.entropy_has_gradient:
            ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normalizers, entropies = ctx.saved_tensors
        exact = normalizers.dtype
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros(weight.shape, dtype=exact, device=weight.device) if ctx.needs_input_grad[1] else None
        grad_bias = None if bias is None else torch.zeros(bias.shape, dtype=exact, device=bias.device)
        differentiate = _fused(_differentiate, hidden)
        for part in _chunks(hidden.shape[0], ctx.rows):
            logits = _logits(hidden[part], weight, bias) if ctx.kept is None else ctx.kept
            grad_entropy = grads[1][part] if ctx.entropy_has_gradient else None
            delta = differentiate(
                logits,
                targets[part],
                normalizers[part],
                entropies[part],
                grads[0][part],
                grad_entropy,
                ctx.temperature,
                weight.dtype,
            )
            if grad_bias is not None:
                grad_bias += delta.sum(0, dtype=exact)
            torch.mm(delta, weight, out=grad_hidden[part])
            if grad_weight is not None:
                _add_product(grad_weight, delta.t(), hidden[part])
        grad_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        grad_bias = None if grad_bias is None or bias is None else grad_bias.to(bias.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


def _chunks(count: int, rows: int) -> list[slice]:
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]


def _exact_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _product(left: Tensor, right: Tensor, exact: torch.dtype) -> Tensor:
    """Multiply and keep the accumulator's precision where the device can."""
    if left.dtype == exact:
        return left @ right
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=exact)
    return (left @ right).to(exact)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += _product(left, right, total.dtype)


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    logits = _product(hidden, weight.t(), _exact_dtype(weight.dtype))
    return logits if bias is None else logits.add_(bias)


def _reduce(
    logits: Tensor, targets: Tensor, temperature: float, with_entropy: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return normalizers, log-probabilities and entropies: [n] each, of logits [n, V] before the temperature."""
    scaled = logits / temperature if temperature != 1.0 else logits
    normalizers = torch.logsumexp(scaled, dim=-1)
    logprobs = scaled.gather(-1, targets[:, None]).squeeze(-1) - normalizers
    if not with_entropy:
        return normalizers, logprobs, None
    log_probabilities = scaled - normalizers[:, None]
    return normalizers, logprobs, -(log_probabilities.exp() * log_probabilities).sum(-1)


def _differentiate(
    logits: Tensor,
    targets: Tensor,
    normalizers: Tensor,
    entropies: Tensor,
    grad: Tensor,
    grad_entropy: Tensor | None,
    temperature: float,
    dtype: torch.dtype,
) -> Tensor:
    """Return the gradient by the logits before the temperature: [n, V].

    d logprob / dz = [target] - p,     d entropy / dz = -p * (log p + entropy)
    """
    scaled = logits / temperature if temperature != 1.0 else logits
    log_probabilities = scaled - normalizers[:, None]
    by_probability = -grad[:, None]
    if grad_entropy is not None:
        by_probability = by_probability - grad_entropy[:, None] * (log_probabilities + entropies[:, None])
    delta = log_probabilities.exp() * by_probability
    if logits.is_cuda:
        # Compiled into one pass, which a scatter would break in two.
        columns = torch.arange(logits.shape[-1], device=logits.device)
        delta = delta + torch.where(columns == targets[:, None], grad[:, None], 0.0)
    else:
        delta.scatter_add_(1, targets[:, None], grad[:, None])
    return (delta / temperature if temperature != 1.0 else delta).to(dtype)


def _fused(function: Callable[..., Any], where: Tensor) -> Callable[..., Any]:
    """Compile a function for CUDA, where each of its operations would read and write all logits."""
    return _compiled(function) if where.is_cuda else function


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)
