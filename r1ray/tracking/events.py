"""events.jsonl: what happened besides the plan: restarts, dropped groups, timeouts, with reasons."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from r1ray.tracking.jsonl import JsonlFile, Record
from r1ray.tracking.run_dir import EVENTS_FILE, RunDirectory


class EventLog:
    """Writes events and counts them by kind, over all processes that worked on the run.

    Attributes:
        counts: events per kind.
        step: written with events that name no step of their own; the driver sets it as it goes.
    """

    def __init__(self, run_dir: RunDirectory, *, clock: Callable[[], float] = time.time) -> None:
        """Open the log.

        Args:
            run_dir: the run.
            clock: seconds since the epoch.
        """
        self._file = JsonlFile(run_dir, EVENTS_FILE)
        self._clock = clock
        self.counts: Counter[str] = Counter(str(event["kind"]) for event in self.read() if "kind" in event)
        self.step: int | None = None

    def write(self, kind: str, *, step: int | None = None, **fields: Any) -> None:
        """Record one event.

        Args:
            kind: short name in snake case, e.g. `worker_restart`, `group_dropped`.
            step: where in the run; None means the current `self.step`.
            fields: anything that helps to understand it; what JSON does not know is written as its `str`.
        """
        now = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        at = self.step if step is None else step
        self._file.append({"time": now, "step": at, "kind": kind, **fields})
        self.counts[kind] += 1

    def read(self) -> list[Record]:
        """Return all events, oldest first."""
        return self._file.read()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
