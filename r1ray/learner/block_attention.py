"""Packed attention by PyTorch's scaled-dot-product attention, for devices and dtypes without varlen kernels.

For the attention alone, segments of like length are padded into blocks, each of which is one call; everything else in
the model runs on the T tokens as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from r1ray.learner.segments import Segment

# A block takes segments down to this share of its longest, and so many tokens shorter: a call for every short segment
# would cost more than the padding does, for long ones it is the other way round.
LENGTH_RATIO = 0.75
MAX_PADDING = 64
# Elements of the mask of one block: segments * queries * keys. 32 Mi are 128 MiB in float32.
MASK_ELEMENTS = 1 << 25


@dataclass(frozen=True, slots=True)
class Block:
    """Segments of like length, padded: B rows of C slots.

    Attributes:
        rows: B.
        width: C.
        prefix_block: the block, of width P, that holds the prefixes of these rows; None where they have none.
        prefix_rows: [B] int64, the row of each row's prefix in that block.
        mask: [B, 1, C, P + C] float32, 0 where a query sees a key, else -inf. Rows without a prefix are causal
            and need none.
    """

    rows: int
    width: int
    prefix_block: int | None = None
    prefix_rows: Tensor | None = None
    mask: Tensor | None = None

    @property
    def slots(self) -> int:
        """B * C."""
        return self.rows * self.width


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """How the T tokens of a micro-batch go into blocks of M slots in all and come back.

    Attributes:
        token_of_slot: [M] int64; padding slots say 0.
        slot_of_token: [T] int64.
        real: [M] bool, False for padding slots.
        blocks: in slot order.
    """

    token_of_slot: Tensor
    slot_of_token: Tensor
    real: Tensor
    blocks: tuple[Block, ...]

    @property
    def tokens(self) -> int:
        """T."""
        return self.slot_of_token.numel()

    @property
    def slots(self) -> int:
        """M: what the attention computes, padding included."""
        return self.token_of_slot.numel()

    def to(self, device: torch.device) -> BlockLayout:
        """Move every tensor to `device`."""
        blocks = tuple(
            replace(
                b,
                prefix_rows=None if b.prefix_rows is None else b.prefix_rows.to(device),
                mask=None if b.mask is None else b.mask.to(device),
            )
            for b in self.blocks
        )
        return BlockLayout(self.token_of_slot.to(device), self.slot_of_token.to(device), self.real.to(device), blocks)


def plan_blocks(segments: Sequence[Segment]) -> BlockLayout:
    """Lay segments out in blocks.

    Args:
        segments: they cover the tokens 0..T-1 once each; a prefix has no prefix of its own.
    """
    blocks: list[Block] = []
    slots: list[Tensor] = []

    def place(members: Sequence[int], block: Block) -> None:
        tokens = torch.full((block.rows, block.width), -1, dtype=torch.long)
        for row, i in enumerate(members):
            start, length = segments[i].start, segments[i].length
            tokens[row, :length] = torch.arange(start, start + length)
        blocks.append(block)
        slots.append(tokens.flatten())

    followers: dict[int, list[int]] = {}
    for i, segment in enumerate(segments):
        if segment.prefix is not None:
            followers.setdefault(segment.prefix, []).append(i)
    alone = [i for i, s in enumerate(segments) if s.prefix is None and i not in followers]
    for members in _alike(segments, alone, prefix_width=0):
        place(members, Block(len(members), segments[members[0]].length))
    for prefixes in _alike(segments, list(followers), prefix_width=0):
        prefix_block, prefix_width = len(blocks), segments[prefixes[0]].length
        place(prefixes, Block(len(prefixes), prefix_width))
        row_of = {prefix: row for row, prefix in enumerate(prefixes)}
        completions = [i for prefix in prefixes for i in followers[prefix]]
        for members in _alike(segments, completions, prefix_width=prefix_width):
            chosen = [segments[i] for i in members]
            lengths = torch.tensor([segments[s.prefix or 0].length for s in chosen])
            mask = _mask(lengths, prefix_width, chosen[0].length)
            rows = torch.tensor([row_of[s.prefix or 0] for s in chosen])
            place(members, Block(len(members), chosen[0].length, prefix_block, rows, mask))
    token_of_slot = torch.cat(slots)
    real = token_of_slot >= 0
    slot_of_token = torch.empty(int(real.sum()), dtype=torch.long)
    slot_of_token[token_of_slot[real]] = real.nonzero().squeeze(-1)
    return BlockLayout(token_of_slot.clamp(min=0), slot_of_token, real, tuple(blocks))


def _alike(segments: Sequence[Segment], members: Sequence[int], *, prefix_width: int) -> list[list[int]]:
    """Group segments of like length, longest first, each group within the bound on its mask."""
    groups: list[list[int]] = []
    for i in sorted(members, key=lambda i: (-segments[i].length, i)):
        width = segments[groups[-1][0]].length if groups else 0
        shortest = max(LENGTH_RATIO * width, width - MAX_PADDING)
        alike = groups and segments[i].length >= shortest
        mask_elements = (len(groups[-1]) + 1) * width * (prefix_width + width) if groups and prefix_width else 0
        if alike and mask_elements <= MASK_ELEMENTS:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _mask(prefix_lengths: Tensor, prefix_width: int, width: int) -> Tensor:
    """Build [B, 1, C, P + C]: the whole prefix, and causal within the own segment."""
    prefix = torch.arange(prefix_width) < prefix_lengths[:, None]
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    rows = len(prefix_lengths)
    visible = torch.cat([prefix[:, None].expand(-1, width, -1), causal.expand(rows, -1, -1)], dim=-1)
    return torch.zeros(visible.shape).masked_fill_(~visible, float("-inf"))[:, None]


class _Pad(torch.autograd.Function):
    """[h, T, d] -> [h, M, d]. Padding slots repeat token 0 and pass no gradient."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, layout: BlockLayout) -> Tensor:
        ctx.layout = layout
        return tokens.index_select(1, layout.token_of_slot)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].index_select(1, ctx.layout.slot_of_token), None


