"""Graders as Ray actors: completions in, grades out, whatever dies on the way.

Each actor holds one `Grader` for one lane (rules, LLM judges, reward models) and works through chunks of completions
in order; `assembly.py` puts the results of the lanes together. The driver polls from a plain single thread. The
completions that an actor takes down with it become suspects: each is sent again, alone, and one that ends a second
actor is graded `error`.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from r1ray.config.schema import RewardsConfig, SandboxConfig
from r1ray.errors import GraderError, SandboxError
from r1ray.rewards.assembly import Assembly
from r1ray.rewards.grader import Combiner, Grader, Results
from r1ray.rewards.protocol import Lane
from r1ray.sandbox.limits import WALL_FACTOR
from r1ray.types import Completion, Grade, GradeRequest

logger = logging.getLogger(__name__)

OnEvent = Callable[..., None]

# Larger chunks keep an endpoint or a GPU busy; smaller ones spread rules over processes.
_MAX_CHUNK_ITEMS = {Lane.RULES: 16, Lane.JUDGE: 32, Lane.INFERENCE: 64}
# One chunk in work and one waiting hide the way to and from the actor.
_MAX_CHUNKS_PER_ACTOR = 2
# An item may be tried in two children, each new one importing for seconds; one of them may start slowly.
_ITEM_ATTEMPTS = 2
_ITEM_SLACK_S = 5.0
_CHUNK_SLACK_S = 60.0


class _GraderActor:
    """One grader process."""

    def __init__(self, rewards: RewardsConfig, sandbox: SandboxConfig, lane: Lane) -> None:
        self._grader = Grader(rewards, sandbox, lanes=(lane,))
        self._grader.start()

    def ready(self) -> bool:
        return True

    def run(self, requests: list[GradeRequest]) -> list[Results]:
        return self._grader.run(requests)


@dataclass
class _Chunk:
    """Completions that travel together.

    Attributes:
        suspect: one that was with an actor when it ended; it travels alone, so that a second end is its own.
            (The chunk an actor was working on cannot be told: Ray may lose the reply before it.)
    """

    tickets: list[int]
    suspect: bool = False


@dataclass
class _Worker:
    """One actor as the driver sees it.

    Attributes:
        calls: what it was asked, oldest first; the first entry of a new actor is its start, without tickets.
        deadline: for the oldest call, on the monotonic clock; infinite while there is none.
    """

    index: int
    lane: Lane
    actor: Any
    calls: deque[tuple[Any, _Chunk]] = field(default_factory=deque)
    deadline: float = math.inf

    @property
    def outstanding_items(self) -> int:
        return sum(len(chunk.tickets) for _, chunk in self.calls)

    @property
    def holds_suspect(self) -> bool:
        return any(chunk.suspect for _, chunk in self.calls)


class GraderPool:
    """Grades completions on several actors."""

    def __init__(
        self,
        rewards: RewardsConfig,
        sandbox: SandboxConfig | None = None,
        *,
        on_event: OnEvent,
        num_cpus_per_worker: float = 0.0,
        start_timeout_s: float = 120.0,
    ) -> None:
        """Start the actors without waiting for them; of a lane only if a term runs in it.

        Args:
            rewards: terms, limits, number of actors and restarts.
            sandbox: where programs run.
            on_event: called as `on_event(kind, **fields)`; kinds are `grader_restart` (worker, lane, reason, items)
                and `grader_gave_up` (group_id, sample_index, reason).
            num_cpus_per_worker: what Ray reserves for each; 0 lets them start on a full machine.
            start_timeout_s: how long an actor may take to start.
        """
        self._config = rewards
        self._sandbox = sandbox or SandboxConfig()
        self._on_event = on_event
        self._num_cpus = num_cpus_per_worker
        self._start_timeout_s = start_timeout_s
        combiner = Combiner(rewards, self._sandbox)
        self._assembly = Assembly(combiner)
        # Actors replaced so far.
        self.restarts = 0
        counts = {
            Lane.RULES: rewards.num_workers,
            Lane.JUDGE: rewards.num_judge_workers,
            Lane.INFERENCE: rewards.num_inference_workers,
        }
        lanes = [lane for lane in Lane if lane in combiner.all_lanes for _ in range(counts[lane])]
        self._pending: dict[Lane, deque[int]] = {lane: deque() for lane in Lane}
        self._suspects: dict[Lane, deque[_Chunk]] = {lane: deque() for lane in Lane}
        self._workers = [self._start(index, lane) for index, lane in enumerate(lanes)]

    @property
    def outstanding_items(self) -> int:
        """Completions submitted whose grades `poll` has not returned yet."""
        return len(self._assembly)

    def submit(self, requests: Sequence[GradeRequest]) -> None:
        """Take completions to grade, without waiting."""
        for request in requests:
            ticket, lanes = self._assembly.open(request)
            for lane in lanes:
                self._pending[lane].append(ticket)
        self._dispatch()

    def poll(self, timeout_s: float) -> list[tuple[Completion, Grade]]:
        """Return what has been graded since the last call, in no particular order.

        Args:
            timeout_s: how long to wait for the first; 0 only looks. With nothing outstanding there is no wait.

        Raises:
            GraderError: more actors had to be replaced than `rewards.max_restarts` allows.
            SandboxError: programs cannot be graded on a machine of the cluster.
        """
        until = time.monotonic() + timeout_s
        while True:
            waits = self.outstanding_items > 0 and not self._assembly.has_done
            self._collect(max(0.0, until - time.monotonic()) if waits else 0.0)
            self._replace_late()
            self._dispatch()
            if self._assembly.has_done or self.outstanding_items == 0 or time.monotonic() >= until:
                return self._assembly.take()

    def shutdown(self) -> None:
        """Kill the actors; completions not polled are lost."""
        for worker in self._workers:
            ray.kill(worker.actor, no_restart=True)
        self._workers = []
        for lane in Lane:
            self._pending[lane].clear()
            self._suspects[lane].clear()

    def _start(self, index: int, lane: Lane) -> _Worker:
        options: dict[str, Any] = {"num_cpus": self._num_cpus, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        if lane is Lane.INFERENCE and self._config.gpus_per_inference_worker:
            options["num_gpus"] = self._config.gpus_per_inference_worker
        elif lane is Lane.INFERENCE:
            # Ray lets a process have as many threads as it reserves cores.
            options["num_cpus"] = self._num_cpus * self._config.cpus_per_inference_worker
        actor_class = ray.remote(**options)(_GraderActor)
        worker = _Worker(index, lane, actor_class.remote(self._config, self._sandbox, lane))
        worker.calls.append((worker.actor.ready.remote(), _Chunk([])))
        self._set_deadline(worker)
        return worker

    def _set_deadline(self, worker: _Worker) -> None:
        if not worker.calls:
            worker.deadline = math.inf
            return
        items = len(worker.calls[0][1].tickets)
        if not items:
            allowed_s = self._start_timeout_s
        elif worker.lane is Lane.RULES:
            allowed_s = items * (_ITEM_ATTEMPTS * WALL_FACTOR * self._config.time_limit_s + _ITEM_SLACK_S)
            allowed_s += _CHUNK_SLACK_S
        else:
            allowed_s = self._config.batch_timeout_s
        worker.deadline = time.monotonic() + allowed_s

    def _dispatch(self) -> None:
        for lane in Lane:
            while (chunk := self._next_chunk(lane)) is not None:
                # While suspects wait, actors are let run empty for them.
                room = 1 if chunk.suspect else _MAX_CHUNKS_PER_ACTOR
                free = [w for w in self._workers if w.lane is lane and len(w.calls) < room and not w.holds_suspect]
                if not free:
                    self._put_back(lane, chunk)
                    break
                worker = min(free, key=lambda each: each.outstanding_items)
                requests = [self._assembly.request(ticket) for ticket in chunk.tickets]
                worker.calls.append((worker.actor.run.remote(requests), chunk))
                if len(worker.calls) == 1:
                    self._set_deadline(worker)

    def _next_chunk(self, lane: Lane) -> _Chunk | None:
        if self._suspects[lane]:
            return self._suspects[lane].popleft()
        pending = self._pending[lane]
        # Two chunks for each actor spread the work; larger ones save Ray's cost of a call.
        actors = sum(worker.lane is lane for worker in self._workers)
        size = min(_MAX_CHUNK_ITEMS[lane], math.ceil(len(pending) / (2 * actors))) if pending else 0
        tickets: list[int] = []
        while pending and len(tickets) < size:
            ticket = pending.popleft()
            # Another lane may have given it up meanwhile.
            if self._assembly.request(ticket) is not None:
                tickets.append(ticket)
        return _Chunk(tickets) if tickets else None

    def _put_back(self, lane: Lane, chunk: _Chunk) -> None:
        if chunk.suspect:
            self._suspects[lane].appendleft(chunk)
        else:
            self._pending[lane].extendleft(reversed(chunk.tickets))

    def _collect(self, timeout_s: float) -> None:
        """Take in every oldest call that is done, waiting for the first until the nearest deadline at most."""
        heads = {worker.calls[0][0]: worker for worker in self._workers if worker.calls}
        if not heads:
            return
        nearest_s = min(worker.deadline for worker in heads.values()) - time.monotonic()
        wait_s = max(0.0, min(timeout_s, nearest_s))
        ready, _ = ray.wait(list(heads), num_returns=1, timeout=wait_s)
        more, _ = ray.wait(list(heads), num_returns=len(heads), timeout=0)
        for reference in {*ready, *more}:
            self._take(heads[reference])

    def _take(self, worker: _Worker) -> None:
        reference, chunk = worker.calls[0]
        try:
            results = ray.get(reference, timeout=60)
        except SandboxError as error:
            raise SandboxError(str(getattr(error, "cause", error))) from None
        except Exception as error:  # the worker boundary: death of the actor, or a bug in it
            self._replace(worker, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
            return
        worker.calls.popleft()
        self._set_deadline(worker)
        if chunk.tickets:
            for ticket, result in zip(chunk.tickets, results, strict=True):
                self._assembly.add(ticket, worker.lane, result)

    def _replace_late(self) -> None:
        now = time.monotonic()
        for worker in list(self._workers):
            if worker.deadline < now:
                self._replace(worker, "a call did not come back within its deadline")

    def _replace(self, worker: _Worker, reason: str) -> None:
        """Kill an actor, send its completions elsewhere and start another in its place."""
        ray.kill(worker.actor, no_restart=True)
        self.restarts += 1
        logger.warning("grader %d (%s) is replaced: %s", worker.index, worker.lane, reason)
        fields = {"worker": worker.index, "lane": str(worker.lane), "items": worker.outstanding_items}
        self._on_event("grader_restart", reason=reason, **fields)
        for _, chunk in worker.calls:
            if chunk.suspect:
                self._give_up(chunk, reason)
            else:
                self._suspects[worker.lane].extend(_Chunk([ticket], suspect=True) for ticket in chunk.tickets)
        worker.calls.clear()
        if self.restarts > self._config.max_restarts:
            raise GraderError(
                f"rewards.max_restarts allows {self._config.max_restarts} restarts of graders, this is number "
                f"{self.restarts}; last reason: {reason}. See grader_restart in events.jsonl for all of them; raise "
                "rewards.memory_limit_bytes or rewards.time_limit_s, or mend the reward function that hangs"
            )
        self._workers[worker.index] = self._start(worker.index, worker.lane)

    def _give_up(self, chunk: _Chunk, reason: str) -> None:
        for ticket in chunk.tickets:
            request = self._assembly.request(ticket)
            if request is None:
                continue
            completion = request.completion
            self._on_event(
                "grader_gave_up", group_id=completion.group_id, sample_index=completion.sample_index, reason=reason
            )
            self._assembly.fail(ticket, f"cannot grade: ended two graders; the last: {reason}")
