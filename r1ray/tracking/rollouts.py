"""rollouts/step_*.parquet: every completion with its grades, one row each."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from r1ray.tracking.run_dir import ROLLOUTS_FOLDER, RunDirectory
from r1ray.types import GradedCompletion, Group, Prompt

SCHEMA = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("group_id", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("prompt_text", pa.string(), nullable=False),
        pa.field("answer", pa.string()),
        pa.field("task", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("metadata", pa.string(), nullable=False),
        pa.field("completion", pa.string(), nullable=False),
        pa.field("completion_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("rollout_logprobs", pa.list_(pa.float32()), nullable=False),
        pa.field("policy_versions", pa.list_(pa.int32()), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("worker", pa.string(), nullable=False),
        pa.field("reward", pa.float64(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("breakdown", pa.map_(pa.string(), pa.float64()), nullable=False),
        pa.field("advantage", pa.float64()),
        pa.field("used", pa.bool_(), nullable=False),
        pa.field("drop_reason", pa.string()),
    ]
)
# Keeps the text of one Arrow chunk far below the 2 GiB that its offsets can address.
_ROWS_PER_CHUNK = 1024
_FILE_NAME = re.compile(rf"{ROLLOUTS_FOLDER}/step_(\d+)\.parquet")


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """One stored completion; the fields are the columns of `SCHEMA`.

    Attributes:
        step: the step that the completion was sampled for.
        metadata: the prompt's further columns as JSON.
        rollout_logprobs: [C], kept as float32.
        advantage: None where none was computed.
        used: whether it was trained on.
        drop_reason: why it was not; None if `used`.
    """

    step: int
    group_id: str
    prompt_id: str
    sample_index: int
    question: str
    prompt_text: str
    answer: str | None
    task: str
    domain: str
    metadata: str
    completion: str
    completion_ids: tuple[int, ...]
    rollout_logprobs: tuple[float, ...]
    policy_versions: tuple[int, ...]
    finish_reason: str
    worker: str
    reward: float
    verdict: str
    detail: str
    breakdown: dict[str, float]
    advantage: float | None
    used: bool
    drop_reason: str | None


def rows_from_group(
    step: int,
    group: Group,
    *,
    advantages: Sequence[float] | None = None,
    drop_reason: str | None = None,
    sample_drop_reasons: Mapping[int, str] | None = None,
) -> list[RolloutRow]:
    """Make one row per completion of a group.

    Completions that could not be graded are stored in the same way: as a group of their own with a
    `drop_reason`.

    Args:
        step: the step that the group belongs to.
        group: graded completions.
        advantages: one per completion, in the group's order; None where none were computed.
        drop_reason: why the whole group was not trained on; None if it was.
        sample_drop_reasons: by sample index, why single completions of a used group were masked out.

    Raises:
        ValueError: `advantages` has another length than the group.
    """
    reasons = sample_drop_reasons or {}
    values: Sequence[float | None] = [None] * len(group.graded) if advantages is None else advantages
    return [
        _row(step, group.prompt, graded, advantage, drop_reason or reasons.get(graded.completion.sample_index))
        for graded, advantage in zip(group.graded, values, strict=True)
    ]


def _row(
    step: int, prompt: Prompt, graded: GradedCompletion, advantage: float | None, drop_reason: str | None
) -> RolloutRow:
    completion, grade = graded.completion, graded.grade
    return RolloutRow(
        step=step,
        group_id=completion.group_id,
        prompt_id=completion.prompt_id,
        sample_index=completion.sample_index,
        question=prompt.question,
        prompt_text=prompt.text,
        answer=prompt.answer,
        task=prompt.task,
        domain=prompt.domain,
        metadata=json.dumps(prompt.metadata, default=str),
        completion=completion.text,
        completion_ids=completion.completion_ids,
        rollout_logprobs=completion.rollout_logprobs,
        policy_versions=completion.policy_versions,
        finish_reason=completion.finish_reason,
        worker=completion.worker,
        reward=grade.reward,
        verdict=grade.verdict.value,
        detail=grade.detail,
        breakdown=dict(grade.breakdown),
        advantage=advantage,
        used=drop_reason is None,
        drop_reason=drop_reason,
    )


class RolloutLog:
    """Writes and reads the rollouts of a run, one file per step."""

    def __init__(self, run_dir: RunDirectory) -> None:
        """Use the rollouts of a run."""
        self._run_dir = run_dir

    def write(self, step: int, rows: Sequence[RolloutRow]) -> None:
        """Write the file of `step`, replacing one that is there."""
        self._run_dir.write_bytes(rollout_file(step), rows_as_parquet(rows))

    def read(
        self, step: int, *, columns: Sequence[str] | None = None, prompt_ids: Sequence[str] | None = None
    ) -> pa.Table:
        """Return the table of `step`, or some of its columns, or the rows of some prompts.

        Raises:
            FileNotFoundError: nothing was stored for this step.
        """
        content = io.BytesIO(self._run_dir.read_bytes(rollout_file(step)))
        wanted = None if prompt_ids is None else [("prompt_id", "in", list(prompt_ids))]
        return pq.read_table(content, columns=None if columns is None else list(columns), filters=wanted)

    def steps(self) -> list[int]:
        """Return the steps that have a file, ascending."""
        matches = (_FILE_NAME.fullmatch(name) for name in self._run_dir.names(ROLLOUTS_FOLDER))
        return sorted(int(match[1]) for match in matches if match)

    def truncate_after(self, step: int) -> None:
        """Delete the files of steps later than `step`, as when training goes on from its checkpoint."""
        for stored in self.steps():
            if stored > step:
                self._run_dir.delete(rollout_file(stored))


def rows_as_parquet(rows: Sequence[RolloutRow]) -> bytes:
    """Return a parquet file of rows."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, SCHEMA, compression="zstd") as writer:
        for start in range(0, len(rows), _ROWS_PER_CHUNK):
            writer.write_table(_table(rows[start : start + _ROWS_PER_CHUNK]))
    return sink.getvalue()


def rollout_file(step: int) -> str:
    """Return the name of a step's file inside the run directory."""
    return f"{ROLLOUTS_FOLDER}/step_{step:06d}.parquet"


def _table(rows: Sequence[RolloutRow]) -> pa.Table:
    columns: list[pa.Array] = []
    for field in fields(RolloutRow):
        values: list[Any] = [getattr(row, field.name) for row in rows]
        if field.name == "breakdown":
            values = [list(value.items()) for value in values]
        elif field.type in ("str", "str | None"):
            values = [_encodable(value) for value in values]
        columns.append(pa.array(values, type=SCHEMA.field(field.name).type))
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _encodable(text: str | None) -> str | None:
    # A lone surrogate (possible in decoded model text) has no UTF-8 form.
    return None if text is None else text.encode("utf-8", errors="replace").decode("utf-8")
