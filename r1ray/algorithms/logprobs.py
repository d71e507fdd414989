"""Log-probabilities of chosen tokens, and the entropy of what they were chosen from."""

from typing import Literal

import torch
from torch import Tensor

# Entropy that is only looked at needs no gradient, which for large vocabularies saves a third of the work.
EntropyMode = Literal["none", "value", "gradient"]


def token_logprobs(
    logits: Tensor, targets: Tensor, *, temperature: float, entropy: EntropyMode = "gradient"
) -> tuple[Tensor, Tensor]:
    """Return the log-probability of each target and the entropy of its distribution.

    Args:
        logits: [N, V] any float dtype; computed in float32.
        targets: [N] int64 token ids.
        temperature: the sampling temperature the distribution is taken at.
        entropy: `gradient` lets gradients flow through the entropy, `value` does not, `none` returns zeros.

    Returns:
        logprobs [N] float32, which carry gradients, and entropy [N] float32 in nats.
    """
    scaled = logits.float()
    if temperature != 1.0:
        scaled = scaled / temperature
    normalizer = torch.logsumexp(scaled, dim=-1)
    logprobs = scaled.gather(-1, targets[:, None]).squeeze(-1) - normalizer
    if entropy == "none":
        return logprobs, torch.zeros_like(logprobs)
    with torch.set_grad_enabled(entropy == "gradient" and torch.is_grad_enabled()):
        probabilities = torch.exp(scaled - normalizer[:, None])
        return logprobs, normalizer - (probabilities * scaled).sum(-1)
