"""The child's side of the pipe: answers requests from stdin until it closes, within limits.

Also home of what both sides agree on: the frame around a message and the form of a reply.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, BinaryIO

from r1ray.sandbox.limits import Limits, apply_limits, arm_timers, disarm_timers

HEADER = struct.Struct(">I")
_DETAIL_CHARS = 500


class Outcome(StrEnum):
    """How one piece of work ended."""

    OK = "ok"
    ERROR = "error"  # the handler raised; the child lives on
    TIMEOUT = "timeout"
    MEMORY = "memory"
    DIED = "died"
    NOT_STARTED = "not_started"  # a fault of the installation, not of the work


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one request: the handler's JSON value if `outcome` is ok, else a line that says why not."""

    outcome: Outcome
    value: Any = None
    detail: str = ""


def frame(message: Any) -> bytes:
    """Return a JSON value as it travels through the pipe: its length in 4 bytes, then its text."""
    body = json.dumps(message).encode()
    return HEADER.pack(len(body)) + body


def serve(handler: Callable[[Any], Any]) -> None:
    """Answer requests from stdin until it closes: the child's main function.

    Args:
        handler: JSON value in, JSON value out. An exception becomes outcome `error`, MemoryError `memory`.
    """
    source = sys.stdin.buffer
    # What the work prints goes to stderr, not between the messages.
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    hello = _receive(source)
    if hello is None:
        return
    apply_limits(Limits(**hello))
    _send(sink, Reply(Outcome.OK))
    while (message := _receive(source)) is not None:
        arm_timers(message["time_limit_s"])
        reply = _handle(handler, message["request"])
        disarm_timers()
        _send(sink, reply)


def _handle(handler: Callable[[Any], Any], request: Any) -> Reply:
    try:
        return Reply(Outcome.OK, handler(request))
    except MemoryError:
        return Reply(Outcome.MEMORY, detail="out of memory")
    except Exception as error:  # the worker boundary: the parent logs and counts it
        return Reply(Outcome.ERROR, detail=f"{type(error).__name__}: {error}"[:_DETAIL_CHARS])


def _receive(source: BinaryIO) -> Any:
    header = source.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    return json.loads(source.read(HEADER.unpack(header)[0]))


def _send(sink: BinaryIO, reply: Reply) -> None:
    with contextlib.suppress(BrokenPipeError):
        sink.write(frame(asdict(reply)))
        sink.flush()
