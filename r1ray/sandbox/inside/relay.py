"""Carries frames between outside and a program while it runs, in turns, and watches what it uses.

A program may say one thing when it starts, and one for each thing it is told. Whatever it sends otherwise, before or
after its turn, ends it: an answer is never taken that was written before its question was asked.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from r1ray.sandbox.inside.frames import encode_frame, read_frame, take_frame, write_frame
from r1ray.sandbox.inside.watch import memory_of, own_private_bytes, usage_of

# How often processes are looked at.
WATCH_S = 0.01
# What one answer of a program may take as JSON: a reader's objects take some thirty times as much.
ANSWER_BYTES = 1 << 22


@dataclass(frozen=True)
class Bounds:
    """What a program may use; see `runner.py`."""

    deadline: float
    cpu_s: float
    memory_bytes: int
    processes: int


class Channel:
    """The socket to a program, which may stall or send nonsense without the runner ever waiting for it."""

    def __init__(self, program: socket.socket) -> None:
        program.setblocking(False)
        self.socket = program
        self.open = True
        self.turns = 1
        self.incoming = bytearray()
        self.outgoing = bytearray()

    def give(self, value: Any) -> bool:
        """Tell the program something; False if it has spoken before that."""
        if not self.receive() or self.incoming:
            return False
        self.turns += 1
        self.outgoing += encode_frame(value)
        return True

    def send(self) -> None:
        """Send what goes without waiting."""
        try:
            del self.outgoing[: self.socket.send(self.outgoing)]
        except BlockingIOError:
            pass
        except OSError:
            self.outgoing.clear()

    def receive(self) -> bool:
        """Receive what there is; False if the program speaks out of turn."""
        while self.open:
            try:
                piece = self.socket.recv(1 << 20)
            except BlockingIOError:
                break
            except OSError:
                piece = b""
            self.open = bool(piece)
            self.incoming += piece
            if self.incoming and (self.turns == 0 or len(self.incoming) > ANSWER_BYTES + 4):
                return False
        return True

    def take(self) -> Any:
        """Return the whole frame that has arrived, or `...`.

        Raises:
            ValueError, RecursionError: it is none, or more follows it.
        """
        frame = take_frame(self.incoming, ANSWER_BYTES)
        if frame is not ...:
            self.turns -= 1
            if self.incoming:
                raise ValueError("spoken out of turn")
        return frame


def relay(program: socket.socket, pid: int, bounds: Bounds, *, others: Callable[[], list[int]]) -> str:
    """Carry frames until a program ends, is stopped or breaks a rule.

    Args:
        program: the channel's end here.
        pid: its first process.
        bounds: to hold.
        others: finds all its processes.

    Returns:
        `ended`, `stopped`, `timeout`, `memory`, `processes` or `spoke`.
    """
    channel = Channel(program)
    watched = time.monotonic()
    with _ending(pid) as ended:
        while True:
            now = time.monotonic()
            if now > bounds.deadline:
                return "timeout"
            if now - watched > WATCH_S:
                watched = now
                if broken := _broken(others(), bounds):
                    return broken
            ready = _wait(channel, ended, min(bounds.deadline - now, WATCH_S))
            if program.fileno() in ready:
                channel.send()
                if not _forward(channel):
                    return "spoke"
            elif ended in ready or (ended < 0 and _is_over(pid)):
                return "ended"
            if 0 in ready:
                message = read_frame(0)
                if message is None or message.get("stop"):
                    return "stopped" if channel.receive() and not channel.incoming else "spoke"
                if not channel.give(message["to"]):
                    return "spoke"


def _forward(channel: Channel) -> bool:
    """Pass on what the program says; False if it is out of turn or no frame."""
    if not channel.receive():
        return False
    try:
        frame = channel.take()
    except (ValueError, RecursionError):
        return False
    if frame is not ...:
        write_frame(1, {"from": frame})
    return True


def _wait(channel: Channel, ended: int, timeout_s: float) -> list[int]:
    poll = select.poll()
    poll.register(0, select.POLLIN)
    if ended >= 0:
        poll.register(ended, select.POLLIN)
    if channel.open:
        poll.register(channel.socket, select.POLLIN | (select.POLLOUT if channel.outgoing else 0))
    return [descriptor for descriptor, _ in poll.poll(timeout_s * 1000)]


@contextlib.contextmanager
def _ending(pid: int) -> Any:
    """Give a descriptor that becomes readable when a process ends; -1 where the kernel has none."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        yield -1
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_over(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _broken(pids: list[int], bounds: Bounds) -> str:
    """Return which limit processes break together, if any."""
    usage = usage_of(pids)
    if usage.cpu_s > bounds.cpu_s:
        return "timeout"
    if usage.threads > bounds.processes:
        return "processes"
    # What is cheap to know bounds what is not.
    if usage.resident_bytes <= bounds.memory_bytes:
        return ""
    return "memory" if memory_of(pids, forked_bytes=own_private_bytes()) > bounds.memory_bytes else ""
