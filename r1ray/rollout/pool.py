"""Rollout workers as Ray actors, and the pool that spreads groups over them.

The pool gives each group to the worker with the fewest outstanding tokens, collects finished completions,
and replaces workers that die. It does not know rewards or weights: after `replace_failed` the driver brings
the new workers to the current policy version before it resubmits what was lost.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from r1ray.errors import ModelError, R1RayError, RolloutError, WeightSyncError
from r1ray.rollout.protocol import EngineOptions, RolloutEngine
from r1ray.types import Completion, GroupRequest

logger = logging.getLogger(__name__)

POLL_WAIT_S = 1.0
CALL_TIMEOUT_S = 60.0
SHUTDOWN_TIMEOUT_S = 20.0


def make_engine(name: str, options: EngineOptions) -> RolloutEngine:
    """Return the named engine; imports only that one."""
    if name == "vllm":
        from r1ray.rollout.vllm_engine import VllmEngine

        return VllmEngine(options)
    from r1ray.rollout.transformers_engine import TransformersEngine

    return TransformersEngine(options)


class RolloutWorker:
    """One engine in one Ray actor; every method is the engine's."""

    def __init__(self, engine: str, options: EngineOptions) -> None:
        self.engine = make_engine(engine, options)

    async def start(self) -> None:
        """Load the model."""
        await self.engine.start()

    async def submit(self, requests: Sequence[GroupRequest]) -> None:
        """Queue completions."""
        self.engine.submit(requests)

    async def next_completions(self, max_wait_s: float) -> list[Completion]:
        """Return what has finished since the last call."""
        return await self.engine.next_completions(max_wait_s)

    async def abort(self, group_ids: Sequence[str] | None) -> None:
        """Drop groups."""
        await self.engine.abort(group_ids)

    async def score(self, token_ids: Sequence[int]) -> list[float]:
        """Return log-probabilities of `token_ids[1:]`."""
        return await self.engine.score(token_ids)

    async def pause(self) -> None:
        """Freeze generation."""
        await self.engine.pause()

    async def resume(self) -> None:
        """Go on generating."""
        await self.engine.resume()

    async def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Join the weight-transfer group."""
        await self.engine.init_weight_transfer_engine(init_info)

    async def start_weight_update(self) -> None:
        """Prepare to receive weights."""
        await self.engine.start_weight_update()

    async def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Receive weights."""
        await self.engine.update_weights(update_info)

    async def finish_weight_update(self, policy_version: int) -> None:
        """Make received weights current."""
        await self.engine.finish_weight_update(policy_version)

    async def policy_version(self) -> int:
        """Return the stamped version."""
        return await self.engine.policy_version()

    async def shutdown(self) -> None:
        """Free everything."""
        await self.engine.shutdown()


@dataclass(frozen=True, slots=True)
class WorkerPlacement:
    """Where one worker runs: Ray actor options and the cores it may use."""

    actor_options: dict[str, Any]
    cores: tuple[int, ...] = ()


@dataclass(slots=True)
class _Worker:
    index: int
    actor: Any
    poll: Any = None
    # Groups handed out and not yet complete: request and the sample indices still missing.
    groups: dict[str, GroupRequest] = field(default_factory=dict)
    missing: dict[str, set[int]] = field(default_factory=dict)
    # Monotonic time of its last finished completion, or of the first request since it had nothing to do.
    active_at: float = 0.0

    @property
    def name(self) -> str:
        return f"rollout-{self.index}"

    def outstanding_tokens(self) -> int:
        """Upper bound of the tokens this worker still has to make."""
        return sum(
            len(r.prompt.prompt_ids) + len(self.missing[g]) * r.sampling.max_completion_tokens
            for g, r in self.groups.items()
        )