class _Unpad(torch.autograd.Function):
    """[M, h, d] -> [T, h, d]; the gradient of padding slots is zero."""

    @staticmethod
    def forward(ctx: Any, slots: Tensor, layout: BlockLayout) -> Tensor:
        ctx.layout = layout
        return slots.index_select(0, layout.slot_of_token)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        layout = ctx.layout
        padded = grads[0].index_select(0, layout.token_of_slot)
        return padded.mul_(layout.real[:, None, None]), None


def _pad(tokens: Tensor, layout: BlockLayout) -> Tensor:
    padded: Tensor = _Pad.apply(tokens, layout)  # type: ignore[no-untyped-call]
    return padded


def _unpad(slots: Tensor, layout: BlockLayout) -> Tensor:
    tokens: Tensor = _Unpad.apply(slots, layout)  # type: ignore[no-untyped-call]
    return tokens


def block_attention(query: Tensor, key: Tensor, value: Tensor, layout: BlockLayout, *, scaling: float) -> Tensor:
    """Attend within segments and to their prefixes.

    Args:
        query: [1, H, T, D].
        key: [1, K, T, D], K divides H.
        value: [1, K, T, D].
        layout: of this micro-batch.
        scaling: factor on the scores.

    Returns:
        [1, T, H, D].
    """
    sizes = [block.slots for block in layout.blocks]
    q, k, v = (
        [_rows(part, b) for part, b in zip(torch.split(_pad(x[0], layout), sizes, dim=1), layout.blocks, strict=True)]
        for x in (query, key, value)
    )
    parts = [_attend(i, block, q, k, v, scaling) for i, block in enumerate(layout.blocks)]
    return _unpad(torch.cat(parts), layout)[None]


def _rows(slots: Tensor, block: Block) -> Tensor:
    """[H, B * C, D] -> [B, H, C, D]."""
    return slots.reshape(slots.shape[0], block.rows, block.width, slots.shape[2]).transpose(0, 1)


def _attend(
    index: int, block: Block, query: Sequence[Tensor], key: Sequence[Tensor], value: Sequence[Tensor], scaling: float
) -> Tensor:
    """Return [B * C, H, D] for one of the blocks, whose rows are [B, H, C, D]."""
    q, k, v = query[index], key[index], value[index]
    if block.prefix_block is not None:
        assert block.prefix_rows is not None
        k, v = (
            torch.cat([x[block.prefix_block].index_select(0, block.prefix_rows), own], dim=2)
            for x, own in ((key, k), (value, v))
        )
    if k.shape[1] != q.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    mask = None if block.mask is None else block.mask.to(q.dtype)
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling)
    return out.transpose(1, 2).flatten(0, 1)
