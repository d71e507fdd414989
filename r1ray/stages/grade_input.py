"""The completions that `r1ray grade` reads: a JSONL or parquet file of rows, or the rollouts of a run.

A row that cannot be read becomes a fault of its own, which is answered like any other row; a file that cannot be
read is an error. Rows are read as they are needed, never all at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import fsspec

from r1ray.errors import DataError
from r1ray.tracking.rollouts import RolloutLog
from r1ray.tracking.run_dir import RunDirectory
from r1ray.types import DOMAIN_OF_TASK, Completion, GradeRequest, Prompt, Verdict

_OWN_KEYS = ("id", "task", "domain", "prompt", "answer", "completion", "completion_ids", "finish_reason")
_BATCH_ROWS = 256


@dataclass(frozen=True, slots=True)
class Row:
    """One completion to grade.

    Attributes:
        index: its place in the input, from 0.
        row_id: as the input has it.
        request: None where the row is at fault.
        fault: what is wrong with it.
        stored: verdict and reward of a stored run.
    """

    index: int
    row_id: Any
    request: GradeRequest | None
    fault: str = ""
    stored: tuple[Verdict, float] | None = None


class RowSource(Protocol):
    """Rows in order.

    Attributes:
        count: how many there are.
        fingerprint: changes with the content.
    """

    count: int
    fingerprint: str

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows."""


def open_rows(path: str) -> RowSource:
    """Open a run directory, a `.parquet` file or a JSONL file, which may be compressed.

    Raises:
        DataError: it cannot be read, or holds nothing.
    """
    try:
        source: RowSource
        if Path(path).is_dir() or RunDirectory(path).exists():
            source = _StoredRun(path)
        elif path.endswith(".parquet"):
            source = _ParquetRows(path)
        else:
            source = _JsonlRows(path)
    # ValueError: Arrow's word for what it cannot read.
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{path} cannot be read: {error}; give a JSONL or parquet file, or a run directory") from error
    if not source.count:
        raise DataError(f"{path} holds no completions")
    return source


class _JsonlRows:
    """Lines of a JSONL file."""

    def __init__(self, path: str) -> None:
        self._path = path
        digest, self.count = hashlib.sha256(), 0
        with fsspec.open(path, "rb", compression="infer") as file:
            for line in file:
                digest.update(line)
                self.count += bool(line.strip())
        self.fingerprint = digest.hexdigest()

    def __iter__(self) -> Iterator[Row]:
        index = 0
        with fsspec.open(self._path, "rb", compression="infer") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield self._row(index, number, line)
                    index += 1

    def _row(self, index: int, number: int, line: bytes) -> Row:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            return Row(index, None, None, f"line {number} is not JSON: {error}")
        return read_row(index, values)


class _ParquetRows:
    """Rows of a parquet file."""

    def __init__(self, path: str) -> None:
        import pyarrow.parquet as pq

        self._path = path
        digest = hashlib.sha256()
        with fsspec.open(path, "rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
            self.count = pq.ParquetFile(file).metadata.num_rows
        self.fingerprint = digest.hexdigest()

    def __iter__(self) -> Iterator[Row]:
        import pyarrow.parquet as pq

        index = 0
        with fsspec.open(self._path, "rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=_BATCH_ROWS):
                for values in batch.to_pylist():
                    yield read_row(index, values)
                    index += 1


class _StoredRun:
    """Every completion that a run has stored."""

    def __init__(self, path: str) -> None:
        run_dir = RunDirectory(path)
        if not run_dir.exists():
            raise DataError(f"{path} is not a run directory: it has neither metrics.jsonl nor config.yaml")
        self._log = RolloutLog(run_dir)
        counts = {step: self._log.read(step, columns=["sample_index"]).num_rows for step in self._log.steps()}
        self.count = sum(counts.values())
        self.fingerprint = hashlib.sha256(json.dumps(counts).encode()).hexdigest()

    def __iter__(self) -> Iterator[Row]:
        index = 0
        for step in self._log.steps():
            table = self._log.read(step)
            for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
                for values in batch.to_pylist():
                    yield _stored_row(index, values)
                    index += 1


def _stored_row(index: int, values: Mapping[str, Any]) -> Row:
    prompt = Prompt(
        prompt_id=values["prompt_id"],
        question=values["question"],
        text=values["prompt_text"],
        prompt_ids=(),
        answer=values["answer"],
        task=values["task"],
        domain=values["domain"],
        metadata=json.loads(values["metadata"]),
    )
    completion = _completion(index, values["completion"], values["completion_ids"], values["finish_reason"])
    row_id = f"{values['step']}/{values['group_id']}/{values['sample_index']}"
    request = GradeRequest(prompt, completion, step=values["step"] - 1)
    return Row(index, row_id, request, stored=(Verdict(values["verdict"]), values["reward"]))


def read_row(index: int, values: Any) -> Row:
    """Turn one JSON value of the form in the README into a row.

    Args:
        index: place in the input.
        values: the JSON value.
    """
    if not isinstance(values, Mapping):
        return Row(index, None, None, f"row {index + 1} must be a JSON object, got {type(values).__name__}")
    row_id = values.get("id")
    row_id = index if row_id is None else row_id
    given = {key: value for key, value in values.items() if value is not None}
    task = given.get("task", "code" if "tests" in given else "math")
    if task not in DOMAIN_OF_TASK:
        return Row(index, row_id, None, f"task must be one of {', '.join(DOMAIN_OF_TASK)}, got {task!r}")
    if not isinstance(given.get("completion"), str):
        return Row(index, row_id, None, f"completion must be text, got {given.get('completion')!r:.60}")
    answer = given.get("answer")
    if isinstance(answer, list | dict):
        return Row(index, row_id, None, f"answer must be text or a number, got {answer!r:.60}")
    question = _question(given.get("prompt", ""))
    prompt = Prompt(
        prompt_id=str(row_id),
        question=question,
        text=question,
        prompt_ids=(),
        answer=None if answer is None else str(answer),
        task=task,
        domain=str(given.get("domain", DOMAIN_OF_TASK[task])),
        metadata={key: value for key, value in given.items() if key not in _OWN_KEYS},
    )
    ids, reason = given.get("completion_ids", ()), given.get("finish_reason", "stop")
    return Row(index, row_id, GradeRequest(prompt, _completion(index, given["completion"], ids, reason)))


def _question(prompt: Any) -> str:
    """Return the question, which may come as chat messages."""
    if isinstance(prompt, list):
        contents = [m.get("content") for m in prompt if isinstance(m, Mapping) and m.get("role") == "user"]
        return str(contents[-1]) if contents else ""
    return str(prompt)


def _completion(index: int, text: str, completion_ids: Any, finish_reason: Any) -> Completion:
    # The group id brings the grade back to its row.
    return Completion(str(index), str(index), 0, text, tuple(completion_ids), (), (), finish_reason)


def map_prompts(rows: RowSource, change: Callable[[Prompt], Prompt]) -> Iterator[Row]:
    """Yield the rows with their prompts changed."""
    for row in rows:
        request = row.request
        yield row if request is None else replace(row, request=replace(request, prompt=change(request.prompt)))