class RolloutPool:
    """Several rollout workers behind one interface; used from the driver's thread only."""

    def __init__(
        self,
        engine: str,
        options: EngineOptions,
        placements: Sequence[WorkerPlacement],
        *,
        start_timeout_s: float,
        max_restarts: int,
        on_event: Callable[..., None],
    ) -> None:
        self._engine = engine
        self._options = options
        self._placements = placements
        self._start_timeout_s = start_timeout_s
        self._restarts_left = max_restarts
        self._on_event = on_event
        self._failed: list[_Worker] = []
        self._workers = [self._launch(i) for i in range(len(placements))]

    def _launch(self, index: int) -> _Worker:
        placement = self._placements[index]
        options = replace(self._options, cores=placement.cores, worker=f"rollout-{index}")
        actor_class = ray.remote(RolloutWorker).options(
            name=None, max_concurrency=64, max_restarts=0, **placement.actor_options
        )
        return _Worker(index, actor_class.remote(self._engine, options))

    def start(self) -> None:
        """Wait until every worker has loaded its model.

        Raises:
            ModelError, RolloutError: a worker could not start, or not in time.
        """
        self._wait_started(self._workers)
        for worker in self._workers:
            self._ask(worker)

    def _wait_started(self, workers: Sequence[_Worker]) -> None:
        try:
            ray.get([w.actor.start.remote() for w in workers], timeout=self._start_timeout_s)
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, R1RayError) else error
            kind = type(cause) if isinstance(cause, ModelError) else RolloutError
            raise kind(f"a rollout worker could not start: {cause}") from error
        except GetTimeoutError:
            raise RolloutError(
                f"rollout workers did not start within rollout.start_timeout_s={self._start_timeout_s:g}: "
                "raise it, or look for the reason in the Ray logs"
            ) from None
        except RayActorError as error:
            raise RolloutError(f"a rollout worker died while starting: {error}") from error

    @property
    def handles(self) -> list[Any]:
        """Actor handles of the living workers, in a fixed order."""
        return [w.actor for w in self._workers]

    @property
    def outstanding(self) -> int:
        """Completions asked for and not yet returned."""
        return sum(len(m) for w in self._workers for m in w.missing.values())

    @property
    def has_failed(self) -> bool:
        """Whether a worker has died since the last `replace_failed`."""
        return bool(self._failed)

    def submit(self, requests: Sequence[GroupRequest]) -> None:
        """Spread groups over the workers, each to the one with the fewest outstanding tokens."""
        load = {w.index: w.outstanding_tokens() for w in self._workers}
        shares: dict[int, list[GroupRequest]] = {w.index: [] for w in self._workers}
        for request in requests:
            index = min(load, key=lambda i: (load[i], i))
            size = len(request.prompt.prompt_ids) + len(request.seeds) * request.sampling.max_completion_tokens
            load[index] += size
            shares[index].append(request)
        for worker in self._workers:
            share = shares[worker.index]
            if share and not worker.groups:
                worker.active_at = time.monotonic()
            for request in share:
                worker.groups[request.group_id] = request
                worker.missing[request.group_id] = set(request.sample_indices)
            if share:
                worker.actor.submit.remote(share)

    def poll(self, timeout_s: float) -> list[Completion]:
        """Return finished completions, waiting up to `timeout_s` for the first."""
        by_ref = {w.poll: w for w in self._workers}
        if not by_ref:
            return []
        ready, _ = ray.wait(list(by_ref), num_returns=1, timeout=timeout_s)
        if ready:
            ready, _ = ray.wait(list(by_ref), num_returns=len(by_ref), timeout=0)
        completions: list[Completion] = []
        for ref in ready:
            worker = by_ref[ref]
            try:
                completions += self._received(worker, ray.get(ref, timeout=CALL_TIMEOUT_S))
                self._ask(worker)
            except (RayError, R1RayError) as error:
                self._lose(worker, error)
        return completions

    def _ask(self, worker: _Worker) -> None:
        worker.poll = worker.actor.next_completions.remote(POLL_WAIT_S)

    def _received(self, worker: _Worker, completions: list[Completion]) -> list[Completion]:
        wanted = []
        if completions:
            worker.active_at = time.monotonic()
        for completion in completions:
            missing = worker.missing.get(completion.group_id)
            if missing is None or completion.sample_index not in missing or completion.finish_reason == "abort":
                continue
            missing.discard(completion.sample_index)
            wanted.append(completion)
            if not missing:
                del worker.groups[completion.group_id], worker.missing[completion.group_id]
        return wanted

    def _lose(self, worker: _Worker, error: Exception) -> None:
        reason = str(getattr(error, "cause", None) or error).strip().splitlines()[-1]
        logger.warning("%s failed with %d groups under way: %s", worker.name, len(worker.groups), reason)
        self._on_event("rollout_worker_failed", worker=worker.name, groups=len(worker.groups), reason=reason)
        self._workers = [w for w in self._workers if w is not worker]
        self._failed.append(worker)
        ray.kill(worker.actor, no_restart=True)

    def replace_failed(self) -> list[GroupRequest]:
        """Start new workers in place of failed ones.

        Returns:
            What the failed ones still owed, reduced to the missing completions; to be resubmitted once the
            new workers hold the current weights.

        Raises:
            RolloutError: `max_restarts` is used up.
        """
        lost: list[GroupRequest] = []
        for failed in self._failed:
            if self._restarts_left <= 0:
                raise RolloutError(
                    f"{failed.name} failed and rollout.max_restarts is used up: see events.jsonl for the reasons; "
                    "resume=true goes on from the last checkpoint"
                )
            self._restarts_left -= 1
            lost += [_only_missing(r, failed.missing[g]) for g, r in failed.groups.items()]
            worker = self._launch(failed.index)
            self._wait_started([worker])
            self._ask(worker)
            self._workers.append(worker)
            self._on_event("rollout_worker_restarted", worker=worker.name, restarts_left=self._restarts_left)
        self._failed = []
        self._workers.sort(key=lambda w: w.index)
        return lost

    def quiet_s(self, group_id: str) -> float | None:
        """Return for how long the worker that owes a group has finished nothing; None if none owes it."""
        owing = next((worker for worker in self._workers if group_id in worker.groups), None)
        return None if owing is None else time.monotonic() - owing.active_at

    def withdraw(self, group_id: str) -> GroupRequest | None:
        """Abort a group wherever it is and return its missing part, or None if nothing is missing."""
        for worker in self._workers:
            request = worker.groups.pop(group_id, None)
            if request is not None:
                worker.actor.abort.remote([group_id])
                return _only_missing(request, worker.missing.pop(group_id))
        return None

    def score(self, token_ids: Sequence[int]) -> dict[str, list[float]]:
        """Return every worker's log-probabilities of `token_ids[1:]`, by worker name."""
        return self._ask_all("score", tuple(token_ids))

    def policy_versions(self) -> dict[str, int]:
        """Return the version every worker says it samples from, by worker name."""
        return self._ask_all("policy_version")

    def _ask_all(self, method: str, *given: Any) -> dict[str, Any]:
        try:
            refs = [getattr(w.actor, method).remote(*given) for w in self._workers]
            answers = ray.get(refs, timeout=CALL_TIMEOUT_S)
        except RayError as error:
            raise WeightSyncError(f"a rollout worker did not answer {method} after a weight sync: {error}") from error
        return dict(zip([w.name for w in self._workers], answers, strict=True))

    def shutdown(self) -> None:
        """Stop every worker; never raises."""
        refs = [w.actor.shutdown.remote() for w in self._workers]
        if refs:
            ray.wait(refs, num_returns=len(refs), timeout=SHUTDOWN_TIMEOUT_S)
        for worker in self._workers:
            ray.kill(worker.actor, no_restart=True)
        self._workers = []


def _only_missing(request: GroupRequest, missing: set[int]) -> GroupRequest:
    kept = [(s, i) for s, i in zip(request.seeds, request.sample_indices, strict=True) if i in missing]
    return replace(request, seeds=tuple(s for s, _ in kept), sample_indices=tuple(i for _, i in kept))
