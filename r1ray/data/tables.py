"""Reads stored datasets: jsonl, parquet, and Hugging Face datasets from the hub or from disk.

Knows files and columns; what a column means is `sources.py`'s work, apart from `read_record`, which turns one
row into a record. The heavy readers are imported where they are used.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from r1ray.config.data_sections import ColumnsConfig, SourceConfig
from r1ray.data.records import Record
from r1ray.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


class Table(Protocol):
    """Rows by number, and columns by name."""

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def select(self, names: list[str]) -> Table:
        """Return the table with only these columns."""

    def column(self, name: str) -> list[Any]:
        """Return the values of one column."""

    def row(self, index: int) -> dict[str, Any]:
        """Return one row."""


class ArrowTable:
    """A table in Arrow's memory, or mapped from disk."""

    def __init__(self, table: pa.Table) -> None:
        """Wrap an Arrow table."""
        self._table = table

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self._table.column_names)

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._table.num_rows)

    def select(self, names: list[str]) -> ArrowTable:
        """Return the table with only these columns."""
        return ArrowTable(self._table.select(names))

    def column(self, name: str) -> list[Any]:
        """Return the values of one column."""
        return list(self._table.column(name).to_pylist())

    def row(self, index: int) -> dict[str, Any]:
        """Return one row."""
        return dict(self._table.slice(index, 1).to_pylist()[0])


class JsonTable:
    """Rows of a jsonl file: not Arrow's, since its columns may mix types, e.g. answers `3` and `"x + 1"`."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        """Wrap the rows; a row that lacks another's column holds None there."""
        self._rows = rows
        self.columns = list(dict.fromkeys(name for row in rows for name in row))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def select(self, names: list[str]) -> JsonTable:
        """Return the table with only these columns."""
        return JsonTable([{name: row.get(name) for name in names} for row in self._rows])

    def column(self, name: str) -> list[Any]:
        """Return the values of one column."""
        return [row.get(name) for row in self._rows]

    def row(self, index: int) -> dict[str, Any]:
        """Return one row."""
        return dict(self._rows[index])


def open_table(config: SourceConfig) -> Table:
    """Read the first `size` rows of a jsonl, parquet or hf dataset, or all of them.

    Raises:
        DataError: there is no such file, dataset or split, or it cannot be read.
    """
    readers: Mapping[str, Callable[[SourceConfig], Table]] = {
        "jsonl": _read_jsonl,
        "parquet": _read_parquet,
        "hf": _read_hf,
    }
    try:
        return readers[config.source](config)
    # OSError: no file or no connection; ValueError: Arrow's and datasets' word for what they cannot read;
    # ImportError: an fsspec protocol whose package is not installed.
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{config.source} dataset {config.name!r} cannot be read: {error}") from error


def read_record(
    row: Mapping[str, Any], columns: ColumnsConfig, *, default_id: str, default_domain: str | None = None
) -> Record:
    """Turn a row into a record.

    Args:
        row: holds every column that `columns` names.
        columns: which column holds what.
        default_id: id of the record where no column holds it.
        default_domain: domain of the record where no column holds it.

    Raises:
        DataError: the question is no text, or an id, a task, a domain or an answer is missing.
    """
    question = row[columns.question]
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{default_id}: column {columns.question!r} must hold the question as text, got {question!r}")
    for key, name in (
        ("answer", columns.answer),
        ("id", columns.id),
        ("task", columns.task),
        ("domain", columns.domain),
    ):
        if name is not None and row[name] is None:
            raise DataError(f"{default_id}: column {name!r} is empty: fill it, or set columns.{key} to null")
    return Record(
        prompt_id=default_id if columns.id is None else str(row[columns.id]),
        question=question,
        answer=None if columns.answer is None else str(row[columns.answer]),
        task="math" if columns.task is None else str(row[columns.task]),
        domain=default_domain if columns.domain is None else str(row[columns.domain]),
        metadata={name: row[name] for name in columns.metadata},
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `: did you mean ..?` for the closest known name, or nothing."""
    lowered = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), lowered, n=1)
    return f": did you mean {lowered[near[0]]!r}?" if near else ""


def _read_jsonl(config: SourceConfig) -> JsonTable:
    import fsspec

    rows: list[dict[str, Any]] = []
    with fsspec.open(config.name, "rt", encoding="utf-8", compression="infer") as lines:
        for number, row in _parse_lines(lines):
            if config.size is not None and len(rows) == config.size:
                break
            if not isinstance(row, dict):
                raise DataError(f"{config.name}:{number} must hold a JSON object, got {type(row).__name__}")
            rows.append(row)
    return JsonTable(rows)


def _parse_lines(lines: Iterable[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} is not JSON: {error}") from error


def _read_parquet(config: SourceConfig) -> ArrowTable:
    import pyarrow.dataset
    from fsspec.core import url_to_fs

    filesystem, path = url_to_fs(config.name)
    if not filesystem.exists(path):
        raise FileNotFoundError("no such file or directory")
    stored = pyarrow.dataset.dataset(path, filesystem=filesystem, format="parquet")
    return ArrowTable(stored.to_table() if config.size is None else stored.head(config.size))


def _read_hf(config: SourceConfig) -> ArrowTable:
    import datasets

    if Path(config.name).is_dir() and _is_saved(Path(config.name)):
        stored = _pick_split(datasets.load_from_disk(config.name), config)
    else:
        stored = datasets.load_dataset(config.name, config.subset, split=config.split)
    if config.size is not None:
        stored = stored.select(range(min(config.size, len(stored))))
    # In Arrow form a dataset stays mapped from disk.
    return ArrowTable(stored.with_format("arrow")[:])


def _is_saved(directory: Path) -> bool:
    return any((directory / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _pick_split(stored: Any, config: SourceConfig) -> Any:
    """Return the asked split of a saved dataset, which holds several or is one."""
    if not isinstance(stored, dict):
        # A dataset made in memory has no split name; it is what the config says it is.
        stored = {str(stored.split or config.split): stored}
    if config.split not in stored:
        near = nearest(config.split, stored)
        raise DataError(f"{config.name!r} has no split {config.split!r}{near} (splits: {', '.join(stored)})")
    return stored[config.split]
