"""What a weight sync is made of: a source of full tensors, a client that drives the engines, a sender that joins them.

The learner hands a `WeightSource` to a `WeightSender`; the sender tells the rollout workers what comes through a
`WeightSyncClient` and moves the bytes (`gloo.py`, `vllm_senders.py`). The client's implementation stands with the
Ray actors. Does not know optimizers, and does not judge whether the engines sample from what they received.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """One parameter as it travels: its checkpoint name, dtype on the wire and full shape."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes on the wire."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()


class WeightSource(Protocol):
    """The learner's parameters, one at a time.

    Iterating may be a collective (`DTensor.full_tensor()`), so every learner rank iterates in the same order;
    only the sending rank uses the tensors. Each `iter()` starts over with current weights.
    """

    def specs(self) -> list[ParameterSpec]:
        """Say what iteration yields, in its order, without moving any weights."""

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (checkpoint name, full tensor); a tensor need not outlive the next step of the iteration."""


class WeightSyncClient(Protocol):
    """Calls every rollout worker and returns when all have answered; has its own deadlines.

    Blocking, and called from threads of the sending rank only. A worker that dies or is late raises.

    Attributes:
        ranks_per_worker: engine ranks (tensor x pipeline parallel) of each rollout worker, in a fixed order.
    """

    @property
    def ranks_per_worker(self) -> Sequence[int]:
        """See above."""

    def pause(self) -> None:
        """Freeze generation everywhere."""

    def resume(self) -> None:
        """Go on everywhere."""

    def init_weight_transfer_engine(self, init_infos: Sequence[dict[str, Any]]) -> None:
        """Hand each rollout worker its own init info; returns once all have joined."""

    def start_weight_update(self) -> None:
        """Prepare every engine."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Let every engine receive what `update_info` describes; returns once all have loaded it."""

    def finish_weight_update(self, policy_version: int) -> None:
        """Make the weights current everywhere and stamp them."""


class WeightSender(Protocol):
    """Moves the weights of a source to all rollout engines; every learner rank holds one and calls it in step."""

    def connect(self) -> None:
        """Join the engines; once, before the first `send`."""

    def send(self, policy_version: int) -> None:
        """Pause the engines, replace their weights, stamp them with `policy_version` and resume.

        Raises:
            WeightSyncError: an engine did not get the weights; the engines stay paused.
        """

    def close(self) -> None:
        """Leave the group; safe to call twice."""


def rank_offsets(ranks_per_worker: Sequence[int]) -> list[int]:
    """Return the first transfer-group rank of each rollout worker; rank 0 is the sender."""
    return [1 + sum(ranks_per_worker[:index]) for index in range(len(ranks_per_worker))]
