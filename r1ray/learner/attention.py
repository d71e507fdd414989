"""Attention over a packed micro-batch: no token is padded, no sample sees another, prompts are computed once.

Registered with transformers as an attention implementation, so that any of its decoder-only models runs packed. On
CUDA in half precision varlen flash attention does the work, elsewhere blocks of scaled-dot-product attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from r1ray.errors import ModelError
from r1ray.learner.block_attention import BlockLayout, block_attention, plan_blocks
from r1ray.learner.context import context_attention
from r1ray.learner.segments import Segment
from r1ray.learner.varlen_attention import VarlenLayout, plan_varlen, varlen_attention

ATTENTION_NAME = "r1ray_packed"

AttentionLayout = BlockLayout | VarlenLayout


def plan_attention(segments: Sequence[Segment], *, varlen: bool = False) -> AttentionLayout:
    """Lay segments out for one of the two implementations.

    Args:
        segments: they cover the tokens 0..T-1 once each, in order; a prefix has no prefix of its own.
        varlen: for CUDA in half precision.
    """
    return plan_varlen(segments) if varlen else plan_blocks(segments)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    layout: AttentionLayout,
    context: dist.ProcessGroup | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within segments; has the signature of a transformers attention implementation.

    Args:
        module: the attention layer, for the error message.
        query: [1, H, T, D].
        key: [1, K, T, D], K divides H.
        value: [1, K, T, D].
        attention_mask: None; the layout says who sees whom.
        scaling: factor on the scores.
        layout: of this micro-batch.
        context: the processes that each hold a part of the T tokens, which are then S here; None: all are here.
        dropout: must be 0, as in every recipe of reinforcement learning.
        sliding_window: must be None.

    Returns:
        [1, T, H, D].

    Raises:
        ModelError: the model asks for dropout or a sliding window.
    """
    if sliding_window is not None or dropout:
        raise ModelError(
            f"{type(module).__name__} uses "
            f"{'a sliding window' if sliding_window is not None else 'attention dropout'}, which the learner does not "
            "support; r1ray trains models with full attention and no dropout (Qwen2, Qwen3, Llama)"
        )
    assert attention_mask is None
    if context is not None:
        return context_attention(
            packed_attention,
            module,
            query,
            key,
            value,
            None,
            num_tokens=layout.tokens,
            group=context,
            scaling=scaling,
            layout=layout,
        )
    if isinstance(layout, VarlenLayout):
        return varlen_attention(query, key, value, layout, scaling=scaling), None
    return block_attention(query, key, value, layout, scaling=scaling), None
