"""What the back ends differ in: the sharded policy, its gradients and its optimizer.

`learner/policy_learner.py` does everything else (losses, statistics, schedules) the same for all of them. Every
method is a collective that all processes enter together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch.distributed as dist
from torch import Tensor

from r1ray.learner.policy import Policy
from r1ray.weights.protocol import WeightSource


class TrainingEngine(Protocol):
    """A policy spread over processes, its frozen reference, and an optimizer.

    Attributes:
        policy: called like `learner.policy.Policy`.
        reference: likewise, without gradients; None where no KL is taken.
        context: the processes that split each sequence with this one; None: there are none.
        num_copies: processes that get the same samples, this one included.
    """

    policy: Policy
    reference: Callable[..., tuple[Tensor, Tensor]] | None
    context: dist.ProcessGroup | None
    num_copies: int

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add a micro-batch to the step's gradient.

        Args:
            loss: scalar, this process's unnormalised sum; the gradient of the sum over all data-parallel processes is
                accumulated in float32.
            last: whether it is the step's last micro-batch; `step` follows.
        """

    def step(self, *, denominator: float, lr: float) -> float:
        """Divide the gradient by `denominator`, clip it to `max_grad_norm`, update the parameters, clear the gradient.

        Returns:
            The norm of the divided gradient before clipping, the same on every process. Where it is not finite, or
            there was no micro-batch, nothing is updated.
        """

    def release(self) -> None:
        """Let go of gathered parameters after a forward pass without a backward pass."""

    def refresh_reference(self) -> None:
        """Make the reference equal to the policy."""

    def weights(self) -> WeightSource:
        """Return the policy's parameters by their Hugging Face names, in the compute dtype, for engines and export."""

    def save(self, directory: str) -> None:
        """Write parameters, optimizer and reference, sharded, under `directory`."""

    def load(self, directory: str) -> None:
        """Restore what `save` wrote, on any number of processes.

        Raises:
            CheckpointError: it is missing or belongs to another model.
        """
