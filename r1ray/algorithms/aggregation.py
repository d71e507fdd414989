"""How the losses of tokens become one loss: weights of tokens, and what their sum is divided by.

    loss = sum over the tokens of the global batch of  weight * loss_t  /  denominator

Weights and denominator speak of the whole optimizer step, never of a micro-batch or a process, so that sums over
micro-batches and processes add up to the same loss however the batch is split.
"""

from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["token", "sequence", "prompt", "constant"]


def token_weights(
    lengths: Tensor,
    *,
    aggregation: Aggregation,
    max_completion_tokens: int,
    group_tokens: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Return the weight of every token of each completion before division by `loss_denominator`.

        token: 1      sequence: 1 / length      prompt: 1 / group_tokens      constant: 1 / max_completion_tokens

    Args:
        lengths: [B] int, trained tokens of each completion, at least 1.
        aggregation: which mean the loss is: over tokens; over completions of the mean over their tokens; over
            prompts of the mean over their completions' tokens; over completions of their sum by a constant.
        max_completion_tokens: that constant.
        group_tokens: [B] int, trained tokens of all completions of the completion's prompt in this optimizer step;
            needed for `prompt` only.
        dtype: of the weights, in which they are also computed.

    Returns:
        [B] in `dtype`.

    Raises:
        ValueError: `prompt` without `group_tokens`.

    Source: `sequence`, arXiv:2402.03300 eq. 3; `token`, DAPO, arXiv:2503.14476; `constant`, Dr. GRPO,
    arXiv:2503.20783; `prompt`, ScaleRL, arXiv:2510.13786.
    """
    match aggregation:
        case "token":
            return torch.ones(lengths.shape, dtype=dtype, device=lengths.device)
        case "sequence":
            return 1 / lengths.to(dtype)
        case "prompt":
            if group_tokens is None:
                raise ValueError("group_tokens must be given for aggregation 'prompt': it divides by them")
            return 1 / group_tokens.to(dtype)
        case "constant":
            return torch.full(lengths.shape, 1 / max_completion_tokens, dtype=dtype, device=lengths.device)


def loss_denominator(*, num_tokens: int, num_completions: int, num_prompts: int, aggregation: Aggregation) -> float:
    """Return what the weighted sum is divided by: trained tokens, completions or prompts of the global batch."""
    match aggregation:
        case "token":
            return float(num_tokens)
        case "prompt":
            return float(num_prompts)
        case "sequence" | "constant":
            return float(num_completions)
