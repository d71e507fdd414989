"""What `r1ray grade` says: progress with rate and verdicts, then a table; plain lines without a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from r1ray.tracking.console import duration, plain_off_terminals
from r1ray.types import Verdict

_HEARTBEAT_S = 10.0


class GradingConsole:
    """Shows the progress of grading; use as a context manager."""

    def __init__(self, total: int, *, done: int, verdicts: Mapping[str, int], console: Console | None = None) -> None:
        """Prepare.

        Args:
            total: completions in all.
            done: of these, graded by an earlier run.
            verdicts: their verdicts.
            console: where to write; None means standard output.
        """
        console = Console() if console is None else console
        self._console = plain_off_terminals(console)
        self._total, self._first = total, done
        self._began = self._heartbeat = time.monotonic()
        self._events: dict[str, int] = {}
        self._done = done
        self._progress = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._progress = Progress(*columns, console=self._console, transient=True)
            self._bar = self._progress.add_task("grading", total=total, completed=done)
        if done:
            self.message(f"going on after {done:,} of {total:,} completions")

    def __enter__(self) -> GradingConsole:
        """Show the bar."""
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()

    def message(self, text: str) -> None:
        """Print one line."""
        self._console.print(Text(text), soft_wrap=True)

    def event(self, kind: str, **fields: Any) -> None:
        """Say that a grader was replaced or gave up."""
        self._events[kind] = self._events.get(kind, 0) + 1
        self.message(f"  {kind}: " + ", ".join(f"{key} {value}" for key, value in fields.items()))

    def update(self, done: int, verdicts: Mapping[str, int]) -> None:
        """Show how far it is."""
        self._done = done
        line = f"{self._rate():,.1f}/s  {_counts(verdicts)}"
        if self._progress is not None:
            self._progress.update(self._bar, completed=done, description=line)
        elif time.monotonic() - self._heartbeat >= _HEARTBEAT_S:
            self._heartbeat = time.monotonic()
            self.message(f"  {done:,}/{self._total:,}  {line}")

    def summary(
        self,
        out: Path,
        *,
        verdicts: Mapping[str, int],
        reward_sum: float,
        agreement: Mapping[tuple[str, str], int],
    ) -> None:
        """Print the closing tables."""
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("verdict")
        table.add_column("completions", justify="right")
        table.add_column("share", justify="right")
        for verdict in _shown(verdicts):
            table.add_row(verdict, f"{verdicts[verdict]:,}", f"{verdicts[verdict] / self._total:.1%}")
        self._console.print(table)
        if agreement:
            self._console.print(agreement_table(agreement))
            same = sum(count for (stored, new), count in agreement.items() if stored == new)
            self.message(f"agreement with the stored verdicts: {same / sum(agreement.values()):.1%}")
        seconds = time.monotonic() - self._began
        self.message(
            f"{self._total:,} completions, mean reward {reward_sum / self._total:.4f} | "
            f"{self._done - self._first:,} graded in {duration(seconds)}, {self._rate():,.1f} completions/s"
        )
        if self._events:
            self.message("events: " + ", ".join(f"{kind} {count}" for kind, count in self._events.items()))
        self.message(f"grades: {out}")

    def _rate(self) -> float:
        return (self._done - self._first) / max(1e-9, time.monotonic() - self._began)


def agreement_table(agreement: Mapping[tuple[str, str], int]) -> Table:
    """Return counts by stored verdict (rows) and new verdict (columns)."""
    stored = _shown({old: 1 for old, _ in agreement})
    new = _shown({verdict: 1 for _, verdict in agreement})
    table = Table(box=box.SIMPLE_HEAD, title="stored verdict, by new verdict", title_justify="left")
    table.add_column("stored")
    for verdict in new:
        table.add_column(verdict, justify="right")
    for old in stored:
        table.add_row(old, *(f"{agreement.get((old, verdict), 0):,}" for verdict in new))
    return table


def _shown(verdicts: Mapping[str, int]) -> list[str]:
    return [verdict.value for verdict in Verdict if verdicts.get(verdict.value)]


def _counts(verdicts: Mapping[str, int]) -> str:
    return "  ".join(f"{verdict} {verdicts[verdict]:,}" for verdict in _shown(verdicts))
