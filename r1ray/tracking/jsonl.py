"""Append-only JSONL files inside a run directory.

A line is whole or absent: a process killed in the middle of a write leaves at most one torn last line,
which readers skip and the next writer cuts off.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

from r1ray.errors import DataError
from r1ray.tracking.run_dir import RunDirectory

Record = dict[str, Any]


def finite(value: Any) -> Any:
    """Return `value` with every NaN and infinity, at any depth, replaced by None: JSON has neither."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def encode_line(record: Mapping[str, Any]) -> bytes:
    """Return one JSON line with its newline; what JSON does not know is written as its `str`."""
    text = json.dumps(finite(record), ensure_ascii=False, allow_nan=False, default=str)
    # A lone surrogate (possible in decoded model text) has no UTF-8 form.
    return text.encode("utf-8", errors="replace") + b"\n"


def decode_lines(content: bytes, *, source: str) -> list[Record]:
    """Parse JSONL and leave out a torn last line.

    Raises:
        DataError: a line other than the last is not a JSON object.
    """
    lines = [(number, line) for number, line in enumerate(content.split(b"\n"), start=1) if line.strip()]
    records = []
    for number, line in lines:
        record = _parse(line)
        if record is not None:
            records.append(record)
        elif number != lines[-1][0]:
            raise DataError(f"{source} must hold one JSON object a line, line {number} is {line[:60]!r}")
    return records


def read_jsonl(run_dir: RunDirectory, name: str) -> list[Record]:
    """Return the records of `name`; none where the file does not exist."""
    if not run_dir.has(name):
        return []
    return decode_lines(run_dir.read_bytes(name), source=run_dir.path(name))


class JsonlFile:
    """Appends records to one file, each flushed at once.

    Locally the file stays open for appending. Remote stores cannot append, so there the content is kept in
    memory and the object is written anew with every record.
    """

    def __init__(self, run_dir: RunDirectory, name: str) -> None:
        """Name the file; it is opened with the first record."""
        self._run_dir = run_dir
        self._name = name
        self._file: BinaryIO | None = None
        self._buffer: bytearray | None = None
        self._lock = threading.Lock()

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line."""
        line = encode_line(record)
        with self._lock:
            if self._run_dir.is_local:
                if self._file is None:
                    self._file = self._open_local()
                self._file.write(line)
                self._file.flush()
            else:
                if self._buffer is None:
                    self._buffer = bytearray(self._whole_lines())
                self._buffer += line
                self._run_dir.write_bytes(self._name, bytes(self._buffer))

    def read(self) -> list[Record]:
        """Return all records."""
        return read_jsonl(self._run_dir, self._name)

    def rewrite(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Replace the whole file, atomically."""
        content = b"".join(map(encode_line, records))
        self.close()
        self._run_dir.write_bytes(self._name, content)

    def close(self) -> None:
        """Close the file; a later append opens it again."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file, self._buffer = None, None

    def _open_local(self) -> BinaryIO:
        whole = self._whole_lines()
        if self._run_dir.has(self._name) and self._run_dir.read_bytes(self._name) != whole:
            self._run_dir.write_bytes(self._name, whole)
        path = self._run_dir.local_path(self._name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")

    def _whole_lines(self) -> bytes:
        """Return the present content without a torn last line, ending in a newline."""
        if not self._run_dir.has(self._name):
            return b""
        content = self._run_dir.read_bytes(self._name).rstrip(b"\n")
        head, _, last = content.rpartition(b"\n")
        if _parse(last) is None:
            content = head
        return content + b"\n" if content else b""


def _parse(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
