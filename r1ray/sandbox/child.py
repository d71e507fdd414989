"""A child process that does work which may hang, blow up or crash, and can always be killed.

    ChildProcess.ask --request--> pipe --> serve(handler) in `python -m MODULE` --reply--> pipe --> Reply

The parent side (`ChildProcess`) needs neither signals nor threads, so it works inside any thread of any
process. Messages are JSON behind a 4-byte length. The child limits itself (`limits.py`) and ends when its
stdin closes; while it works and cannot notice that, its timers end it. Its side of the pipe is
`server.py`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from typing import Any

from r1ray.sandbox.limits import WALL_FACTOR, Limits, ended_by_timer
from r1ray.sandbox.pipes import read_message, write_message
from r1ray.sandbox.server import Outcome, Reply

_STDERR_TAIL_BYTES = 500
_REAP_TIMEOUT_S = 10.0


class ChildProcess:
    """Runs requests one at a time in a child that is replaced whenever it hangs, blows up or dies."""

    def __init__(self, module: str, *, limits: Limits, start_timeout_s: float = 60.0) -> None:
        """Prepare; nothing starts before `start` or the first `ask`.

        Args:
            module: run with `python -m`; has to call `serve`.
            limits: put on the child after its imports.
            start_timeout_s: how long the child's imports may take.
        """
        self._module = module
        self._limits = limits
        self._start_timeout_s = start_timeout_s
        self._process: _Process | None = None

    @property
    def pid(self) -> int | None:
        """Process id, also that of its process group, of the child that runs now."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the child without waiting for it to be ready."""
        if self._process is None:
            self._process = _Process(self._module, self._limits, self._start_timeout_s)

    def ask(self, request: Any, *, time_limit_s: float) -> Reply:
        """Send one request and wait for its reply.

        A child that died or ran out of memory may have been killed from outside or filled by earlier work,
        so its request is tried once more in a fresh one.

        Args:
            request: JSON value for the handler.
            time_limit_s: processor time, counted from when the child is ready. Beyond it, or beyond `WALL_FACTOR`
                times as much wall clock time, the child's whole process group is killed.
        """
        reply = self._ask_once(request, time_limit_s)
        if reply.outcome in (Outcome.DIED, Outcome.MEMORY):
            reply = self._ask_once(request, time_limit_s)
        return reply

    def _ask_once(self, request: Any, time_limit_s: float) -> Reply:
        self.start()
        assert self._process is not None
        reply = self._process.ask(request, time_limit_s)
        if reply.outcome not in (Outcome.OK, Outcome.ERROR):
            self.close()
        if reply.outcome in (Outcome.TIMEOUT, Outcome.MEMORY, Outcome.DIED):
            # Started now, the next child imports while the caller does something else.
            self.start()
        return reply

    def close(self) -> None:
        """Kill the child, if there is one; a later `ask` starts another."""
        if self._process is not None:
            self._process.kill()
            self._process = None


class _Process:
    """One life of a child."""

    def __init__(self, module: str, limits: Limits, start_timeout_s: float) -> None:
        # A file and not a pipe, which would block the child once full.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        # The child finds r1ray wherever this process did.
        paths = [os.path.abspath(path) for path in sys.path]
        self._popen = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,
        )
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._stdin, self._stdout = self._popen.stdin, self._popen.stdout
        os.set_blocking(self._stdin.fileno(), False)
        self._hello: Any = asdict(limits)
        self._ready = False
        self._start_timeout_s = start_timeout_s
        self._start_by = time.monotonic() + start_timeout_s

    @property
    def pid(self) -> int:
        return self._popen.pid

    def ask(self, request: Any, time_limit_s: float) -> Reply:
        try:
            self._wait_ready()
        except TimeoutError:
            return Reply(Outcome.NOT_STARTED, detail=f"the child was not ready within {self._start_timeout_s:g} s")
        except EOFError:
            return Reply(Outcome.NOT_STARTED, detail=f"the child did not start: {self._last_words()}")
        deadline = time.monotonic() + time_limit_s * WALL_FACTOR
        try:
            self._write({"request": request, "time_limit_s": time_limit_s}, deadline)
            reply = self._read_reply(deadline)
        except TimeoutError:
            return Reply(Outcome.TIMEOUT, detail=f"not done within {time_limit_s * WALL_FACTOR:g} s (wall clock)")
        except EOFError:
            words = self._last_words()
            if ended_by_timer(self._popen.returncode):
                return Reply(Outcome.TIMEOUT, detail=f"not done within {time_limit_s:g} s")
            return Reply(Outcome.DIED, detail=f"the child died: {words}")
        return reply

    def _wait_ready(self) -> None:
        if not self._ready:
            self._write(self._hello, self._start_by)
            self._read_reply(self._start_by)
            self._ready = True

    def _write(self, message: Any, deadline: float) -> None:
        write_message(self._stdin.fileno(), message, deadline)

    def _read_reply(self, deadline: float) -> Reply:
        fields = read_message(self._stdout.fileno(), deadline)
        try:
            return Reply(Outcome(fields["outcome"]), fields["value"], fields["detail"])
        except (ValueError, KeyError, TypeError) as error:
            raise EOFError from error

    def _last_words(self) -> str:
        """End the child and say how it died, with the end of what it wrote to stderr."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(1.0)
        self.kill(keep_stderr=True)
        code = self._popen.returncode
        how = f"exit code {code}" if code is None or code >= 0 else signal.Signals(-code).name
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _STDERR_TAIL_BYTES))
        text = " ".join(self._stderr.read().decode(errors="replace").split())
        return f"{how}: {text}" if text else how

    def kill(self, *, keep_stderr: bool = False) -> None:
        """Kill the process group and reap the child."""
        # Also after the child's own end: others of its group may live, and they keep its id from being reused.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._stdin.close()
        self._stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(_REAP_TIMEOUT_S)
        if not keep_stderr:
            self._stderr.close()
