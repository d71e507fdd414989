"""A stage's summary.json as facts, tables and bars, whatever it holds.

a number                      -> a fact; NAME_before and NAME_after are one
mappings under one name       -> a table: a row each (domains, say), a column a number; `total` joins it as its end
counts inside such a row      -> bars, split by row (why samples were dropped, say)
counts outside                -> bars
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from r1ray.pipeline.report_records import figures, is_number

_TOTAL = "total"
_SHOWN_ELSEWHERE = ("wall_s",)
_SHARE = re.compile(r"(^|[_/])(rate|fraction|share|accuracy|pass_at_\d+)($|_)")

Numbers = Mapping[str, Any]


def statistics(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{"facts", "tables", "bars"}` of what a summary measured; texts and lists are left out."""
    values = figures(summary)
    flat = {name: value for name, value in values.items() if not isinstance(value, Mapping)}
    nested = {name: value for name, value in values.items() if isinstance(value, Mapping) and value}
    total = nested.pop(_TOTAL, {})
    tables, bars = [], []
    for name, value in nested.items():
        rows = {row: each for row, each in value.items() if isinstance(each, Mapping)}
        if rows:
            with_total = {**rows, _TOTAL: total} if total else rows
            total = {}
            tables.append(_table(name, with_total))
            bars += _bars_of_rows(with_total)
        elif _are_counts(value):
            bars.append(_bars(name, {each: {"": count} for each, count in value.items()}))
        else:
            flat |= {each: number for each, number in value.items() if is_number(number)}
    flat |= {name: value for name, value in total.items() if is_number(value)}
    bars += [_bars(name, {k: {"": n} for k, n in value.items()}) for name, value in total.items() if _are_counts(value)]
    return {
        "facts": _facts(flat),
        "tables": [table for table in tables if table["columns"]],
        "bars": [each for each in bars if each["items"]],
    }


def label(name: str) -> str:
    """Return a name of a figure in plain words."""
    words = (
        name.replace("per_s", "per_second")
        .removesuffix("_s")
        .replace("eval/", "held-out/")
        .replace("pass_at_", "pass@")
    )
    return re.sub(r"[_/]", " ", words)


def figure_text(name: str, value: float | int | None) -> str:
    """Return a figure as people read it: shares as percentages, seconds with their unit."""
    if value is None:
        return "\u2013"
    if _SHARE.search(name) and 0 <= value <= 1:
        return f"{100 * value:.1f}%"
    if name.endswith("_s") and not name.endswith("per_s"):
        return f"{value:,.1f} s"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.4g}"


def _facts(flat: Numbers) -> list[dict[str, str]]:
    facts = []
    for name, value in flat.items():
        stem = name.removesuffix("_before")
        if (
            value is None
            or name in _SHOWN_ELSEWHERE
            or "stderr" in name
            or f"{name.removesuffix('_after')}_before" in flat
        ):
            continue
        text = figure_text(name, value)
        if stem != name and f"{stem}_after" in flat:
            text = f"{text} → {figure_text(stem, flat[f'{stem}_after'])}"
            facts.append({"label": label(stem), "metric": stem, "text": text})
        else:
            facts.append({"label": label(name), "metric": name, "text": text})
    return facts


def _table(name: str, rows: Mapping[str, Numbers]) -> dict[str, Any]:
    columns = list(dict.fromkeys(k for row in rows.values() for k, v in row.items() if not isinstance(v, Mapping)))
    return {
        "title": label(name),
        "columns": [{"label": label(column), "metric": column} for column in columns],
        "rows": [
            {"name": row, "cells": [figure_text(column, each.get(column)) for column in columns]}
            for row, each in rows.items()
        ],
    }


def _are_counts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(n, int) and n >= 0 for n in value.values())


def _bars_of_rows(rows: Mapping[str, Numbers]) -> list[dict[str, Any]]:
    """Return the counts that rows hold, summed over the rows; the total's where the rows have none."""
    bars = []
    parts = {row: each for row, each in rows.items() if row != _TOTAL}
    for field in dict.fromkeys(k for row in rows.values() for k, v in row.items() if v and _are_counts(v)):
        holders = parts if any(field in row for row in parts.values()) else {"": rows.get(_TOTAL, {})}
        counts: dict[str, dict[str, int]] = {}
        for row, each in holders.items():
            held = each.get(field)
            for reason, count in held.items() if isinstance(held, Mapping) and _are_counts(held) else ():
                counts.setdefault(reason, {})[row] = count
        bars.append(_bars(field, counts))
    return bars


def _bars(name: str, counts: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """Return bars, the longest first; each in parts."""
    items: Sequence[dict[str, Any]] = [
        {"label": label(reason), "count": sum(parts.values()), "parts": [[part, n] for part, n in parts.items() if n]}
        for reason, parts in counts.items()
    ]
    shown = sorted((item for item in items if item["count"]), key=lambda item: -item["count"])
    return {"title": label(name), "items": shown}
