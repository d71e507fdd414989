"""Figures of an evaluation: pass@1 with its standard error, format rate, length, every reward; by domain too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from r1ray.types import GradedCompletion, Group, Verdict


def evaluation_metrics(groups: Sequence[Group], *, expected_completions: int) -> dict[str, float]:
    """Summarise graded held-out completions.

    Args:
        groups: one per prompt with at least one graded completion.
        expected_completions: asked for; those that failed to be graded are the difference.

    Returns:
        `eval/pass_at_1`: mean over prompts of the share of right completions; `eval/pass_at_1_stderr`: its
        standard error over prompts; `eval/format_rate` where a format reward is configured; `eval/NAME_mean` of every
        other reward; `eval/completion_tokens_mean`; `eval/truncated_fraction`; `eval/ungraded_fraction`. Where the
        prompts are of several domains, all but the last also as `eval/DOMAIN/..`.
    """
    groups = [group for group in groups if group.graded]
    graded = [g for group in groups for g in group.graded]
    if not graded:
        return {"eval/ungraded_fraction": 1.0}
    judged = judged_by_accuracy(graded)
    metrics = {f"eval/{name}": value for name, value in _figures(groups, judged=judged).items()}
    metrics["eval/ungraded_fraction"] = 1 - len(graded) / expected_completions
    by_domain = sorted(groups, key=lambda group: group.prompt.domain)
    domains = {domain: list(members) for domain, members in groupby(by_domain, key=lambda group: group.prompt.domain)}
    if len(domains) > 1:
        for domain, members in domains.items():
            metrics |= {f"eval/{domain}/{name}": value for name, value in _figures(members, judged=judged).items()}
    return metrics


def judged_by_accuracy(graded: Sequence[GradedCompletion]) -> bool:
    """Whether some completions have an accuracy reward, so that those without one have no right answer."""
    return any("accuracy" in g.grade.breakdown for g in graded)


def _figures(groups: Sequence[Group], *, judged: bool) -> dict[str, float]:
    graded = [g for group in groups for g in group.graded]
    figures: dict[str, float] = {}
    answerable = [g for g in groups if not judged or "accuracy" in g.graded[0].grade.breakdown]
    rates = [sum(c.grade.verdict is Verdict.CORRECT for c in group.graded) / len(group.graded) for group in answerable]
    if rates:
        mean = sum(rates) / len(rates)
        figures["pass_at_1"] = mean
        if len(rates) > 1:
            figures["pass_at_1_stderr"] = math.sqrt(sum((r - mean) ** 2 for r in rates) / (len(rates) - 1) / len(rates))
    for name in sorted({name for g in graded for name in g.grade.breakdown} - {"accuracy"}):
        given = [g.grade.breakdown[name] for g in graded if name in g.grade.breakdown]
        # `module:function` is called by the function.
        short = name.rpartition(":")[2]
        figures["format_rate" if name == "format" else f"{short}_mean"] = sum(given) / len(given)
    figures["completion_tokens_mean"] = sum(len(g.completion.completion_ids) for g in graded) / len(graded)
    figures["truncated_fraction"] = sum(g.completion.finish_reason == "length" for g in graded) / len(graded)
    return figures
