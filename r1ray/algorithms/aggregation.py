"""From losses of tokens to the loss of a batch.

The weighted sum over all tokens of the global batch is divided by one number, which is known only when the last group
has come. So neither loss nor gradient depends on micro-batches, packing, accumulation or the number of processes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["token", "sequence", "prompt", "constant"]


def token_weights(
    lengths: Tensor, *, aggregation: Aggregation, max_completion_tokens: int, group_tokens: Tensor | None = None
) -> Tensor:
    """Return the weight of every token of each completion before division by `loss_denominator`.

    Args:
        lengths: [B] int, trained tokens of each completion, at least 1.
        aggregation: `token` (1), `sequence` (1 / length), `prompt` (1 / group_tokens), `constant`
            (1 / max_completion_tokens).
        max_completion_tokens: the constant of Dr. GRPO.
        group_tokens: [B] int, trained tokens of all completions of the same prompt; needed for `prompt`.

    Returns:
        [B] float64.

    Raises:
        ValueError: `prompt` without `group_tokens`.

    Source: `sequence`, arXiv:2402.03300 eq. 3; `token`, DAPO, arXiv:2503.14476; `prompt`, ScaleRL, arXiv:2510.13786;
    `constant`, arXiv:2503.20783.
    """
    if aggregation == "prompt":
        if group_tokens is None:
            raise ValueError("aggregation 'prompt' needs group_tokens")
        return 1.0 / group_tokens.clamp(min=1).double()
    if aggregation == "sequence":
        return 1.0 / lengths.clamp(min=1).double()
    weight = 1.0 if aggregation == "token" else 1.0 / max_completion_tokens
    return torch.full(lengths.shape, weight, dtype=torch.float64, device=lengths.device)


def loss_denominator(
    *, num_tokens: float, num_completions: float, num_prompts: float, aggregation: Aggregation
) -> float:
    """Return what the weighted sum over the global batch is divided by: trained tokens, completions or prompts."""
    if aggregation == "token":
        return num_tokens
    return num_prompts if aggregation == "prompt" else num_completions
