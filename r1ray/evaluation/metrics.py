"""Figures of an evaluation: pass@1 with its standard error, format rate, length."""

from __future__ import annotations

import math
from collections.abc import Sequence

from r1ray.types import Group, Verdict


def evaluation_metrics(groups: Sequence[Group], *, expected_completions: int) -> dict[str, float]:
    """Summarise graded held-out completions.

    Args:
        groups: one per prompt with at least one graded completion.
        expected_completions: asked for; those that failed to be graded are the difference.

    Returns:
        `eval/pass_at_1`: mean over prompts of the share of right completions; `eval/pass_at_1_stderr`: its
        standard error over prompts; `eval/format_rate` where a format reward is configured;
        `eval/completion_tokens_mean`; `eval/truncated_fraction`; `eval/ungraded_fraction`.
    """
    graded = [g for group in groups for g in group.graded]
    if not graded:
        return {"eval/ungraded_fraction": 1.0}
    rates = [
        sum(g.grade.verdict is Verdict.CORRECT for g in group.graded) / len(group.graded)
        for group in groups
        if group.graded
    ]
    mean = sum(rates) / len(rates)
    metrics = {
        "eval/pass_at_1": mean,
        "eval/completion_tokens_mean": sum(len(g.completion.completion_ids) for g in graded) / len(graded),
        "eval/truncated_fraction": sum(g.completion.finish_reason == "length" for g in graded) / len(graded),
        "eval/ungraded_fraction": 1 - len(graded) / expected_completions,
    }
    if len(rates) > 1:
        variance = sum((r - mean) ** 2 for r in rates) / (len(rates) - 1)
        metrics["eval/pass_at_1_stderr"] = math.sqrt(variance / len(rates))
    with_format = [g.grade.breakdown["format"] for g in graded if "format" in g.grade.breakdown]
    if with_format:
        metrics["eval/format_rate"] = sum(with_format) / len(with_format)
    return metrics
