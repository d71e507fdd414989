"""Sums and means over completions whose tokens lie flat, end to end in any order."""

from __future__ import annotations

import torch
from torch import Tensor


def completion_sums(values: Tensor, sample_index: Tensor, num_samples: int) -> Tensor:
    """Add up tokens by completion.

    Args:
        values: [N] float.
        sample_index: [N] int64 into the completions.
        num_samples: B.

    Returns:
        [B] in the dtype of `values`; differentiable.
    """
    zeros = torch.zeros(num_samples, dtype=values.dtype, device=values.device)
    return zeros.index_add(0, sample_index, values)


def completion_means(values: Tensor, sample_index: Tensor, num_samples: int) -> Tensor:
    """Average tokens by completion; as `completion_sums`, and 0 for a completion without tokens."""
    counts = torch.bincount(sample_index, minlength=num_samples).clamp(min=1)
    return completion_sums(values, sample_index, num_samples) / counts
