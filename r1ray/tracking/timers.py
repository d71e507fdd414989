"""Seconds per phase of a step."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Timers:
    """Adds up the seconds of each phase until `take`.

    A phase may be entered many times, also at the same time from several tasks or threads: their seconds
    add up, so phases that overlap sum to more than the step took.
    """

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter) -> None:
        """Start with no phases.

        Args:
            clock: monotonic seconds.
        """
        self._clock = clock
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside the block towards `name`, also when the block raises."""
        start = self._clock()
        try:
            yield
        finally:
            self.add(name, self._clock() - start)

    def add(self, name: str, seconds: float) -> None:
        """Count seconds that were measured elsewhere, such as in another process."""
        with self._lock:
            self._seconds[name] += seconds

    def take(self) -> dict[str, float]:
        """Return `{"time/<phase>_s": seconds}` and start anew.

        A phase still running counts wholly towards the take after its end.
        """
        with self._lock:
            taken, self._seconds = self._seconds, defaultdict(float)
        return {f"time/{name}_s": seconds for name, seconds in sorted(taken.items())}
