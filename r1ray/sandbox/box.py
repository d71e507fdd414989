"""One sandbox with its runner: programs go in, outputs and results as plain data come out.

`Box` is used by one thread. Whatever happens inside, every call returns by its deadline; a sandbox that does not
answer, or whose runner is gone, is killed and the next call starts another.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from r1ray.config.schema import SandboxConfig
from r1ray.errors import SandboxError
from r1ray.sandbox.backend import Launched, launch
from r1ray.sandbox.bubblewrap import NO_USER_NAMESPACES
from r1ray.sandbox.pipes import read_message, write_message

_START_TIMEOUT_S = 30.0
_ANSWER_GRACE_S = 2.0


@dataclass(frozen=True, slots=True)
class RunLimits:
    """What one run of a program may use.

    Attributes:
        cpu_s: processor time of all its processes together.
        wall_s: time on the clock.
        memory_bytes: of all its processes together.
        output_bytes: of its standard output, and of any file it writes.
        processes: at the same time, threads included.
        address_bytes: address space of one process; None: as `memory_bytes`.
    """

    cpu_s: float
    wall_s: float
    memory_bytes: int
    output_bytes: int = 1 << 20
    processes: int = 64
    address_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class RunResult:
    """How one run ended.

    Attributes:
        code: exit code; None where a signal ended it.
        signal: that signal, else 0.
        timeout: it ran out of processor time or of time on the clock.
        memory: it used more memory than allowed.
        processes: it had more processes than allowed.
        spoke: it said something before it was asked, or no message at all.
        stdout: UTF-8 with replacement characters, cut at the limit.
        stderr: its beginning.
        truncated: it wrote more than the limit.
        died: the sandbox itself went down under it.
        cpu_s: processor time it took.
        files: what it left in the work directory, in base64 by name, where that was asked for.
    """

    code: int | None
    signal: int = 0
    timeout: bool = False
    memory: bool = False
    processes: bool = False
    spoke: bool = False
    stdout: str = ""
    stderr: str = ""
    truncated: bool = False
    died: bool = False
    cpu_s: float = 0.0
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether it ended by itself with exit code 0, within all limits."""
        broken = self.timeout or self.memory or self.processes or self.spoke or self.truncated or self.died
        return self.code == 0 and not broken


