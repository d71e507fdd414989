"""The table of a pipeline's models, as the paper has it: a row a figure, a column a model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r1ray.pipeline.report_records import StageRecord, is_number

_STDERR = "_stderr"


@dataclass(frozen=True, slots=True)
class _Figure:
    """How a figure is called and read.

    Attributes:
        form: `percent` or `number`.
        best: 1 where more is better, -1 where less is, 0 where neither is.
    """

    title: str
    form: str = "number"
    best: int = 1


_FIGURES = {
    "pass_at_1": _Figure("pass@1", "percent"),
    "format_rate": _Figure("format", "percent"),
    "language_mean": _Figure("language consistency", "percent"),
}
_LAST_FIGURES = {
    "completion_tokens_mean": _Figure("mean completion tokens", best=0),
    "truncated_fraction": _Figure("cut off at the token limit", "percent", best=-1),
    "ungraded_fraction": _Figure("not graded", "percent", best=-1),
}


def model_table(records: Sequence[StageRecord]) -> dict[str, Any]:
    """Return `{"columns", "groups", "notes"}` over the evaluations; a group is one figure, a row one domain.

    The best cell of a row is marked where the shown numbers differ.
    """
    evaluations = [record for record in records if record.stage.model is not None]
    by_stage = {record.name: record for record in records}
    metrics = [evaluated_metrics(record) for record in evaluations]
    groups: dict[str, list[tuple[str, str]]] = {}
    for name in sorted({name for one in metrics for name in one}):
        domain, _, figure = name.removeprefix("eval/").rpartition("/")
        failed = figure != "ungraded_fraction" or any(one.get(name) for one in metrics)
        if not figure.endswith(_STDERR) and failed:
            groups.setdefault(figure, []).append((domain, name))
    return {
        "columns": [_column(record, by_stage) for record in evaluations],
        "groups": [_group(name, groups[name], metrics) for name in sorted(groups, key=_rank)],
        "notes": _notes(evaluations),
    }


def evaluated_metrics(record: StageRecord) -> dict[str, float]:
    """Return the finite `eval/..` figures of an evaluation; none where it has not finished."""
    metrics = record.summary.get("metrics")
    if not isinstance(metrics, Mapping):
        return {}
    numbers = {str(name): float(value) for name, value in metrics.items() if is_number(value)}
    return {name: value for name, value in numbers.items() if name.startswith("eval/") and math.isfinite(value)}


def _column(record: StageRecord, by_stage: Mapping[str, StageRecord]) -> dict[str, Any]:
    made_by = by_stage.get(record.model_stage or "")
    return {
        "name": record.stage.model,
        "from": made_by.name if made_by else record.stage.config.model.path,
        "report": made_by.report if made_by else None,
        "state": record.state.value,
    }


def _rank(name: str) -> tuple[int, int, str]:
    for place, known in ((0, _FIGURES), (2, _LAST_FIGURES)):
        if name in known:
            return place, list(known).index(name), name
    return 1, 0, name


def _group(name: str, rows: list[tuple[str, str]], metrics: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    figure = _FIGURES.get(name) or _LAST_FIGURES.get(name) or _Figure(_plain(name))
    unit = ", %" if figure.form == "percent" else ""
    shown = [
        {"label": domain, "metric": metric, "cells": _cells(metric, figure, metrics)} for domain, metric in sorted(rows)
    ]
    return {"title": figure.title + unit, "rows": shown}


def _cells(metric: str, figure: _Figure, metrics: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    texts = [shown(one[metric], figure.form) if metric in one else None for one in metrics]
    values = [float(text.replace(",", "")) for text in texts if text is not None]
    best = (max(values) if figure.best > 0 else min(values)) if values and figure.best else None
    differ = len(set(values)) > 1
    cells = []
    for text, one in zip(texts, metrics, strict=True):
        error = one.get(metric + _STDERR)
        cells.append(
            {
                "text": text,
                "error": None if error is None or text is None else shown(error, figure.form),
                "best": text is not None and differ and float(text.replace(",", "")) == best,
            }
        )
    return cells


def shown(value: float, form: str) -> str:
    """Return a number as the table has it: percentages with one decimal, others with about four digits."""
    if form == "percent":
        return f"{100 * value:.1f}"
    size = abs(value)
    return f"{value:.3f}" if size < 10 else f"{value:.1f}" if size < 1000 else f"{value:,.0f}"


def _plain(name: str) -> str:
    at = re.fullmatch(r"(\w+)_at_(\w+)", name)
    if at:
        return f"{at[1].replace('_', ' ')}@{at[2]}"
    reward = name.removesuffix("_mean")
    return f"{reward.replace('_', ' ')}, mean" if reward != name else name.replace("_", " ")


def _notes(evaluations: Sequence[StageRecord]) -> list[str]:
    sizes: dict[tuple[Any, Any], list[str]] = {}
    for record in evaluations:
        size = (record.summary.get("prompts"), record.summary.get("samples_per_prompt"))
        if all(map(is_number, size)):
            sizes.setdefault(size, []).append(str(record.stage.model))
    notes = []
    for (prompts, samples), models in sizes.items():
        of = "" if len(sizes) == 1 else f"{', '.join(models)}: "
        notes.append(f"{of}{_count(prompts, 'prompt')}, {_count(samples, 'sample')} each.")
    if len(sizes) > 1:
        notes.append("The models were not evaluated alike: compare with care.")
    return notes


def _count(number: Any, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
