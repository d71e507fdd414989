"""The grades that `r1ray grade` writes: a journal while it works, the whole file at the end.

OUT.partial   one line per grade in the order they come; survives an interruption, and the next run goes on
OUT           all grades in the order of the input, JSONL or parquet; appears whole or not at all
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from r1ray.errors import DataError
from r1ray.stages.grade_input import Row
from r1ray.types import Grade

_BATCH_ROWS = 4096


class GradeJournal:
    """Grades on their way to a file."""

    def __init__(self, out: Path, *, rows: int, fingerprint: str, overwrite: bool) -> None:
        """Begin a journal, or go on with the one that an interrupted run left.

        Args:
            out: the file to write in the end.
            rows: how many grades that takes.
            fingerprint: of input and rewards; a journal of others is not gone on with.
            overwrite: replace what is there.

        Raises:
            DataError: `out` exists already, cannot be written, or its journal is of another input or other rewards.
        """
        self.out = out
        self.path = out.with_name(out.name + ".partial")
        if out.exists() and not overwrite:
            raise DataError(f"{out} exists: name another file, or say --overwrite")
        self._rows = rows
        # Where each row's line begins.
        self._places: dict[int, int] = {}
        self.verdicts: Counter[str] = Counter()
        # (stored verdict, verdict)
        self.agreement: Counter[tuple[str, str]] = Counter()
        self.reward_sum = 0.0
        header = {"rows": rows, "fingerprint": fingerprint}
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
        except OSError as error:
            raise DataError(f"{out} cannot be written: {error}") from error
        self._read_back(header, overwrite=overwrite)

    def __contains__(self, index: int) -> bool:
        """Whether a row has been graded."""
        return index in self._places

    def __len__(self) -> int:
        """Return how many rows have been graded."""
        return len(self._places)

    def add(self, row: Row, grade: Grade) -> None:
        """Note one grade."""
        values: dict[str, Any] = {
            "id": row.row_id,
            "reward": grade.reward,
            "breakdown": grade.breakdown,
            "verdict": grade.verdict.value,
            "detail": grade.detail,
        }
        if row.stored is not None:
            values |= {"stored_verdict": row.stored[0].value, "stored_reward": row.stored[1]}
        place = self._file.seek(0, os.SEEK_END)
        self._file.write(_line({"index": row.index, **values}))
        self._count(row.index, place, values)

    def flush(self) -> None:
        """Hand what has been noted to the system."""
        self._file.flush()

    def close(self) -> None:
        """Close the journal; it stays for a later run."""
        self._file.close()

    def finish(self) -> None:
        """Write the file from the journal, which is then gone."""
        self.flush()
        scratch = self.out.with_name(self.out.name + ".tmp")
        if self.out.suffix == ".parquet":
            self._write_parquet(scratch)
        else:
            with scratch.open("wb") as file:
                file.writelines(_line(values) for values in self._in_order())
                file.flush()
                os.fsync(file.fileno())
        os.replace(scratch, self.out)
        self._file.close()
        self.path.unlink()

    def _in_order(self) -> Iterator[dict[str, Any]]:
        for index in range(self._rows):
            self._file.seek(self._places[index])
            values = json.loads(self._file.readline())
            del values["index"]
            yield values

    def _write_parquet(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: dict[str, pa.DataType] = {
            "id": pa.string(),
            "reward": pa.float64(),
            "breakdown": pa.map_(pa.string(), pa.float64()),
            "verdict": pa.string(),
            "detail": pa.string(),
        }
        if self.agreement:
            columns |= {"stored_verdict": pa.string(), "stored_reward": pa.float64()}
        schema = pa.schema(columns)
        rows = self._in_order()
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for start in range(0, self._rows, _BATCH_ROWS):
                batch = [next(rows) for _ in range(start, min(start + _BATCH_ROWS, self._rows))]
                for values in batch:
                    values["id"] = None if values["id"] is None else str(values["id"])
                    values["breakdown"] = list(values["breakdown"].items())
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))

    def _read_back(self, header: Mapping[str, Any], *, overwrite: bool) -> None:
        self._file.seek(0)
        try:
            found = json.loads(self._file.readline() or b"null")
        except ValueError:
            found = None
        if found != header:
            if self._file.seek(0, os.SEEK_END) and not overwrite:
                raise DataError(
                    f"{self.path} holds grades of another input or by other rewards: remove it, name another file, "
                    "or say --overwrite"
                )
            self._file.truncate(0)
            self._file.write(_line(header))
            return
        place = self._file.tell()
        while (line := self._file.readline()).endswith(b"\n"):
            values = json.loads(line)
            self._count(values["index"], place, values)
            place += len(line)
        # What an interruption left of a line.
        self._file.truncate(place)

    def _count(self, index: int, place: int, values: Mapping[str, Any]) -> None:
        self._places[index] = place
        self.verdicts[values["verdict"]] += 1
        self.reward_sum += values["reward"]
        if "stored_verdict" in values:
            self.agreement[values["stored_verdict"], values["verdict"]] += 1


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values).encode() + b"\n"
