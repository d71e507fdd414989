"""Drives the weight-update verbs of rollout workers over Ray, for the sender in learner rank 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from r1ray.errors import WeightSyncError


class RayWeightSyncClient:
    """Drives the weight-update verbs of every rollout worker at once, each with a deadline.

    Attributes:
        ranks_per_worker: engine ranks of each rollout worker.
    """

    def __init__(self, workers: Sequence[Any], ranks_per_worker: Sequence[int], timeout_s: float) -> None:
        self.ranks_per_worker = tuple(ranks_per_worker)
        self._workers = list(workers)
        self._timeout_s = timeout_s

    def _all(self, verb: str, arguments: Sequence[tuple[Any, ...]]) -> None:
        try:
            refs = [getattr(w, verb).remote(*given) for w, given in zip(self._workers, arguments, strict=True)]
            ray.get(refs, timeout=self._timeout_s)
        except GetTimeoutError:
            raise WeightSyncError(
                f"rollout workers did not answer {verb} within sync.timeout_s={self._timeout_s:g}"
            ) from None
        except RayError as error:
            raise WeightSyncError(f"a rollout worker failed in {verb}: {error}") from error

    def _alike(self, verb: str, *given: Any) -> None:
        self._all(verb, [given] * len(self._workers))

    def init_weight_transfer_engine(self, init_infos: Sequence[dict[str, Any]]) -> None:
        """Let every worker join with its own information."""
        self._all("init_weight_transfer_engine", [(info,) for info in init_infos])

    def pause(self) -> None:
        """Freeze generation everywhere."""
        self._alike("pause")

    def resume(self) -> None:
        """Go on generating everywhere."""
        self._alike("resume")

    def start_weight_update(self) -> None:
        """Prepare every worker."""
        self._alike("start_weight_update")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Let every worker receive."""
        self._alike("update_weights", update_info)

    def finish_weight_update(self, policy_version: int) -> None:
        """Stamp the version everywhere."""
        self._alike("finish_weight_update", policy_version)
