"""Graders as Ray actors: completions in, grades out, whatever dies on the way.

Each actor holds one `Grader` and works through chunks of items in order. The driver polls from a plain
single thread. The items that an actor takes down with it become suspects: each is sent again, alone, and one
that ends a second actor is graded `error`.
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

from r1ray.config.schema import RewardsConfig
from r1ray.errors import GraderError
from r1ray.rewards.grader import Grader, breakdown_names
from r1ray.sandbox.limits import WALL_FACTOR
from r1ray.types import Completion, Grade, Prompt, Verdict

logger = logging.getLogger(__name__)

Item = tuple[Prompt, Completion]
OnEvent = Callable[..., None]

_MAX_CHUNK_ITEMS = 16
# One chunk in work and one waiting hide the way to and from the actor.
_MAX_CHUNKS_PER_ACTOR = 2
# An item may be tried in two children, each new one importing for seconds; one of them may start slowly.
_ITEM_ATTEMPTS = 2
_ITEM_SLACK_S = 5.0
_CHUNK_SLACK_S = 60.0


class _GraderActor:
    """One grader process."""

    def __init__(self, rewards: RewardsConfig) -> None:
        self._grader = Grader(rewards)
        self._grader.start()

    def ready(self) -> bool:
        return True

    def grade(self, items: list[Item]) -> list[Grade]:
        return self._grader.grade_all(items)


@dataclass
class _Chunk:
    """Items that travel together.

    Attributes:
        suspect: one item that was with an actor when it ended; it travels alone, so that a second end is its own.
            (The chunk an actor was working on cannot be told: Ray may lose the reply before it.)
    """

    items: list[Item]
    suspect: bool = False


@dataclass
class _Worker:
    """One actor as the driver sees it.

    Attributes:
        calls: what it was asked, oldest first; the first entry of a new actor is its start, without items.
        deadline: for the oldest call, on the monotonic clock; infinite while there is none.
    """

    index: int
    actor: Any
    calls: deque[tuple[Any, _Chunk]] = field(default_factory=deque)
    deadline: float = math.inf

    @property
    def outstanding_items(self) -> int:
        return sum(len(chunk.items) for _, chunk in self.calls)

    @property
    def holds_suspect(self) -> bool:
        return any(chunk.suspect for _, chunk in self.calls)


class GraderPool:
    """Grades completions on several actors."""

    def __init__(
        self,
        rewards: RewardsConfig,
        *,
        on_event: OnEvent,
        num_cpus_per_worker: float = 0.0,
        start_timeout_s: float = 120.0,
    ) -> None:
        """Start the actors without waiting for them.

        Args:
            rewards: terms, limits, number of actors and restarts.
            on_event: called as `on_event(kind, **fields)`; kinds are `grader_restart` (worker, reason, items) and
                `grader_gave_up` (group_id, sample_index, reason).
            num_cpus_per_worker: what Ray reserves for each; 0 lets them start on a full machine.
            start_timeout_s: how long an actor may take to start.
        """
        self._config = rewards
        self._on_event = on_event
        self._num_cpus = num_cpus_per_worker
        self._start_timeout_s = start_timeout_s
        self._pending: deque[_Chunk] = deque()
        self._suspects: deque[_Chunk] = deque()
        self._done: list[tuple[Completion, Grade]] = []
        # Actors replaced so far.
        self.restarts = 0
        self._tickets = 0
        self._workers = [self._start(index) for index in range(rewards.num_workers)]

    @property
    def outstanding_items(self) -> int:
        """Items submitted whose grades `poll` has not returned yet."""
        waiting = sum(len(chunk.items) for chunk in [*self._pending, *self._suspects])
        return waiting + len(self._done) + sum(worker.outstanding_items for worker in self._workers)

    def submit(self, items: Sequence[Item]) -> int:
        """Take items to grade, without waiting.

        Returns:
            A ticket that numbers the call, for logs.
        """
        # Two chunks for each actor spread the work; larger ones save Ray's cost of a call.
        size = min(_MAX_CHUNK_ITEMS, max(1, math.ceil(len(items) / (2 * len(self._workers)))))
        self._pending.extend(_Chunk(list(items[at : at + size])) for at in range(0, len(items), size))
        self._dispatch()
        self._tickets += 1
        return self._tickets

    def poll(self, timeout_s: float) -> list[tuple[Completion, Grade]]:
        """Return the items graded since the last call, in no particular order.

        Args:
            timeout_s: how long to wait for the first; 0 only looks. With nothing outstanding there is no wait.

        Raises:
            GraderError: more actors had to be replaced than `rewards.max_restarts` allows.
        """
        until = time.monotonic() + timeout_s
        while True:
            waits = self.outstanding_items > 0 and not self._done
            self._collect(max(0.0, until - time.monotonic()) if waits else 0.0)
            self._replace_late()
            self._dispatch()
            if self._done or self.outstanding_items == 0 or time.monotonic() >= until:
                done, self._done = self._done, []
                return done

    def shutdown(self) -> None:
        """Kill the actors; items not polled are lost."""
        for worker in self._workers:
            ray.kill(worker.actor, no_restart=True)
        self._workers = []
        self._pending.clear()
        self._suspects.clear()

    def _start(self, index: int) -> _Worker:
        actor_class = ray.remote(num_cpus=self._num_cpus, max_restarts=0, scheduling_strategy="SPREAD")(_GraderActor)
        worker = _Worker(index, actor_class.remote(self._config))
        worker.calls.append((worker.actor.ready.remote(), _Chunk([])))
        self._set_deadline(worker)
        return worker

    def _set_deadline(self, worker: _Worker) -> None:
        if not worker.calls:
            worker.deadline = math.inf
            return
        items = len(worker.calls[0][1].items)
        graded_s = items * (_ITEM_ATTEMPTS * WALL_FACTOR * self._config.time_limit_s + _ITEM_SLACK_S) + _CHUNK_SLACK_S
        worker.deadline = time.monotonic() + (graded_s if items else self._start_timeout_s)

    def _dispatch(self) -> None:
        while self._suspects or self._pending:
            # While suspects wait, actors are let run empty for them.
            queue, room = (self._suspects, 1) if self._suspects else (self._pending, _MAX_CHUNKS_PER_ACTOR)
            free = [worker for worker in self._workers if len(worker.calls) < room and not worker.holds_suspect]
            if not free:
                return
            worker = min(free, key=lambda each: each.outstanding_items)
            chunk = queue.popleft()
            worker.calls.append((worker.actor.grade.remote(chunk.items), chunk))
            if len(worker.calls) == 1:
                self._set_deadline(worker)

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
            grades = ray.get(reference, timeout=60)
        except Exception as error:  # the worker boundary: death of the actor, or a bug in it
            self._replace(worker, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
            return
        worker.calls.popleft()
        self._set_deadline(worker)
        if chunk.items:
            self._done += [(completion, grade) for (_, completion), grade in zip(chunk.items, grades, strict=True)]

    def _replace_late(self) -> None:
        now = time.monotonic()
        for worker in list(self._workers):
            if worker.deadline < now:
                self._replace(worker, "a call did not come back within its deadline")

    def _replace(self, worker: _Worker, reason: str) -> None:
        """Kill an actor, send its items elsewhere and start another in its place."""
        ray.kill(worker.actor, no_restart=True)
        self.restarts += 1
        logger.warning("grader %d is replaced: %s", worker.index, reason)
        self._on_event("grader_restart", worker=worker.index, reason=reason, items=worker.outstanding_items)
        for _, chunk in worker.calls:
            if chunk.suspect:
                self._give_up(chunk, reason)
            else:
                self._suspects.extend(_Chunk([item], suspect=True) for item in chunk.items)
        worker.calls.clear()
        if self.restarts > self._config.max_restarts:
            raise GraderError(
                f"rewards.max_restarts allows {self._config.max_restarts} restarts of graders, this is number "
                f"{self.restarts}; last reason: {reason}. See grader_restart in events.jsonl for all of them; raise "
                "rewards.memory_limit_bytes or rewards.time_limit_s, or mend the reward function that hangs"
            )
        self._workers[worker.index] = self._start(worker.index)

    def _give_up(self, chunk: _Chunk, reason: str) -> None:
        names = breakdown_names([term.name for term in self._config.terms])
        for _, completion in chunk.items:
            self._on_event(
                "grader_gave_up", group_id=completion.group_id, sample_index=completion.sample_index, reason=reason
            )
            detail = f"cannot grade: ended two graders; the last: {reason}"
            self._done.append((completion, Grade(0.0, dict.fromkeys(names, 0.0), Verdict.ERROR, detail)))
