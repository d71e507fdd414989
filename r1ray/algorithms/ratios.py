"""Probability ratios that cannot overflow, and their sums and means over whole completions.

Tokens are flat: [N] values, and `sample_index` [N] says which of `num_samples` completions each belongs to.
"""

import torch
from torch import Tensor

# exp(20) is 5e8: far outside of any ratio worth learning from, far inside of float32. Without the limit an infinite
# ratio, times the zero gradient of a clip, would be a gradient of NaN.
MAX_LOG_RATIO = 20.0


def bounded_ratio(log_ratio: Tensor) -> Tensor:
    """Return exp(min(log_ratio, 20)), in the shape and dtype of `log_ratio`; above the limit without gradient."""
    return torch.exp(log_ratio.clamp(max=MAX_LOG_RATIO))


def sum_per_sample(values: Tensor, sample_index: Tensor, num_samples: int) -> Tensor:
    """Sum [N] token values over each completion; [num_samples] in their dtype, 0 where there are no tokens."""
    return torch.zeros(num_samples, dtype=values.dtype, device=values.device).index_add(0, sample_index, values)


def mean_per_sample(values: Tensor, sample_index: Tensor, num_samples: int) -> Tensor:
    """Average [N] token values over each completion; [num_samples] in their dtype, 0 where there are no tokens."""
    counts = sum_per_sample(torch.ones_like(values), sample_index, num_samples)
    return sum_per_sample(values, sample_index, num_samples) / counts.clamp(min=1)
