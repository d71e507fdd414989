"""Runs one program after another: the only process in a sandbox that r1ray wrote.

    outside --frames--> stdin -> runner -> fork per case -> program
    outside <--frames-- stdout <- runner <- socket (plain data), exit status, output

A backend starts it (`r1ray/sandbox/backend.py`). While it waits for its first case it loads what solutions usually
import, so a case costs one fork. It never sees an expected value: what a program answers is compared outside. After
each case everything else in the sandbox is killed and its files are removed.

From outside: {"install": {name: base64}} keeps executable files for all cases, {"run": CASE} starts a case,
{"to": value} goes to its program, {"stop": true} ends it. To outside: {"ready": true} once, {"from": value} whenever
the program says something, {"exit": RESULT} once a case is over.

CASE: kind        `exec` (argv), `script` (Python source), `serve` (Python source whose functions outside calls) or
                  `test` (Python source that calls functions which live outside)
      argv, source, files ({name: text}, written to the work directory first)
      names, modules, imports   what a `test` finds defined; see `guest.py`
      collect     whether to return the files it leaves
      stdin       text
      cpu_s, wall_s, memory_bytes, output_bytes, processes   limits
      address_bytes   limit of addresses of one process
RESULT: code, signal, timeout, memory, processes, spoke, stdout, stderr, truncated, cpu_s, files ({name: base64})
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import json
import os
import resource
import select
import shutil
import signal
import socket
import stat
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from r1ray.sandbox.inside.frames import read_frame, write_frame
from r1ray.sandbox.inside.guest import USUAL_MODULES
from r1ray.sandbox.inside.program import LIBC, PR_SET_CHILD_SUBREAPER, PR_SET_DUMPABLE, become_program
from r1ray.sandbox.inside.relay import Bounds, relay
from r1ray.sandbox.inside.watch import children_of

# How long killed processes may take to be gone.
KILL_S = 5.0
STDERR_BYTES = 2000
COLLECTED_BYTES = 1 << 25


@dataclass
class Runner:
    """What outside has asked for, once for all cases.

    Attributes:
        work: directory that programs start and may write in; emptied after each case.
        scratch: other directories to empty.
        uid: user that programs become; None: they keep the runner's.
        seccomp: their filter, in base64; empty: none.
        alone: nothing but this process and its programs runs where it can see and signal processes.
        remove: the work directory goes when the runner does.
        installed: files that are put there before each case.
    """

    work: str
    scratch: list[str]
    uid: int | None
    seccomp: str
    alone: bool
    remove: bool = False
    installed: dict[str, bytes] = field(default_factory=dict)

    def serve(self) -> None:
        """Answer frames until stdin closes."""
        # Without this, programs of the same user could read and write the runner's memory and pipes.
        LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
        if not self.alone:
            LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.closerange(3, 1 << 16)
        os.chdir(self.work)
        write_frame(1, {"ready": True})
        _load_while_waiting()
        while (frame := read_frame(0)) is not None:
            if "install" in frame:
                self.installed = {name: base64.b64decode(data) for name, data in frame["install"].items()}
            elif "run" in frame:
                write_frame(1, {"exit": self.run(frame["run"])})
                self.clean()
        if self.remove:
            shutil.rmtree(self.work, ignore_errors=True)

    def run(self, case: dict[str, Any]) -> dict[str, Any]:
        """Run one program to its end and return how it ended."""
        files = self.installed | {name: text.encode("utf-8", "replace") for name, text in case["files"].items()}
        for name, data in files.items():
            _put(name, data, executable=name in self.installed)
        stdin, stdout, stderr = standard = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
        _write_all(stdin, case["stdin"].encode("utf-8", "replace"))
        os.lseek(stdin, 0, os.SEEK_SET)
        ours, theirs = socket.socketpair()
        cpu_before = _children_cpu_s()
        bounds = Bounds(time.monotonic() + case["wall_s"], case["cpu_s"], case["memory_bytes"], case["processes"])
        pid = os.fork()
        if pid == 0:
            seccomp = base64.b64decode(self.seccomp)
            become_program(
                case,
                standard=standard,
                channel=theirs.fileno(),
                uid=self.uid,
                seccomp=seccomp,
                own_user=self.alone,
            )
        theirs.close()
        why = relay(ours, pid, bounds, others=self.others)
        ours.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        self.kill_all()
        cpu_s = _children_cpu_s() - cpu_before
        ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        out, cut_out = _output(stdout, case["output_bytes"])
        err, _ = _output(stderr, STDERR_BYTES)
        for descriptor in standard:
            os.close(descriptor)
        return {
            "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            "signal": ended_by,
            "timeout": why == "timeout" or cpu_s > case["cpu_s"] or ended_by == signal.SIGXCPU,
            "memory": why == "memory",
            "processes": why == "processes",
            "spoke": why == "spoke",
            "cpu_s": cpu_s,
            "files": _collected() if case.get("collect") else {},
            "stdout": out,
            "stderr": err,
            "truncated": cut_out or ended_by == signal.SIGXFSZ,
        }

    def others(self) -> list[int]:
        """Return the processes of programs."""
        me = os.getpid()
        if not self.alone:
            return children_of(me)
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in (1, me)]

    def kill_all(self) -> None:
        """Kill whatever a program has started, in any group or session, and wait until it is gone."""
        until = time.monotonic() + KILL_S
        while others := self.others():
            if time.monotonic() > until:
                raise SystemExit(f"processes {others} do not die")
            if self.alone:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(-1, signal.SIGKILL)
            else:
                _kill_descendants(others)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            time.sleep(0.001)

    def clean(self) -> None:
        """Remove what a program has left; where that fails the runner ends, and the sandbox with it."""
        os.chdir(self.work)
        for directory in (self.work, *self.scratch):
            with os.scandir(directory) as entries:
                for entry in entries:
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            shutil.rmtree(entry.path)
                        else:
                            os.unlink(entry.path)
                    except (OSError, RecursionError) as error:
                        raise SystemExit(f"{directory} cannot be emptied: {error}") from error


def _load_while_waiting() -> None:
    for name in USUAL_MODULES:
        if select.select([0], [], [], 0)[0]:
            return
        importlib.import_module(name)


def _kill_descendants(pids: list[int]) -> None:
    """Kill processes that are this one's descendants still, whatever else may have got their numbers."""
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            # The handle is of what has the number now; only then does it tell whose that is.
            if pid in children_of(os.getpid()):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        except ProcessLookupError:
            continue
        finally:
            os.close(handle)


