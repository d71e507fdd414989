"""summary.json of supervised stages, and the table that ends them: held-out figures before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from r1ray.tracking.metrics import MetricLine, series, step_of

_FIGURES = {
    "loss": ("held-out loss", "{:.4f}"),
    "accuracy": ("held-out accuracy", "{:.1%}"),
    "margin_mean": ("margin", "{:.3f}"),
    "score_mean": ("score of good ones, mean", "{:.3f}"),
    "score_std": ("score of good ones, deviation", "{:.3f}"),
}


def supervised_summary(
    lines: Sequence[MetricLine], *, stage: str, examples: int, event_counts: Mapping[str, int], report: str | None
) -> dict[str, Any]:
    """Sum up metrics.jsonl: `FIGURE_before` and `FIGURE_after` of every held-out figure, None where not measured."""
    evaluated = [line for line in lines if "eval/loss" in line]
    summary: dict[str, Any] = {"stage": stage, "steps": max(map(step_of, lines), default=0), "examples": examples}
    for figure in _FIGURES:
        if any(f"eval/{figure}" in line for line in evaluated):
            summary[f"{figure}_before"] = evaluated[0].get(f"eval/{figure}")
            summary[f"{figure}_after"] = evaluated[-1].get(f"eval/{figure}")
    summary |= {
        "tokens": round(sum(value for _, value in series(lines, "learner/computed_tokens"))),
        "model_flops": sum(value for _, value in series(lines, "learner/model_flops")),
        "train_s": sum(value for _, value in series(lines, "time/step_s")),
        "eval_s": sum(value for _, value in series(lines, "time/eval_s")),
        "events": dict(sorted(event_counts.items())),
        "report": report,
    }
    return summary


def supervised_table(summary: Mapping[str, Any]) -> Table:
    """Return held-out figures before and after."""
    table = Table(box=box.SIMPLE_HEAD, title=f"{summary['steps']:,} steps", title_justify="left")
    for heading in ("", "before", "after"):
        table.add_column(heading, justify="right" if heading else "left")
    for figure, (label, form) in _FIGURES.items():
        values = [summary.get(f"{figure}_{when}") for when in ("before", "after")]
        if any(value is not None for value in values):
            table.add_row(label, *("-" if value is None else form.format(value) for value in values))
    return table
