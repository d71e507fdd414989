"""Runs one program after another inside a sandbox: the only process there that r1ray wrote.

    outside --frames--> stdin -> runner -> fork per case -> program
    outside <--frames-- stdout <- runner <- socket (plain data), exit status, output

It is started as a bare script by `box.py`, knows no other module of r1ray and needs the standard library only. It
has loaded what solutions usually import, so a case costs one fork. It never sees an expected value: what a program
answers is compared outside. After each case everything else in the sandbox is killed.

A frame is a length in 4 bytes and a JSON value. From outside: {"run": CASE} starts a case, {"to": value} goes to its
program, {"stop": true} ends it. To outside: {"ready": true} once, {"from": value} whenever the program says something,
{"exit": RESULT} once a case is over.

CASE: kind        `exec` (argv), `script` (Python source), `serve` (Python source whose functions outside calls) or
                  `test` (Python source that calls functions which live outside)
      argv, source, files ({name: text}, written to the work directory first)
      keep        names of files to leave there afterwards; null: all
      stdin       text
      uid         user to run as; None: that of the runner
      cpu_s, wall_s, memory_bytes, output_bytes, processes   limits
      address_bytes   limit of addresses of one process
RESULT: code, signal, timeout, memory, stdout, stderr, truncated, cpu_s, files
"""

import contextlib
import ctypes
import os
import resource
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

# Beside this file, where isolated mode does not look.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from guest import encode_frame, read_frame, script, serve, take_frames, test, text_of, write_frame

del sys.path[0]

WORK_DIRECTORY = "/tmp"
PR_SET_DUMPABLE = 4
PAGE_BYTES = resource.getpagesize()
RUNNER_PID = os.getpid()
with open("/proc/self/statm") as _file:
    OWN_PAGES = (lambda fields: int(fields[1]) - int(fields[2]))(_file.read().split())
# How often memory is looked at.
WATCH_S = 0.02
# How long killed processes may take to be gone.
KILL_S = 5.0
FAILED = 1


def main() -> None:
    """Answer frames until stdin closes."""
    # Without this, programs of the same user could read and write the runner's memory and pipes.
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    os.chdir(WORK_DIRECTORY)
    write_frame(1, {"ready": True})
    while (frame := read_frame(0)) is not None:
        if "run" in frame:
            write_frame(1, {"exit": run_case(frame["run"])})


# -- one case ---------------------------------------------------------------------------------------------------


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    """Run one program to its end and return how it ended."""
    for name, text in case["files"].items():
        with open(name, "w", encoding="utf-8", newline="") as file:
            file.write(text)
    stdin, stdout, stderr = (os.memfd_create(name) for name in ("stdin", "stdout", "stderr"))
    text = case["stdin"].encode()
    while text:
        text = text[os.write(stdin, text) :]
    os.lseek(stdin, 0, os.SEEK_SET)
    ours, theirs = socket.socketpair()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _become_program(case, (stdin, stdout, stderr), theirs.fileno())
    theirs.close()
    stopped = _relay(ours, pid, began + case["wall_s"], case["memory_bytes"])
    ours.close()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    _kill_all()
    cpu_s = usage.ru_utime + usage.ru_stime
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    out, cut_out = _output(stdout, case["output_bytes"])
    err, _ = _output(stderr, 2000)
    for descriptor in (stdin, stdout, stderr):
        os.close(descriptor)
    if case["keep"] is not None:
        _clean(case["keep"])
    return {
        "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        "signal": ended_by,
        "timeout": stopped == "timeout" or cpu_s > case["cpu_s"] or ended_by == signal.SIGXCPU,
        "memory": stopped == "memory",
        "cpu_s": cpu_s,
        "files": os.listdir(WORK_DIRECTORY),
        "stdout": out,
        "stderr": err,
        "truncated": cut_out or ended_by == signal.SIGXFSZ,
    }


def _relay(channel: socket.socket, pid: int, deadline: float, memory_bytes: int) -> str:
    """Carry frames between outside and the program until it ends, is stopped or breaks a limit; returns which."""
    ended = os.pidfd_open(pid)
    pipe = Pipe(channel)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(0, select.POLLIN)
    try:
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return "timeout"
            if pipe.open:
                poll.register(channel, select.POLLIN | (select.POLLOUT if pipe.outgoing else 0))
            events = dict(poll.poll(min(left_s, WATCH_S) * 1000))
            if _memory_in_use() > memory_bytes:
                return "memory"
            if channel.fileno() in events:
                for frame in pipe.exchange():
                    write_frame(1, {"from": frame})
                if not pipe.open:
                    poll.unregister(channel)
            elif ended in events:
                return "ended"
            if 0 in events:
                message = read_frame(0)
                if message is None or message.get("stop"):
                    return "stopped"
                pipe.outgoing += encode_frame(message["to"])
    finally:
        os.close(ended)