class Box:
    """A sandbox that runs one program after another."""

    def __init__(self, config: SandboxConfig | None = None, *, bind: Sequence[tuple[str, str]] = ()) -> None:
        """Prepare; the sandbox starts with `start` or the first run.

        Args:
            config: which backend, and its sizes.
            bind: more to show inside, read-only: (outside, inside).
        """
        self._config = config or SandboxConfig()
        self._bind = tuple(bind)
        self._launched: Launched | None = None
        self._ready = False
        self._memory_kills = 0
        self._case_deadline = 0.0
        self._installed: Mapping[str, str] = {}

    def __enter__(self) -> Box:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def has_cgroup(self) -> bool:
        """Whether the sandbox that runs now is held by a cgroup."""
        return self._launched is not None and self._launched.cgroup is not None

    def install(self, files: Mapping[str, str]) -> None:
        """Have executable files in the work directory of every program from now on.

        Args:
            files: content in base64, by name.
        """
        self._installed = files
        if self._ready:
            self._send({"install": dict(files)}, time.monotonic() + _START_TIMEOUT_S)

    def run(self, case: dict[str, Any], limits: RunLimits) -> RunResult:
        """Run one program that nobody talks to, to its end.

        Args:
            case: `kind` and what belongs to it; see `inside/runner.py`.
            limits: of the run.

        Raises:
            SandboxError: no sandbox can be started here.
        """
        self.begin(case, limits)
        while True:
            message = self.receive()
            if isinstance(message, RunResult):
                return message

    def begin(self, case: dict[str, Any], limits: RunLimits) -> None:
        """Start a program that is talked to."""
        self._await_ready()
        assert self._launched is not None
        if self._launched.cgroup is not None:
            self._launched.cgroup.limit(memory_bytes=limits.memory_bytes, processes=limits.processes, cores=1.0)
            self._memory_kills = self._launched.cgroup.memory_kills()
        self._case_deadline = time.monotonic() + limits.wall_s + _ANSWER_GRACE_S
        run = {"files": {}, "stdin": "", **case, "argv": self._outside_paths(case.get("argv", ()))}
        address_bytes = limits.memory_bytes if limits.address_bytes is None else limits.address_bytes
        self._send(
            {
                "run": {
                    **run,
                    "cpu_s": limits.cpu_s,
                    "wall_s": limits.wall_s,
                    "memory_bytes": limits.memory_bytes,
                    "address_bytes": address_bytes,
                    "output_bytes": limits.output_bytes,
                    "processes": limits.processes,
                }
            },
            self._case_deadline,
        )

    def send(self, value: Any) -> None:
        """Say something to the running program."""
        self._send({"to": value}, self._case_deadline)

    def stop(self) -> RunResult:
        """End the running program."""
        self._send({"stop": True}, self._case_deadline)
        while True:
            message = self.receive()
            if isinstance(message, RunResult):
                return message

    def receive(self) -> Any:
        """Return what the program says next, or its `RunResult` once it has ended."""
        try:
            message = self._read(self._case_deadline)
        except TimeoutError:
            self.close()
            return RunResult(None, timeout=True, died=True)
        except EOFError:
            killed = self._killed_for_memory()
            self.close()
            return RunResult(None, died=True, memory=killed)
        if "exit" not in message:
            return message.get("from")
        result = RunResult(**message["exit"])
        return RunResult(**{**message["exit"], "memory": True}) if self._killed_for_memory() else result

    def start(self) -> None:
        """Start the sandbox without waiting for it.

        Raises:
            SandboxError: this machine lacks what it needs.
        """
        if self._launched is not None and self._launched.process.poll() is None:
            return
        self.close()
        self._launched = launch(self._config, self._bind)
        # A sandbox does not outlive a box, or a judge with its spare box, that nobody closed.
        self._end = weakref.finalize(self, self._launched.end)

    def close(self) -> None:
        """End the sandbox and everything in it; a later run starts another."""
        launched, self._launched, self._ready = self._launched, None, False
        if launched is not None:
            self._end()

    def _await_ready(self) -> None:
        self.start()
        if self._ready:
            return
        assert self._launched is not None
        try:
            self._read(time.monotonic() + _START_TIMEOUT_S)
        except (EOFError, TimeoutError) as error:
            self._launched.process.kill()
            self._launched.process.wait()
            words = self._launched.last_words()
            self.close()
            remedy = f"; {NO_USER_NAMESPACES}" if self._config.backend == "bubblewrap" else ""
            raise SandboxError(
                f"no sandbox could be started on this machine (sandbox.backend={self._config.backend}): "
                f"{words or 'it did not get ready in time'}{remedy}"
            ) from error
        self._ready = True
        if self._installed:
            self.install(self._installed)

    def _outside_paths(self, arguments: Sequence[str]) -> list[str]:
        assert self._launched is not None
        translated = list(arguments)
        for inside, outside in self._launched.paths:
            translated = [argument.replace(f"{inside}/", f"{outside}/") for argument in translated]
            translated = [outside if argument == inside else argument for argument in translated]
        return translated

    def _killed_for_memory(self) -> bool:
        cgroup = self._launched.cgroup if self._launched is not None else None
        return cgroup is not None and cgroup.memory_kills() > self._memory_kills

    def _send(self, message: dict[str, Any], deadline: float) -> None:
        assert self._launched is not None
        assert self._launched.process.stdin is not None
        # A runner that is gone shows when the answer is read.
        with contextlib.suppress(EOFError, TimeoutError):
            write_message(self._launched.process.stdin.fileno(), message, deadline)

    def _read(self, deadline: float) -> Any:
        if self._launched is None or self._launched.process.stdout is None:
            raise EOFError
        return read_message(self._launched.process.stdout.fileno(), deadline)
