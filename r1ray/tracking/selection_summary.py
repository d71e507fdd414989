"""What a selection kept and dropped, by domain: for summary.json and for the console."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich import box
from rich.table import Table

from r1ray.types import GradedCompletion, Prompt, Verdict


class Decision(Protocol):
    """A completion and why it is not kept."""

    @property
    def graded(self) -> GradedCompletion:
        """The completion."""

    @property
    def reason(self) -> str | None:
        """None: it is kept."""


@dataclass(slots=True)
class _Tally:
    prompts: int = 0
    prompts_kept: int = 0
    sampled: int = 0
    kept: int = 0
    correct: int = 0
    tokens_sampled: int = 0
    tokens_kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def add(self, decisions: Sequence[Decision]) -> None:
        self.prompts += 1
        self.prompts_kept += any(d.reason is None for d in decisions)
        for decision in decisions:
            tokens = len(decision.graded.completion.completion_ids)
            self.sampled += 1
            self.correct += decision.graded.grade.verdict is Verdict.CORRECT
            self.tokens_sampled += tokens
            if decision.reason is None:
                self.kept += 1
                self.tokens_kept += tokens
            else:
                self.dropped[decision.reason] += 1

    def as_json(self) -> dict[str, Any]:
        return {
            "prompts": self.prompts,
            "prompts_kept": self.prompts_kept,
            "sampled": self.sampled,
            "kept": self.kept,
            "keep_rate": self.kept / self.sampled if self.sampled else 0.0,
            "correct_rate": self.correct / self.sampled if self.sampled else 0.0,
            "completion_tokens_mean_sampled": self.tokens_sampled / self.sampled if self.sampled else 0.0,
            "completion_tokens_mean_kept": self.tokens_kept / self.kept if self.kept else 0.0,
            "dropped": dict(self.dropped.most_common()),
        }


class SelectionCounts:
    """Running counts of a selection.

    Attributes:
        supplied: samples mixed in.
        supplied_dropped: why others were not.
    """

    def __init__(self) -> None:
        """Start at zero."""
        self._total = _Tally()
        self._domains: dict[str, _Tally] = {}
        self._languages: dict[str, _Tally] = {}
        self.supplied = 0
        self.supplied_dropped: Counter[str] = Counter()

    @property
    def sampled(self) -> int:
        """Completions so far."""
        return self._total.sampled

    @property
    def kept(self) -> int:
        """Of them, kept."""
        return self._total.kept

    def add(self, prompt: Prompt, decisions: Sequence[Decision]) -> None:
        """Count what was decided about a prompt's completions."""
        self._total.add(decisions)
        self._domains.setdefault(prompt.domain, _Tally()).add(decisions)
        language = prompt.metadata.get("target_language")
        if language:
            self._languages.setdefault(str(language), _Tally()).add(decisions)

    def reasons_in_words(self) -> str:
        """Return the reasons and how often each applied."""
        return ", ".join(f"{count} {reason}" for reason, count in self._total.dropped.most_common())

    def as_json(self) -> dict[str, Any]:
        """Return everything."""
        return {
            "total": self._total.as_json(),
            "domains": {name: tally.as_json() for name, tally in sorted(self._domains.items())},
            "languages": {name: tally.as_json() for name, tally in sorted(self._languages.items())},
            "supplied": self.supplied,
            "supplied_dropped": dict(self.supplied_dropped),
        }


def selection_table(summary: Mapping[str, Any]) -> Table:
    """Return the table by domain of what `SelectionCounts.as_json` gives."""
    table = Table(box=box.SIMPLE_HEAD, title="samples by domain", title_justify="left")
    for heading in ("domain", "prompts", "sampled", "correct", "kept", "keep rate", "tokens sampled", "tokens kept"):
        table.add_column(heading, justify="left" if heading == "domain" else "right")
    for name, row in [*summary["domains"].items(), ("all", summary["total"])]:
        table.add_row(
            name,
            f"{row['prompts']:,}",
            f"{row['sampled']:,}",
            f"{row['correct_rate']:.1%}",
            f"{row['kept']:,}",
            f"{row['keep_rate']:.1%}",
            f"{row['completion_tokens_mean_sampled']:.0f}",
            f"{row['completion_tokens_mean_kept']:.0f}",
        )
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in summary["total"]["dropped"].items())
    table.caption = (
        f"dropped: {reasons or 'nothing'}; supplied: {summary['supplied']:,}; written: {summary['written']:,}"
    )
    return table
