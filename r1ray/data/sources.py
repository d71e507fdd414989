"""Opens what `data.train` and `data.eval` describe as a sequence of records.

First station of the flow: a source yields bare records by index; order, epochs and resuming are
`cursor.py`'s work, templates and tokens `prompts.py`'s. Files are read by `tables.py`.
"""

from __future__ import annotations

import operator
import zlib
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, Protocol

from r1ray.config.data_sections import DatasetConfig, SourceConfig
from r1ray.data.embedded.registry import TASKS
from r1ray.data.records import Record
from r1ray.data.tables import nearest, open_table, read_record
from r1ray.errors import DataError

__all__ = ["PromptSource", "open_source"]

_OWN_KEYS = ("seed", "size")


class PromptSource(Protocol):
    """Records by index; the same index always gives the same record."""

    @property
    def size(self) -> int | None:
        """Number of records; None where the source never ends."""

    def __getitem__(self, index: int) -> Record:
        """Return the record at `index`, 0 <= index < size."""


def open_source(config: SourceConfig) -> PromptSource:
    """Open a dataset; one with parts is all of them, one after the other.

    Raises:
        DataError: the task, generator, file, split or column is not there, the dataset is empty, or an
            id is not unique.
    """
    if isinstance(config, DatasetConfig) and config.parts:
        return JoinedSource([open_source(part) for part in config.parts])
    if config.source == "embedded":
        return EmbeddedSource(config)
    if config.source == "reasoning_gym":
        return ReasoningGymSource(config)
    return TableSource(config)


class JoinedSource:
    """Several sources, one after the other; endless if one of them is, and then not to be read by index."""

    def __init__(self, parts: Sequence[PromptSource]) -> None:
        """Join the parts in their order."""
        self._parts = parts
        sizes = [part.size for part in parts]
        self.size = None if None in sizes else sum(size for size in sizes if size is not None)

    def __getitem__(self, index: int) -> Record:
        """Return the record at `index`, counted through all parts.

        Raises:
            DataError: a part never ends.
        """
        if self.size is None:
            raise DataError("every part must have an end to be read in order: set the size of each")
        index = _checked(index, self.size)
        for part in self._parts:
            assert part.size is not None, "else there were no size"
            if index < part.size:
                return part[index]
            index -= part.size
        raise AssertionError("the index was checked")


class EmbeddedSource:
    """A task that ships with r1ray; endless unless `size` is set."""

    def __init__(self, config: SourceConfig) -> None:
        """Look the task up and try its first question.

        Raises:
            DataError: unknown task or split.
        """
        if config.name not in TASKS:
            raise DataError(f"embedded task must be one of {', '.join(TASKS)}, got {config.name!r}")
        self.size = config.size
        self._config = config
        self._task = TASKS[config.name]
        self[0]

    def __getitem__(self, index: int) -> Record:
        """Return the question at `index` of the task's stream."""
        index = _checked(index, self.size)
        item = self._task(index, seed=self._config.seed, split=self._config.split)
        return Record(
            _prompt_id(self._config, index),
            item.question,
            item.answer,
            task=item.task,
            metadata=dict(item.metadata),
            domain=self._config.domain or item.domain,
        )


class ReasoningGymSource:
    """A generator of reasoning_gym; its questions depend on nothing but name, seed, options and index."""

    def __init__(self, config: SourceConfig) -> None:
        """Create the generator.

        Raises:
            DataError: unknown generator, an option it refuses, or no size.
        """
        import reasoning_gym

        if config.size is None:
            raise DataError("size must be set for reasoning_gym, got null: a generator has no end of its own")
        if taken := [key for key in _OWN_KEYS if key in config.options]:
            raise DataError(f"options must not hold {taken[0]!r}: set it beside source and name")
        known = sorted(reasoning_gym.factory.DATASETS)
        if config.name not in known:
            raise DataError(f"reasoning_gym has no generator {config.name!r}{nearest(config.name, known)}")
        self.size: int = config.size
        self._config = config
        seed = generator_seed(config.seed, config.split)
        try:
            self._items = reasoning_gym.create_dataset(config.name, size=config.size, seed=seed, **config.options)
        # Its configs check themselves with assertions; an unknown option is a TypeError.
        except (AssertionError, TypeError, ValueError) as error:
            raise DataError(f"reasoning_gym generator {config.name!r} refuses its options: {error}") from error

    def __getitem__(self, index: int) -> Record:
        """Return the question at `index`.

        Raises:
            DataError: the generator has no gold answer for it.
        """
        index = _checked(index, self.size)
        item = self._items[index]
        prompt_id = _prompt_id(self._config, index)
        if item["answer"] is None:
            raise DataError(
                f"{prompt_id} has no gold answer: rule rewards cannot grade reasoning_gym's {self._config.name!r}"
            )
        return Record(
            prompt_id,
            item["question"],
            str(item["answer"]),
            domain=self._config.domain or "logic",
            metadata=dict(item["metadata"]),
        )


class TableSource:
    """Rows of a jsonl or parquet file or of a Hugging Face dataset."""

    def __init__(self, config: SourceConfig) -> None:
        """Read the table and check its columns and ids.

        Raises:
            DataError: as `open_source`.
        """
        columns = config.columns
        wanted = [columns.question, columns.answer, columns.id, columns.task, columns.domain, *columns.metadata]
        names = list(dict.fromkeys(name for name in wanted if name is not None))
        self._config = config
        self._rows = open_table(config)
        for name in names:
            if name not in self._rows.columns:
                have = ", ".join(self._rows.columns) or "none"
                raise DataError(
                    f"{config.name!r} has no column {name!r}{nearest(name, self._rows.columns)} (columns: {have})"
                )
        self._rows = self._rows.select(names)
        if not len(self._rows):
            raise DataError(f"{config.name!r} split {config.split!r} has no rows")
        if columns.id is not None:
            _check_unique(self._rows.column(columns.id), f"{config.name!r} column {columns.id!r}")

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        """Return the record of the row at `index`.

        Raises:
            DataError: its question is no text, or it lacks an id or an answer.
        """
        index = _checked(index, self.size)
        return read_record(
            self._rows.row(index),
            self._config.columns,
            default_id=_prompt_id(self._config, index),
            default_domain=self._config.domain,
        )


def generator_seed(seed: int, split: str) -> int:
    """Return the seed that keeps a generator's splits apart.

    reasoning_gym knows no splits and seeds item i with seed + i. `train` keeps the seed, so that its
    questions are the ones others get; any other split starts at least 2**29 items away, and within the
    32 bits that NumPy's generators take.
    """
    return seed if split == "train" else seed + 2**29 + zlib.crc32(split.encode()) % 2**29


def _prompt_id(config: SourceConfig, index: int) -> str:
    name = PurePosixPath(config.name).name if config.source in ("jsonl", "parquet") else config.name
    return f"{name}/{config.split}/{index}"


def _check_unique(ids: list[Any], where: str) -> None:
    seen: set[str] = set()
    for row, value in enumerate(ids):
        if str(value) in seen:
            raise DataError(
                f"{where} must be unique, got {str(value)!r} again in row {row}: groups are told apart by it"
            )
        seen.add(str(value))


def _checked(index: int, size: int | None) -> int:
    index = operator.index(index)
    if index < 0 or (size is not None and index >= size):
        raise IndexError(f"index {index} is outside 0..{size}")
    return index
