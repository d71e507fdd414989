"""Which stored completions a report shows: a few whole pictures of a few steps, within a size limit."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import pyarrow.compute as pc

from r1ray.template import THINK_CLOSE, THINK_OPEN
from r1ray.tracking.rollouts import RolloutLog
from r1ray.tracking.script_json import script_json

Row = dict[str, Any]

MAX_STEPS = 40
MAX_GROUPS_PER_STEP = 4
MAX_SAMPLES_PER_GROUP = 4
MAX_TEXT_CHARACTERS = 8000
MAX_SAMPLE_BYTES = 1_600_000

_COLUMNS = (
    "group_id",
    "prompt_id",
    "sample_index",
    "question",
    "prompt_text",
    "answer",
    "completion",
    "completion_ids",
    "policy_versions",
    "finish_reason",
    "worker",
    "reward",
    "verdict",
    "detail",
    "breakdown",
    "advantage",
    "used",
    "drop_reason",
)


def collect_samples(rollouts: RolloutLog) -> list[Row]:
    """Return steps with samples, ascending: `{"step", "total", "verdicts", "samples"}`.

    Steps are spread evenly over the run, first and last included; in each, groups with the widest spread
    of rewards come first, since there the group comparison can be seen, and within a group the samples
    run from the highest reward to the lowest. `total` and `verdicts` count all that was stored.
    """
    steps = spread(rollouts.steps(), MAX_STEPS)
    budget = MAX_SAMPLE_BYTES // max(len(steps), 1)
    return [_step(rollouts, step, budget) for step in steps]


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """Return at most `count` items at even distances, first and last included."""
    if len(items) <= count:
        return list(items)
    return [items[index * (len(items) - 1) // (count - 1)] for index in range(count)]


def split_thinking(completion: str) -> tuple[str, str]:
    """Return a completion's thinking and the rest; put together they are the completion again.

    An unclosed `<think>` is all thinking; without any tag there is none.
    """
    head, close, tail = completion.rpartition(THINK_CLOSE)
    if close:
        return head + close, tail
    return (completion, "") if THINK_OPEN in completion else ("", completion)


def shorten(text: str) -> str:
    """Cut the middle out of a text longer than `MAX_TEXT_CHARACTERS`, and say so."""
    excess = len(text) - MAX_TEXT_CHARACTERS
    if excess <= 0:
        return text
    half = MAX_TEXT_CHARACTERS // 2
    return f"{text[:half]}\n\n[... {excess:,} characters left out ...]\n\n{text[-half:]}"


def _step(rollouts: RolloutLog, step: int, budget: int) -> Row:
    table = rollouts.read(step, columns=_COLUMNS)
    table = table.append_column("tokens", pc.list_value_length(table["completion_ids"])).drop(["completion_ids"])
    rows: list[Row] = table.to_pylist()
    verdicts: dict[str, int] = {}
    for row in rows:
        verdicts[row["verdict"]] = verdicts.get(row["verdict"], 0) + 1
    samples, size = [], 0
    for sample in map(_sample, _pick(rows)):
        size += len(script_json(sample).encode("utf-8"))
        if size > budget:
            break
        samples.append(sample)
    return {"step": step, "total": len(rows), "verdicts": dict(sorted(verdicts.items())), "samples": samples}


def _pick(rows: list[Row]) -> list[Row]:
    """Return the rows to show, group by group."""
    by_group = sorted(rows, key=lambda row: (row["group_id"], -row["reward"], row["sample_index"]))
    groups = [list(group) for _, group in groupby(by_group, key=lambda row: row["group_id"])]
    groups.sort(key=lambda group: group[-1]["reward"] - group[0]["reward"])
    return [row for group in groups[:MAX_GROUPS_PER_STEP] for row in spread(group, MAX_SAMPLES_PER_GROUP)]


def _sample(row: Row) -> Row:
    versions = row.pop("policy_versions")
    think, answer_part = split_thinking(row.pop("completion"))
    return {
        **row,
        "breakdown": dict(row["breakdown"]),
        "prompt_text": shorten(row["prompt_text"]),
        "question": shorten(row["question"]),
        "think": shorten(think),
        "rest": shorten(answer_part),
        "policy": sorted({versions[0], versions[-1]}) if versions else [],
    }
