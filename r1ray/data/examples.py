"""Examples that supervised stages learn from: completions, pairs of completions, labelled completions.

Reads records of any source as they are needed, and encodes them with the tokenizer of the model, so that 800K long
samples never stand in memory as token ids.

    record -> texts (what the columns hold) -> samples (token ids; None: too long)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from r1ray.config.data_sections import ColumnsConfig, DatasetConfig
from r1ray.data.records import Record
from r1ray.data.sources import PromptSource, open_source
from r1ray.errors import DataError
from r1ray.types import TrainingSample

ExampleKind = Literal["sft", "pairwise", "pointwise"]
# Turns question and completion into the ids of the prompt and of what follows it.
Encoder = Callable[[str, str], tuple[tuple[int, ...], tuple[int, ...]]]
_LABELS = {"1": 1, "0": 0, "true": 1, "false": 0, "1.0": 1, "0.0": 0}
_HELD_OUT_RESOLUTION = 1 << 32


class Examples:
    """The examples of a dataset by index.

    Attributes:
        skipped: why examples have been passed over, counted each time.
    """

    def __init__(self, config: DatasetConfig, kind: ExampleKind, *, encode: Encoder, max_tokens: int) -> None:
        """Open the dataset and check what its first examples hold.

        Args:
            config: where they are; with parts, all of them.
            kind: which columns are read.
            encode: with the tokenizer and the template of the run.
            max_tokens: longer samples are skipped.

        Raises:
            DataError: the dataset is not there, has no end, lacks a column, or has no example that can be used.
        """
        self.skipped: dict[str, int] = {}
        self._kind = kind
        self._columns = config.columns
        self._encode = encode
        self._max_tokens = max_tokens
        self._source = open_examples(config, kind)
        if self._source.size is None:
            raise DataError("data.train must have an end: set its size, or that of each part")
        self.size: int = self._source.size
        # Stops at the first that can be used.
        if all(self.samples(index) is None for index in range(self.size)):
            why = ", ".join(f"{count} {reason}" for reason, count in self.skipped.items())
            raise DataError(f"data.train has no example that can be used: {why}")
        self.skipped = {}

    def split(self, held_out_fraction: float) -> tuple[list[int], list[int]]:
        """Return the indices to train on, and those held out, by a hash of the question.

        Raises:
            DataError: nothing is left to train on, or nothing is held out though something should be; or a column of
                some example does not hold what it should.
        """
        limit = held_out_fraction * _HELD_OUT_RESOLUTION
        train, held_out = list[int](), list[int]()
        for index in range(self.size):
            record = self._source[index]
            texts_of(record, self._columns, self._kind)
            digest = hashlib.sha256(record.question.encode()).digest()
            (held_out if int.from_bytes(digest[:4], "big") < limit else train).append(index)
        if not train or (held_out_fraction and not held_out):
            raise DataError(
                f"held_out_fraction={held_out_fraction:g} leaves {len(train)} examples to train on and {len(held_out)} "
                f"held out, of {self.size}: use more data, or set it to 0"
            )
        return train, held_out

    def samples(self, index: int) -> list[TrainingSample] | None:
        """Return the samples of one example (two of a pair), or None where it cannot be used.

        Raises:
            DataError: a column does not hold what it should.
        """
        record = self._source[index]
        texts = texts_of(record, self._columns, self._kind)
        if texts is None:
            self._skip("pairs of equal completions")
            return None
        samples = []
        for text, worth in texts:
            prompt_ids, completion_ids = self._encode(record.question, text)
            if len(prompt_ids) + len(completion_ids) > self._max_tokens:
                self._skip(f"longer than {self._max_tokens} tokens")
                return None
            samples.append(_sample(prompt_ids, completion_ids, worth=worth, key=str(index)))
        if len(samples) == 2:
            samples = _with_common_prompt(samples)
        return samples

    def _skip(self, reason: str) -> None:
        self.skipped[reason] = self.skipped.get(reason, 0) + 1


def texts_of(record: Record, columns: ColumnsConfig, kind: ExampleKind) -> list[tuple[str, float]] | None:
    """Return an example's texts and what each is worth: 1, or -1 if it is rejected or bad; None for a pair of equals.

    Raises:
        DataError: a column does not hold what it should.
    """
    if kind == "sft":
        return [(_text(record, columns.completion), 1.0)]
    if kind == "pairwise":
        chosen, rejected = _text(record, columns.chosen), _text(record, columns.rejected)
        return None if chosen == rejected else [(chosen, 1.0), (rejected, -1.0)]
    label = _LABELS.get(str(record.metadata.get(columns.label)).strip().lower())
    if label is None:
        raise DataError(
            f"{record.prompt_id}: column {columns.label!r} must hold 1 or 0 (true or false), got "
            f"{record.metadata.get(columns.label)!r}"
        )
    return [(_text(record, columns.completion), 1.0 if label else -1.0)]


def check_examples(config: DatasetConfig, kind: ExampleKind) -> None:
    """Read all of a dataset.

    Raises:
        DataError: it is not there, has no end, or a column of some example does not hold what it should.
    """
    source = open_examples(config, kind)
    if source.size is None:
        raise DataError(f"{config.name!r} must have an end: set its size, or that of each part")
    for index in range(source.size):
        texts_of(source[index], config.columns, kind)


def open_examples(config: DatasetConfig, kind: ExampleKind) -> PromptSource:
    """Open a dataset with the columns that a kind of example needs, and without answers.

    Raises:
        DataError: as `open_source`, or a part is mixed by shares or steps.
    """
    if not config.parts:
        return open_source(replace(config, columns=_with_needed(config.columns, kind)))
    for part in config.parts:
        if part.share != 1 or part.from_step or part.until_step is not None:
            raise DataError(
                f"data.train.parts: {part.name!r} must have share 1 and no steps: every example of every part is used; "
                "set its size"
            )
    parts = [replace(part, columns=_with_needed(part.columns, kind)) for part in config.parts]
    return open_source(replace(config, parts=parts))


def _with_needed(columns: ColumnsConfig, kind: ExampleKind) -> ColumnsConfig:
    """Let the source read the columns that the kind of example needs, and no answers."""
    needed = {
        "sft": [columns.completion],
        "pairwise": [columns.chosen, columns.rejected],
        "pointwise": [columns.completion, columns.label],
    }[kind]
    return replace(columns, answer=None, metadata=list(dict.fromkeys([*columns.metadata, *needed])))


def _text(record: Record, column: str) -> str:
    text = record.metadata.get(column)
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{record.prompt_id}: column {column!r} must hold text, got {text!r:.60}")
    return text


def _sample(prompt_ids: tuple[int, ...], completion_ids: tuple[int, ...], *, worth: float, key: str) -> TrainingSample:
    count = len(completion_ids)
    return TrainingSample(
        prompt_ids=prompt_ids,
        completion_ids=completion_ids,
        rollout_logprobs=(0.0,) * count,
        policy_versions=(0,) * count,
        advantage=worth,
        prompt_key=key,
        group_tokens=count,
    )


def _with_common_prompt(samples: Sequence[TrainingSample]) -> list[TrainingSample]:
    """Make what the two begin with alike their prompt, which is then computed once; one token stays behind it."""
    wholes = [sample.prompt_ids + sample.completion_ids for sample in samples]
    shortest = min(map(len, wholes)) - 1
    shared = next((i for i in range(shortest) if wholes[0][i] != wholes[1][i]), shortest)
    return [
        replace(
            sample,
            prompt_ids=whole[:shared],
            completion_ids=whole[shared:],
            rollout_logprobs=(0.0,) * (len(whole) - shared),
            policy_versions=(0,) * (len(whole) - shared),
            group_tokens=len(whole) - shared,
        )
        for sample, whole in zip(samples, wholes, strict=True)
    ]
