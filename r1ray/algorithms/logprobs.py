"""Log-probabilities of chosen tokens, in bounded memory."""

import torch
from torch import Tensor


def token_logprobs(logits: Tensor, targets: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the log-probability of each target and the entropy of its distribution.

    Args:
        logits: [N, V] any float dtype; computed in float32.
        targets: [N] int64 token ids.
        temperature: the sampling temperature the distribution is taken at.

    Returns:
        logprobs [N] float32 and entropy [N] float32 in nats; both carry gradients.
    """
    scaled = logits.float() / temperature
    normalizer = torch.logsumexp(scaled, dim=-1)
    logprobs = scaled.gather(-1, targets[:, None]).squeeze(-1) - normalizer
    probabilities = torch.exp(scaled - normalizer[:, None])
    entropy = normalizer - (probabilities * scaled).sum(-1)
    return logprobs, entropy
