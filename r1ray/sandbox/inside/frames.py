"""The frames that the runner, programs and the world outside talk in: a length in 4 bytes and a JSON value."""

from __future__ import annotations

import json
import os
import struct
from typing import Any

HEADER = struct.Struct(">I")
MAX_FRAME_BYTES = 1 << 26


def encode_frame(value: Any) -> bytes:
    """Return one frame."""
    body = json.dumps(value).encode()
    return HEADER.pack(len(body)) + body


def take_frame(buffer: bytearray, limit: int) -> Any:
    """Take a whole frame off the front of a buffer.

    Args:
        buffer: what has arrived.
        limit: bytes a frame may have.

    Returns:
        Its value, or `...` while it has not arrived as a whole.

    Raises:
        ValueError, RecursionError: what stands there is no frame.
    """
    if len(buffer) < HEADER.size:
        return ...
    (size,) = HEADER.unpack_from(buffer)
    if size > limit:
        raise ValueError("the frame is too long")
    if len(buffer) < HEADER.size + size:
        return ...
    body = bytes(buffer[HEADER.size : HEADER.size + size])
    del buffer[: HEADER.size + size]
    return json.loads(body)


def write_frame(descriptor: int, value: Any) -> None:
    """Write one frame."""
    rest = memoryview(encode_frame(value))
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def read_frame(descriptor: int) -> Any:
    """Read one frame; None at the end, or where it is not one."""
    header = _read(descriptor, HEADER.size)
    size = HEADER.unpack(header)[0] if header else MAX_FRAME_BYTES + 1
    body = _read(descriptor, size) if size <= MAX_FRAME_BYTES else None
    try:
        return None if body is None else json.loads(body)
    except (ValueError, RecursionError):
        return None


def _read(descriptor: int, size: int) -> bytes | None:
    got = bytearray()
    while len(got) < size:
        try:
            piece = os.read(descriptor, min(size - len(got), 1 << 20))
        except OSError:
            return None
        if not piece:
            return None
        got += piece
    return bytes(got)
