"""Ctrl-C and SIGTERM: the first asks the run to stop with a checkpoint, the second ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
MESSAGE = "stopping: finishing what the learner is doing and saving a checkpoint (again to end at once)"


class InterruptFlag:
    """Set by the first signal; a context manager that puts the old handlers back.

    A thread tells the user, since a signal may break into a console that is in the middle of something.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        """Take a function that tells the user what happens."""
        self._say = say
        self._set = False
        self._wake = threading.Event()
        self._teller = threading.Thread(target=self._tell, name="interrupt", daemon=True)
        self._previous: dict[signal.Signals, Any] = {}

    def is_set(self) -> bool:
        """Whether the user asked to stop."""
        return self._set

    def __enter__(self) -> InterruptFlag:
        """Install the handlers; only a main thread can."""
        if threading.current_thread() is threading.main_thread():
            self._teller.start()
            self._previous = {s: signal.signal(s, self._handle) for s in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the old handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._wake.set()
        if self._previous:
            self._teller.join()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._set:
            raise KeyboardInterrupt
        self._set = True
        self._wake.set()

    def _tell(self) -> None:
        self._wake.wait()
        if self._set:
            self._say(MESSAGE)