def _children_cpu_s() -> float:
    """Return the processor time of everything reaped so far: all of a program's processes once they are gone."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _put(name: str, data: bytes, *, executable: bool) -> None:
    """Write a file that is not there yet into the work directory."""
    descriptor = os.open(name, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY, 0o600)
    try:
        _write_all(descriptor, data)
        os.fchmod(descriptor, 0o555 if executable else 0o644)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _output(descriptor: int, limit: int) -> tuple[str, bool]:
    size = os.fstat(descriptor).st_size
    text = os.pread(descriptor, min(size, limit), 0).decode("utf-8", "replace")
    return text, size > limit


def _collected() -> dict[str, str]:
    """Return the regular files in the work directory, hidden ones aside."""
    files: dict[str, str] = {}
    left = COLLECTED_BYTES
    for name in os.listdir():
        if name.startswith("."):
            continue
        # A link must not make the runner read what it points to, nor a pipe make it wait.
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode) and status.st_size <= left:
                left -= status.st_size
                files[name] = base64.b64encode(os.pread(descriptor, status.st_size, 0)).decode()
        finally:
            os.close(descriptor)
    return files


def main() -> None:
    """Serve with the settings in the last argument."""
    Runner(**json.loads(sys.argv[-1])).serve()
    # Somebody waits for the end, and there is nothing to finalize.
    os._exit(0)
