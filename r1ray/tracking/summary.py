"""summary.json: the run in figures, for tools.

Everything is derived from metrics.jsonl, so a resumed run counts all of its processes and none of the
steps that were thrown away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from r1ray.tracking.metrics import MetricLine, series, step_of
from r1ray.tracking.run_dir import SUMMARY_FILE, RunDirectory


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a run; other tools rely on these names.

    Attributes:
        pass_at_1_before: held-out, before the first step; None where it was not measured, like all
            `before` and `after`.
        train_s: wall seconds of all steps, without evaluation.
        steps: optimizer steps done.
        samples: completions generated for training.
        completion_tokens: tokens of those.
        samples_per_s: over `train_s`; 0 where that is 0, like `completion_tokens_per_s`.
        events: number of events by kind.
        report: path or URL of the report; None where there is none.
    """

    pass_at_1_before: float | None
    pass_at_1_after: float | None
    pass_at_1_stderr_before: float | None
    pass_at_1_stderr_after: float | None
    format_rate_before: float | None
    format_rate_after: float | None
    completion_tokens_mean_before: float | None
    completion_tokens_mean_after: float | None
    train_s: float
    eval_s: float
    steps: int
    samples: int
    completion_tokens: int
    samples_per_s: float
    completion_tokens_per_s: float
    events: dict[str, int]
    report: str | None


def build_summary(lines: Sequence[MetricLine], *, event_counts: Mapping[str, int], report: str | None) -> Summary:
    """Sum up the lines of metrics.jsonl.

    Reads `rollout/samples` and `rollout/completion_tokens` (counts of one step), `time/step_s`,
    `time/eval_s`, `eval/pass_at_1`, `eval/pass_at_1_stderr`, `eval/format_rate` and
    `eval/completion_tokens_mean`.
    """
    before, after = _evaluations(lines)
    train_s = _total(lines, "time/step_s")
    samples = round(_total(lines, "rollout/samples"))
    completion_tokens = round(_total(lines, "rollout/completion_tokens"))
    return Summary(
        pass_at_1_before=before.get("eval/pass_at_1"),
        pass_at_1_after=after.get("eval/pass_at_1"),
        pass_at_1_stderr_before=before.get("eval/pass_at_1_stderr"),
        pass_at_1_stderr_after=after.get("eval/pass_at_1_stderr"),
        format_rate_before=before.get("eval/format_rate"),
        format_rate_after=after.get("eval/format_rate"),
        completion_tokens_mean_before=before.get("eval/completion_tokens_mean"),
        completion_tokens_mean_after=after.get("eval/completion_tokens_mean"),
        train_s=train_s,
        eval_s=_total(lines, "time/eval_s"),
        steps=max(map(step_of, lines), default=0),
        samples=samples,
        completion_tokens=completion_tokens,
        samples_per_s=samples / train_s if train_s else 0.0,
        completion_tokens_per_s=completion_tokens / train_s if train_s else 0.0,
        events=dict(sorted(event_counts.items())),
        report=report,
    )


def write_summary(run_dir: RunDirectory, summary: Summary) -> None:
    """Write summary.json, atomically."""
    run_dir.write_text(SUMMARY_FILE, json.dumps(asdict(summary), indent=2, allow_nan=False) + "\n")


def _evaluations(lines: Sequence[MetricLine]) -> tuple[MetricLine, MetricLine]:
    """Return the first and the last evaluated line; a single one is `before` only at step 0."""
    evaluated = [line for line in lines if line.get("eval/pass_at_1") is not None]
    if len(evaluated) > 1:
        return evaluated[0], evaluated[-1]
    if not evaluated:
        return {}, {}
    return (evaluated[0], {}) if step_of(evaluated[0]) == 0 else ({}, evaluated[0])


def _total(lines: Sequence[MetricLine], name: str) -> float:
    return sum(value for _, value in series(lines, name))
