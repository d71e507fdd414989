"""The learner processes as Ray actors, driven as one.

Calls are sent to all processes at once and come back as `Pending`, so that the driver keeps grading while a
step runs. A learner that fails stops the run: its state is spread over all of them, and the last checkpoint
holds.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from r1ray.errors import LearnerError, R1RayError, WeightSyncError
from r1ray.learner.packing import Bundle, bundle_samples, split_bundles
from r1ray.learner.protocol import LearnerOptions
from r1ray.types import TrainingBatch

SHUTDOWN_TIMEOUT_S = 20.0


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


class LearnerWorker:
    """One learner process in one Ray actor."""

    def __init__(self) -> None:
        self._learner: Any = None
        self._busy_s = 0.0

    def address(self) -> tuple[str, int]:
        """Return this node's address and a free port, for rank 0."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), int(probe.getsockname()[1])

    def start(self, options: LearnerOptions) -> None:
        """Join the others and load the model."""
        from r1ray.learner.fsdp2 import Fsdp2Learner

        self._learner = Fsdp2Learner(options)

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Run one method of the learner and count the time it took."""
        began = time.perf_counter()
        try:
            return getattr(self._learner, method)(*args, **kwargs)
        finally:
            self._busy_s += time.perf_counter() - began

    def take_busy_s(self) -> float:
        """Return the seconds spent in calls since the last time this was asked."""
        busy, self._busy_s = self._busy_s, 0.0
        return busy


@dataclass(frozen=True, slots=True)
class Pending:
    """A call under way on every learner process."""

    refs: tuple[Any, ...]
    what: str
    deadline_s: float
    # Earlier calls on the same processes, whose failure is a failure of this one.
    requires: tuple[Pending, ...] = ()

    def done(self, wait_s: float = 0.0) -> bool:
        """Whether every process has finished, waiting up to `wait_s`."""
        ready, _ = ray.wait(list(self.refs), num_returns=len(self.refs), timeout=wait_s)
        return len(ready) == len(self.refs)

    def results(self) -> list[Any]:
        """Return what every process returned, in rank order.

        Raises:
            LearnerError: a process failed or the deadline passed.
        """
        for earlier in self.requires:
            earlier.results()
        try:
            return list(ray.get(list(self.refs), timeout=self.deadline_s))
        except GetTimeoutError:
            raise LearnerError(
                f"learner did not finish {self.what} within learner.step_timeout_s={self.deadline_s:g}; "
                "resume=true goes on from the last checkpoint"
            ) from None
        except RayTaskError as error:
            if isinstance(error.cause, R1RayError):
                raise type(error.cause)(str(error.cause)) from error
            raise LearnerError(f"learner failed in {self.what}: {error}") from error
        except RayError as error:
            raise LearnerError(
                f"a learner process died in {self.what}: {error}; resume=true goes on from the last checkpoint"
            ) from error


class LearnerPool:
    """All learner processes; used from the driver's thread only."""

    def __init__(self, options: LearnerOptions, placements: Sequence[tuple[dict[str, Any], tuple[int, ...]]]) -> None:
        """Create the actors; `placements` gives Ray actor options and cores per process."""
        self._options = options
        self._placements = placements
        actor = ray.remote(LearnerWorker)
        self._actors = [actor.options(max_restarts=0, **resources).remote() for resources, _ in placements]
        self._accumulating: list[Pending] = []

    def start(self) -> Pending:
        """Let every process load the model."""
        timeout_s = self._options.learner.start_timeout_s
        try:
            address, port = ray.get(self._actors[0].address.remote(), timeout=timeout_s)
        except (GetTimeoutError, RayError) as error:
            raise LearnerError(
                f"learner 0 did not start within learner.start_timeout_s={timeout_s:g}: {error}"
            ) from error
        refs = [
            actor.start.remote(replace(self._options, rank=rank, cores=cores, master_address=address, master_port=port))
            for rank, (actor, (_, cores)) in enumerate(zip(self._actors, self._placements, strict=True))
        ]
        return Pending(tuple(refs), "start", timeout_s)

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Pending:
        refs = tuple(actor.call.remote(method, *args, **kwargs) for actor in self._actors)
        return Pending(refs, method, self._options.learner.step_timeout_s)

    def _split(self, batch: TrainingBatch) -> list[list[list[Bundle]]]:
        budget = self._options.learner.micro_batch_tokens
        bundles = bundle_samples(batch.samples, max_tokens=budget)
        return split_bundles(bundles, micro_batch_tokens=budget, num_processes=len(self._actors))

    def accumulate(self, batch: TrainingBatch, *, rollout_version: int) -> None:
        """Start adding this batch's gradient; errors surface in `finish_step`."""
        shares = self._split(batch)
        refs = tuple(
            actor.call.remote("accumulate", share, rollout_version=rollout_version)
            for actor, share in zip(self._actors, shares, strict=True)
        )
        self._accumulating.append(Pending(refs, "accumulate", self._options.learner.step_timeout_s))

    def finish_step(self) -> Pending:
        """Start the optimizer step; the result holds metrics per process, all alike."""
        requires, self._accumulating = tuple(self._accumulating), []
        return replace(self._call("finish_step"), requires=requires)

    def logprobs(self, batch: TrainingBatch) -> dict[int, tuple[float, ...]]:
        """Return log-probabilities [C] of every sample, by its position in `batch`."""
        position = {id(sample): i for i, sample in enumerate(batch.samples)}
        shares = self._split(batch)
        refs = tuple(actor.call.remote("logprobs", share) for actor, share in zip(self._actors, shares, strict=True))
        results = Pending(refs, "logprobs", self._options.learner.step_timeout_s).results()
        found: dict[int, tuple[float, ...]] = {}
        for share, result in zip(shares, results, strict=True):
            for bundles, values in zip(share, result, strict=True):
                samples = [s for bundle in bundles for s in bundle.samples]
                found |= {position[id(s)]: v for s, v in zip(samples, values, strict=True)}
        return found

    def score(self, token_ids: Sequence[int]) -> list[float]:
        """Return the policy's log-probabilities of `token_ids[1:]`."""
        scores: list[float] = self._call("score", tuple(token_ids)).results()[0]
        return scores

    def connect_rollout(self, workers: Sequence[Any], *, ranks_per_worker: int, timeout_s: float) -> None:
        """Open the weight-transfer channel to these rollout workers."""
        client = RayWeightSyncClient(workers, [ranks_per_worker] * len(workers), timeout_s)
        refs = tuple(actor.call.remote("connect_rollout", client) for actor in self._actors)
        Pending(refs, "connect_rollout", timeout_s).results()

    def send_weights(self, policy_version: int) -> Pending:
        """Start sending the current weights to every rollout worker."""
        return self._call("send_weights", policy_version)

    def save(self, directory: str) -> Pending:
        """Start writing a checkpoint."""
        return self._call("save", directory)

    def load(self, directory: str, policy_version: int) -> None:
        """Restore a checkpoint."""
        self._call("load", directory, policy_version).results()

    def take_busy_s(self) -> float:
        """Return the longest time a process spent computing since the last time this was asked."""
        refs = [actor.take_busy_s.remote() for actor in self._actors]
        return float(max(ray.get(refs, timeout=self._options.learner.step_timeout_s)))

    def shutdown(self) -> None:
        """Stop every process; never raises."""
        refs = [actor.call.remote("shutdown") for actor in self._actors]
        ray.wait(refs, num_returns=len(refs), timeout=SHUTDOWN_TIMEOUT_S)
        for actor in self._actors:
            ray.kill(actor, no_restart=True)
