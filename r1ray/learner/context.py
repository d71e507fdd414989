"""Context parallelism: c processes split the packed tokens of one micro-batch, and the heads inside attention.

As in Ulysses (arXiv:2309.14509), each process runs the model on T/c tokens; in attention an all-to-all gives it all T
tokens of 1/c of the heads, and another brings the tokens back. Attention itself thus sees whole sequences and stays
as it is, whatever the layout and the kernel. The heads bound c.

Not torch's ring attention (torch.distributed.tensor.experimental.context_parallel, a prototype in torch 2.13): for
scaled-dot-product attention it knows "causal" and "everything" only (its memory-efficient and cuDNN kernels refuse a
mask, "attn_bias is not supported yet", flash takes none), it has no causal CPU kernel, and its FlexAttention masks want
T to be a multiple of 128 c.

The loss. `gather_tokens` gives every process of the group the log-probabilities of all completion tokens, and each
computes the same loss L of the whole micro-batch from them. In the backward pass each goes on with dL/dlogprob of its
own tokens only, and the all-to-alls carry what belongs to tokens of others. So the gradients of the c processes add
up to that of L: each token is counted once. FSDP2 averages over its mesh (`Meshes.shard`, data x context), hence

    loss passed to backward = L * meshes.shard.size()

makes gradients of the sum over data ranks, with tensor and context parallelism as without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_to_all_single_autograd, wait_tensor
from torch.nn.functional import pad

from r1ray.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TokenShare:
    """What one process of a context group computes of a micro-batch of T tokens, N of them predicted.

    Attributes:
        input_ids: [1, S] int64, S = T / c rounded up: tokens `rank * S` and on; padding says 0.
        position_ids: [1, S] int64.
        chosen: [n] int64 into the N predicted tokens, those that this process's tokens predict.
        predict_from: [n] int64 into its S tokens.
        counts: n of every process of the group.
        restore: [N] int64, where each predicted token is in what `gather_tokens` returns.
    """

    input_ids: Tensor
    position_ids: Tensor
    chosen: Tensor
    predict_from: Tensor
    counts: tuple[int, ...]
    restore: Tensor


def cut_tokens(input_ids: Tensor, position_ids: Tensor, predict_from: Tensor, *, rank: int, size: int) -> TokenShare:
    """Cut a packed micro-batch for a context group; every process passes the same one.

    Best done in CPU memory, before the batch moves to a GPU, since it reads the counts.

    Args:
        input_ids: [1, T].
        position_ids: [1, T].
        predict_from: [N] int64 into the T tokens, in any order, as in `MicroBatch`.
        rank: of this process in the group.
        size: c, of the group.
    """
    num_tokens = input_ids.shape[1]
    share = -(-num_tokens // size)
    start = rank * share
    tokens, positions = (
        pad(x, (0, share * size - num_tokens))[:, start : start + share] for x in (input_ids, position_ids)
    )
    owner = predict_from // share
    order = torch.argsort(owner, stable=True)
    restore = torch.empty_like(order)
    restore[order] = torch.arange(len(order), device=order.device)
    counts = torch.bincount(owner, minlength=size).tolist()
    chosen = torch.split(order, counts)[rank]
    return TokenShare(tokens, positions, chosen, predict_from[chosen] - start, tuple(counts), restore)


def check_heads(config: Any, *, tensor_parallel: int, context_parallel: int) -> None:
    """Refuse a context group whose size does not fit the attention heads.

    Args:
        config: of the Hugging Face model.
        tensor_parallel: processes that split the heads already.
        context_parallel: c.

    Raises:
        ConfigError: c does not divide the query heads, or neither divides the key-value heads nor is a multiple.
    """
    text = config.get_text_config()
    queries, pairs = (n // tensor_parallel for n in (text.num_attention_heads, text.num_key_value_heads))

    def fits(c: int) -> bool:
        return bool(queries % c == 0 and (pairs % c == 0 or c % pairs == 0))

    if not fits(context_parallel):
        allowed = [c for c in range(1, queries + 1) if fits(c)]
        raise ConfigError(
            f"learner.context_parallel must divide the attention heads of {text.model_type}, here {queries} heads and "
            f"{pairs} key-value heads in each of {tensor_parallel} tensor ranks, got {context_parallel}: set it to one "
            f"of {allowed}"
        )


def to_heads(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Exchange tokens for heads: [1, H, S, D], this process's S of c * S tokens -> [1, H / c, c * S, D].

    Process r gets the r-th run of H / c heads. Differentiable; a collective of the group, forward and backward.
    """
    size = group.size()
    _, heads, share, width = x.shape
    received = _exchange(x.reshape(size, heads // size, share, width), group)
    return received.transpose(0, 1).reshape(1, heads // size, size * share, width)


def to_tokens(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Undo `to_heads`: [1, H / c, c * S, D] -> [1, H, S, D]."""
    size = group.size()
    _, heads, tokens, width = x.shape
    parts = x.reshape(heads, size, tokens // size, width).transpose(0, 1)
    return _exchange(parts, group).reshape(1, size * heads, tokens // size, width)


def _exchange(parts: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Send part i of the leading dimension to process i; return what came, by sender."""
    received = all_to_all_single_autograd(parts.contiguous(), None, None, group)
    arrived: Tensor = wait_tensor(received)  # type: ignore[no-untyped-call]
    return arrived


class Attention(Protocol):
    """A transformers attention implementation over packed tokens, such as `attention.packed_attention`."""

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """Take [1, H, T, D] and return [1, T, H, D]."""


def context_attention(
    attention: Attention,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    num_tokens: int,
    group: dist.ProcessGroup,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend over the tokens of all processes of the group with `attention`, two exchanges in all.

    Args:
        attention: called with all T tokens of this process's heads.
        module: the attention layer.
        query: [1, H, S, D], this process's tokens, padding included.
        key: [1, K, S, D], K divides H; where c > K, heads are repeated. `check_heads` says what fits.
        value: [1, K, S, D].
        attention_mask: None.
        num_tokens: T.
        group: the context group.
        **kwargs: for `attention`, such as the layout of all T tokens.

    Returns:
        [1, S, H, D]; zero for padding.
    """
    size = group.size()
    if key.shape[1] < size:
        key, value = (x.repeat_interleave(size // x.shape[1], dim=1) for x in (key, value))
    # One exchange for all three: per receiver, its query heads, then its key heads, then its value heads.
    parts = [torch.unflatten(x, 1, (size, -1)) for x in (query, key, value)]
    joined = to_heads(torch.cat(parts, dim=2).flatten(1, 2), group)[:, :, :num_tokens]
    q, k, v = torch.split(joined, [part.shape[2] for part in parts], dim=1)
    out, _ = attention(module, q, k, v, attention_mask, **kwargs)
    padding = size * query.shape[2] - num_tokens
    return to_tokens(pad(out.transpose(1, 2), (0, 0, 0, padding)), group).transpose(1, 2), None


class _Gather(torch.autograd.Function):
    """Concatenates the results of all processes; the gradient of each goes to its own, unreduced."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, counts: tuple[int, ...], group: dist.ProcessGroup) -> Tensor:
        ctx.counts, ctx.rank = counts, group.rank()
        longest = max(counts)
        padded = pad(local, (0, longest - len(local)))
        everything = padded.new_empty(len(counts) * longest)
        dist.all_gather_into_tensor(everything, padded, group=group)
        return torch.cat([part[:n] for part, n in zip(torch.split(everything, longest), counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        own: Tensor = torch.split(grads[0], list(ctx.counts))[ctx.rank]
        return own, None, None


def gather_tokens(local: Tensor, counts: Sequence[int], group: dist.ProcessGroup) -> Tensor:
    """Gather per-token results of unequal number: [n] here -> [N], in order of the processes; a collective.

    The backward pass hands each process the slice of its own tokens and adds nothing up: every process holds the same
    loss (see the module's header). Where a process has no token, its result must still depend on the model, so that it
    enters the exchanges of the backward pass with the others.

    Args:
        local: [n] floating point.
        counts: n of every process of the group, the same sequence on each.
        group: the context group.
    """
    assert len(local) == counts[group.rank()]
    if not any(counts):
        return local
    gathered: Tensor = _Gather.apply(local, tuple(counts), group)  # type: ignore[no-untyped-call]
    return gathered
