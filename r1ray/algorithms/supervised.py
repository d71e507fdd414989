"""The loss of supervised fine-tuning."""

from torch import Tensor


def cross_entropy_loss(logprobs: Tensor) -> Tensor:
    """Return the negative log-likelihood of each token, to be averaged like any token loss (`aggregation`).

    Args:
        logprobs: [N] float, log-probabilities of the tokens trained on: those of completions.

    Returns:
        [N] float, in nats.
    """
    return -logprobs
