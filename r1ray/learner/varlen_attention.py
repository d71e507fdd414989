"""Packed attention by PyTorch's varlen flash attention: CUDA, bfloat16 and float16, nothing padded.

A completion's keys and values are those of its prompt and its own, so the prompt's are repeated in memory, once per
completion, but computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from r1ray.learner.segments import Segment

CAUSAL = (-1, 0)


@dataclass(frozen=True, slots=True)
class VarlenLayout:
    """Segments as cumulative lengths: S of them over T query tokens and U key tokens.

    Attributes:
        cu_seq_q: [S + 1] int32.
        cu_seq_k: [S + 1] int32.
        max_q: longest segment.
        max_k: longest segment with its prefix.
        key_tokens: [U] int64, the token of each key; None where keys are the tokens as they are.
        tokens: T.
    """

    cu_seq_q: Tensor
    cu_seq_k: Tensor
    max_q: int
    max_k: int
    key_tokens: Tensor | None
    tokens: int

    @property
    def slots(self) -> int:
        """T: nothing is padded."""
        return self.tokens

    def to(self, device: torch.device) -> VarlenLayout:
        """Move every tensor to `device`, without waiting for what that is still computing."""
        return replace(
            self,
            cu_seq_q=self.cu_seq_q.pin_memory().to(device, non_blocking=True),
            cu_seq_k=self.cu_seq_k.pin_memory().to(device, non_blocking=True),
            key_tokens=None if self.key_tokens is None else self.key_tokens.pin_memory().to(device, non_blocking=True),
        )


def plan_varlen(segments: Sequence[Segment]) -> VarlenLayout:
    """Lay segments out; they cover the tokens 0..T-1 in order."""
    prefixes = [None if s.prefix is None else segments[s.prefix] for s in segments]
    lengths_q = [s.length for s in segments]
    lengths_k = [s.length + (p.length if p else 0) for s, p in zip(segments, prefixes, strict=True)]
    key_tokens = None
    if any(prefixes):
        runs = [run for s, p in zip(segments, prefixes, strict=True) for run in (p, s) if run is not None]
        key_tokens = torch.cat([torch.arange(run.start, run.start + run.length) for run in runs])
    return VarlenLayout(
        cu_seq_q=torch.tensor([0, *accumulate(lengths_q)], dtype=torch.int32),
        cu_seq_k=torch.tensor([0, *accumulate(lengths_k)], dtype=torch.int32),
        max_q=max(lengths_q),
        max_k=max(lengths_k),
        key_tokens=key_tokens,
        tokens=sum(lengths_q),
    )


class _Repeat(torch.autograd.Function):
    """[T, K, D] -> [U, K, D]; the gradients of a repeated token are summed in float32."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, index: Tensor) -> Tensor:
        ctx.index, ctx.count = index, tokens.shape[0]
        return tokens.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0]
        total = torch.zeros((ctx.count, *grad.shape[1:]), dtype=torch.float32, device=grad.device)
        return total.index_add_(0, ctx.index, grad.float()).to(grad.dtype), None


def varlen_attention(query: Tensor, key: Tensor, value: Tensor, layout: VarlenLayout, *, scaling: float) -> Tensor:
    """Attend within segments and to their prefixes; as `block_attention`.

    Queries are aligned with the end of their keys, so one causal call covers prompt and completion.
    """
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    if layout.key_tokens is not None:
        k, v = (_Repeat.apply(x, layout.key_tokens) for x in (k, v))  # type: ignore[no-untyped-call]
    out = varlen_attn(
        q.contiguous(),
        k.contiguous(),
        v.contiguous(),
        layout.cu_seq_q,
        layout.cu_seq_k,
        layout.max_q,
        layout.max_k,
        scale=scaling,
        window_size=CAUSAL,
        enable_gqa=k.shape[1] != q.shape[1],
    )
    assert isinstance(out, Tensor)
    return out[None]
