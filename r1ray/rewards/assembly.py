"""Keeps completions whose results come from several lanes until the last has come."""

from __future__ import annotations

from dataclasses import dataclass, field

from r1ray.rewards.grader import Combiner, Results
from r1ray.rewards.protocol import Lane
from r1ray.types import Completion, Grade, GradeRequest


@dataclass
class _Open:
    request: GradeRequest
    missing: set[Lane]
    results: Results = field(default_factory=dict)


class Assembly:
    """Completions under way, by ticket."""

    def __init__(self, combiner: Combiner) -> None:
        """Combine results with `combiner`."""
        self._combiner = combiner
        self._open: dict[int, _Open] = {}
        self._next_ticket = 0
        self._done: list[tuple[Completion, Grade]] = []

    def __len__(self) -> int:
        """Return how many grades `take` has not returned yet."""
        return len(self._open) + len(self._done)

    @property
    def has_done(self) -> bool:
        """Whether `take` would return something."""
        return bool(self._done)

    def open(self, request: GradeRequest) -> tuple[int, set[Lane]]:
        """Take a completion in; returns its ticket and the lanes it has to pass."""
        ticket, self._next_ticket = self._next_ticket, self._next_ticket + 1
        lanes = self._combiner.lanes(request)
        self._open[ticket] = _Open(request, set(lanes))
        self._finish_if_complete(ticket)
        return ticket, lanes

    def request(self, ticket: int) -> GradeRequest | None:
        """Return a completion that is still under way."""
        entry = self._open.get(ticket)
        return entry.request if entry else None

    def add(self, ticket: int, lane: Lane, results: Results) -> None:
        """Take in what one lane says."""
        entry = self._open.get(ticket)
        if entry is None:
            return
        entry.results |= results
        entry.missing.discard(lane)
        self._finish_if_complete(ticket)

    def fail(self, ticket: int, detail: str) -> None:
        """Grade a completion `error`, whatever is still missing."""
        entry = self._open.pop(ticket, None)
        if entry is not None:
            self._done.append((entry.request.completion, self._combiner.fail(entry.request, detail)))

    def take(self) -> list[tuple[Completion, Grade]]:
        """Return what has been completed since the last call."""
        done, self._done = self._done, []
        return done

    def _finish_if_complete(self, ticket: int) -> None:
        entry = self._open[ticket]
        if not entry.missing:
            del self._open[ticket]
            self._done.append((entry.request.completion, self._combiner.combine(entry.request, entry.results)))
