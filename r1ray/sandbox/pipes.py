"""Messages to and from a child process, each by a deadline: a length in 4 bytes and a JSON value."""

from __future__ import annotations

import json
import os
import select
import time
from typing import Any

from r1ray.sandbox.server import HEADER, frame

_MAX_MESSAGE_BYTES = 1 << 26


def write_message(descriptor: int, message: Any, deadline: float) -> None:
    """Write a message to a pipe that does not block.

    Raises:
        TimeoutError: the other side has not taken it by the deadline.
        EOFError: the other side is gone.
    """
    rest = memoryview(frame(message))
    while rest:
        _wait(descriptor, select.POLLOUT, deadline)
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            continue
        except OSError as error:
            raise EOFError from error


def read_message(descriptor: int, deadline: float) -> Any:
    """Read a message.

    Raises:
        TimeoutError: it was not there by the deadline.
        EOFError: the other side is gone or talks nonsense.
    """
    (size,) = HEADER.unpack(_read(descriptor, HEADER.size, deadline))
    if size > _MAX_MESSAGE_BYTES:
        raise EOFError
    try:
        return json.loads(_read(descriptor, size, deadline))
    except (ValueError, RecursionError) as error:
        raise EOFError from error


def _read(descriptor: int, size: int, deadline: float) -> bytes:
    got = bytearray()
    while len(got) < size:
        _wait(descriptor, select.POLLIN, deadline)
        piece = os.read(descriptor, size - len(got))
        if not piece:
            raise EOFError
        got += piece
    return bytes(got)


def _wait(descriptor: int, event: int, deadline: float) -> None:
    """Wait until the pipe can be used. `poll` because `select` fails beyond descriptor 1023."""
    left_s = deadline - time.monotonic()
    poll = select.poll()
    poll.register(descriptor, event)
    if left_s <= 0 or not poll.poll(left_s * 1000):
        raise TimeoutError