class Pipe:
    """The channel to a program, which may stall or send nonsense without the runner ever waiting for it."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self.channel = channel
        self.open = True
        self.incoming = bytearray()
        self.outgoing = bytearray()

    def exchange(self) -> list[Any]:
        """Send and receive what goes without waiting; return whole frames."""
        try:
            if self.outgoing:
                del self.outgoing[: self.channel.send(self.outgoing)]
        except OSError:
            self.outgoing.clear()
        try:
            piece = self.channel.recv(1 << 20)
            self.open = bool(piece)
            self.incoming += piece
        except BlockingIOError:
            pass
        except OSError:
            self.open = False
        try:
            frames: list[Any] = take_frames(self.incoming)
            return frames
        except (ValueError, RecursionError):
            self.open = False
            return []


def _memory_in_use() -> int:
    """Return the bytes that all processes here but the first two hold for themselves."""
    pages = 0
    for pid in _others():
        with contextlib.suppress(OSError, IndexError), open(f"/proc/{pid}/statm") as file:
            fields = file.read().split()
            # A fork starts with the pages of the runner, which cost nothing until they are written to.
            pages += max(0, int(fields[1]) - int(fields[2]) - OWN_PAGES)
    return pages * PAGE_BYTES


def _kill_all() -> None:
    """Kill whatever the program has started, in any group or session, and wait until it is gone."""
    until = time.monotonic() + KILL_S
    while others := _others():
        if time.monotonic() > until:
            raise SystemExit(f"processes {others} do not die")
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.001)


def _others() -> list[int]:
    """Return the processes here besides the first and the runner."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in (1, RUNNER_PID)]


def _output(descriptor: int, limit: int) -> tuple[str, bool]:
    size = os.fstat(descriptor).st_size
    text = os.pread(descriptor, min(size, limit), 0).decode("utf-8", "replace")
    return text, size > limit


def _clean(keep: Sequence[str]) -> None:
    for entry in os.scandir(WORK_DIRECTORY):
        if entry.name in keep:
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.unlink(entry.path)


# -- inside the program's process -------------------------------------------------------------------------------


def _become_program(case: dict[str, Any], standard: Sequence[int], channel: int) -> NoReturn:
    """Turn this fork into the program; never returns."""
    code = FAILED
    try:
        os.setsid()
        # Standard streams, and 3 for the channel, which programs that are not served do not get.
        moved = os.dup2(channel, 100)
        for number, descriptor in enumerate(standard):
            os.dup2(descriptor, number)
        served = case["kind"] in ("serve", "test")
        if served:
            os.dup2(moved, 3)
        os.closerange(4 if served else 3, 1 << 16)
        if case["uid"] is not None:
            os.setgroups([])
            os.setresgid(case["uid"], case["uid"], case["uid"])
            os.setresuid(case["uid"], case["uid"], case["uid"])
        _limit(case)
        if case["kind"] == "exec":
            os.execv(case["argv"][0], case["argv"])
        code = {"script": script, "serve": serve, "test": test}[case["kind"]](case)
    except SystemExit as stop:
        code = _exit_code(stop)
    except BaseException as error:
        _say(error)
    finally:
        _flush()
        os._exit(code)


def _limit(case: dict[str, Any]) -> None:
    cpu_s = max(1, int(case["cpu_s"]) + 2)
    for kind, value in (
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_AS, case["address_bytes"]),
        (resource.RLIMIT_FSIZE, case["output_bytes"] + 1),
        (resource.RLIMIT_NPROC, case["processes"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_STACK, case["memory_bytes"]),
    ):
        resource.setrlimit(kind, (value, value))


def _exit_code(stop: SystemExit) -> int:
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    return FAILED


def _say(error: BaseException) -> None:
    text = f"{type(error).__name__}: {text_of(error)}"
    os.write(2, text[:1500].encode("utf-8", "replace"))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()


if __name__ == "__main__":
    main()
