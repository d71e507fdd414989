"""One sandbox with its runner: programs go in, outputs and results as plain data come out.

`Box` is used by one thread. Whatever happens inside, every call returns by its deadline; a sandbox that does not
answer, or whose runner is gone, is killed and the next call starts another.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from r1ray.errors import SandboxError
from r1ray.sandbox.bubblewrap import NO_USER_NAMESPACES, PROGRAM_UID, RUNNER_PATH, bwrap_command, two_user_namespace
from r1ray.sandbox.pipes import read_message, write_message
from r1ray.sandbox.seccomp import seccomp_program

_START_TIMEOUT_S = 30.0
_ANSWER_GRACE_S = 2.0
_REAP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class RunLimits:
    """What one run of a program may use.

    Attributes:
        cpu_s: processor time.
        wall_s: time on the clock.
        memory_bytes: of all its processes together.
        output_bytes: of its standard output, and of any file it writes.
        processes: at the same time, threads included.
    """

    cpu_s: float
    wall_s: float
    memory_bytes: int
    output_bytes: int = 1 << 20
    processes: int = 64


@dataclass(frozen=True, slots=True)
class RunResult:
    """How one run ended.

    Attributes:
        code: exit code; None where a signal ended it.
        signal: that signal, else 0.
        timeout: it ran out of processor time or of time on the clock.
        memory: it used more memory than allowed.
        stdout: UTF-8 with replacement characters, cut at the limit.
        stderr: its beginning.
        truncated: it wrote more than the limit.
        died: the sandbox itself went down under it.
        cpu_s: processor time it took.
        files: names in the work directory afterwards.
    """

    code: int | None
    signal: int = 0
    timeout: bool = False
    memory: bool = False
    stdout: str = ""
    stderr: str = ""
    truncated: bool = False
    died: bool = False
    cpu_s: float = 0.0
    files: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether it ended by itself with exit code 0."""
        return self.code == 0 and not (self.timeout or self.memory or self.truncated or self.died)


class Box:
    """A sandbox that runs one program after another."""

    def __init__(self, *, tmp_bytes: int = 1 << 26, bind: Sequence[tuple[str, str]] = ()) -> None:
        """Prepare; the sandbox starts with the first run.

        Args:
            tmp_bytes: size of /tmp inside.
            bind: more to show inside, read-only: (outside, inside).
        """
        self._tmp_bytes = tmp_bytes
        self._bind = tuple(bind)
        self._process: subprocess.Popen[bytes] | None = None
        self._case_deadline = 0.0

    def __enter__(self) -> Box:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, case: dict[str, Any], limits: RunLimits) -> RunResult:
        """Run one program that nobody talks to, to its end.

        Args:
            case: `kind` and what belongs to it; see `runner.py`.
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
        self._start()
        uid = PROGRAM_UID if os.geteuid() == 0 else None
        self._case_deadline = time.monotonic() + limits.wall_s + _ANSWER_GRACE_S
        self._send(
            {
                "run": {
                    "files": {},
                    "keep": (),
                    "stdin": "",
                    "address_bytes": limits.memory_bytes,
                    **case,
                    "uid": uid,
                    "cpu_s": limits.cpu_s,
                    "wall_s": limits.wall_s,
                    "memory_bytes": limits.memory_bytes,
                    "output_bytes": limits.output_bytes,
                    "processes": limits.processes,
                }
            }
        )

    def send(self, value: Any) -> None:
        """Say something to the running program."""
        self._send({"to": value})

    def stop(self) -> RunResult:
        """End the running program."""
        self._send({"stop": True})
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
            self.close()
            return RunResult(None, died=True)
        return RunResult(**message["exit"]) if "exit" in message else message.get("from")

    def close(self) -> None:
        """End the sandbox and everything in it; a later run starts another."""
        process, self._process = self._process, None
        if process is None:
            return
        # The kernel kills every process of a PID namespace with its first, which dies with bubblewrap.
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_REAP_TIMEOUT_S)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        userns = two_user_namespace()
        descriptors = [userns] if userns is not None else []
        with tempfile.TemporaryFile() as program, tempfile.TemporaryFile() as errors:
            program.write(seccomp_program())
            program.seek(0)
            descriptors.append(program.fileno())
            command = bwrap_command(
                tmp_bytes=self._tmp_bytes, seccomp_fd=program.fileno(), userns_fd=userns, bind=self._bind
            )
            try:
                self._process = subprocess.Popen(
                    [*command, "-I", "-S", "-B", RUNNER_PATH],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    bufsize=0,
                    pass_fds=descriptors,
                    env={},
                    cwd="/",
                )
                assert self._process.stdin is not None
                os.set_blocking(self._process.stdin.fileno(), False)
                self._read(time.monotonic() + _START_TIMEOUT_S)
            except (EOFError, OSError) as error:
                self.close()
                errors.seek(0)
                words = errors.read().decode(errors="replace").strip()
                raise SandboxError(
                    f"no sandbox could be started on this machine: {words or error}; {NO_USER_NAMESPACES}"
                ) from error
            finally:
                if userns is not None:
                    os.close(userns)

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        # A runner that is gone shows when the answer is read.
        with contextlib.suppress(EOFError, TimeoutError):
            write_message(self._process.stdin.fileno(), message, self._case_deadline)

    def _read(self, deadline: float) -> Any:
        if self._process is None or self._process.stdout is None:
            raise EOFError
        return read_message(self._process.stdout.fileno(), deadline)
