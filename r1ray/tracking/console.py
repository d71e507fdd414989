"""What a run says while it works: a progress bar on a terminal, plain lines everywhere else.

Without a terminal (`ray job submit`, a log file) no control character is ever written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from r1ray.tracking.summary import Summary

# Plain lines about completions done come at most this often.
_HEARTBEAT_S = 30.0
_PLAIN_WIDTH = 120
# Steps that the estimate of the remaining time looks back on.
_ETA_STEPS = 20
# (metric, label, format) of the line of a step; `eval/` metrics appear only where measured.
_STEP_FIELDS = (
    ("train/reward_mean", "reward", "{:.3f}"),
    ("train/accuracy_mean", "acc", "{:.1%}"),
    ("train/format_mean", "format", "{:.1%}"),
    ("train/loss", "loss", "{:.4f}"),
    ("train/accuracy", "acc", "{:.1%}"),
    ("train/completion_tokens_mean", "tokens", "{:.0f}"),
    ("train/kl", "kl", "{:.2g}"),
    ("train/grad_norm", "grad", "{:.2f}"),
    ("rollout/tokens_per_s", "tok/s", "{:,.0f}"),
    ("time/step_s", "step_s", "{:.1f}"),
)
_EVAL_FIELDS = (
    ("eval/pass_at_1", "pass@1", "{:.1%}"),
    ("eval/loss", "held-out loss", "{:.4f}"),
    ("eval/accuracy", "held-out acc", "{:.1%}"),
)


class RunConsole:
    """Shows the progress of one run; use as a context manager."""

    def __init__(
        self,
        total_steps: int,
        *,
        first_step: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is shown before the block is entered.

        Args:
            total_steps: steps of the whole run.
            first_step: steps done before this process started.
            console: where to write; None means standard output.
            clock: monotonic seconds.
        """
        console = Console() if console is None else console
        self._console = plain_off_terminals(console)
        self._total_steps = total_steps
        self._clock = clock
        self._step_seconds: list[float] = []
        self._heartbeat_at = clock()
        self._progress = self._bars() if console.is_terminal else None
        self._steps_bar = TaskID(0)
        self._completions_bar = TaskID(0)
        if self._progress is not None:
            self._steps_bar = self._progress.add_task("steps", total=total_steps, completed=first_step)
            self._completions_bar = self._progress.add_task("completions", total=None, visible=False)

    def __enter__(self) -> RunConsole:
        """Show the progress bar."""
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the progress bar away."""
        if self._progress is not None:
            self._progress.stop()

    def message(self, text: str) -> None:
        """Print one line."""
        self._console.print(Text(text), soft_wrap=True)

    def completions_done(self, done: int, total: int, *, label: str = "completions") -> None:
        """Show how many of the completions under way are finished."""
        if self._progress is not None:
            self._progress.update(self._completions_bar, description=label, completed=done, total=total, visible=True)
        elif self._clock() - self._heartbeat_at >= _HEARTBEAT_S:
            self._heartbeat_at = self._clock()
            self.message(f"  {label} {done}/{total}")

    def step_done(self, step: int, values: Mapping[str, float | int]) -> None:
        """Print the line of a finished step and move the bar."""
        self._heartbeat_at = self._clock()
        if "time/step_s" in values:
            self._step_seconds = [*self._step_seconds, float(values["time/step_s"])][-_ETA_STEPS:]
        line = step_line(step, self._total_steps, values)
        if self._progress is not None:
            self._progress.update(self._steps_bar, completed=step)
            self._progress.update(self._completions_bar, visible=False)
        elif self._step_seconds and step < self._total_steps:
            mean_s = sum(self._step_seconds) / len(self._step_seconds)
            line += f"  eta {duration(mean_s * (self._total_steps - step))}"
        self.message(line)

    def table(self, table: Table) -> None:
        """Print a table."""
        self._console.print(table)

    def summary(self, summary: Summary) -> None:
        """Print the closing table."""
        self._console.print(summary_table(summary))
        self.message(
            f"{summary.steps:,} steps, {summary.samples:,} samples, {summary.completion_tokens:,} completion tokens"
            f" | train {duration(summary.train_s)}, eval {duration(summary.eval_s)}"
            f" | {summary.samples_per_s:,.2f} samples/s, {summary.completion_tokens_per_s:,.0f} tokens/s"
        )
        if summary.events:
            self.message("events: " + ", ".join(f"{kind} {count}" for kind, count in summary.events.items()))
        if summary.report is not None:
            self.message(f"report: {summary.report}")

    def _bars(self) -> Progress:
        return Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            # Rich forgets samples older than this, and a step may take many minutes.
            speed_estimate_period=24 * 3600.0,
        )


def step_line(step: int, total_steps: int, values: Mapping[str, float | int]) -> str:
    """Return the one line of a step; what was not measured is left out."""
    width = len(str(total_steps))
    parts = [f"step {step:>{width}}/{total_steps}"]
    parts += [f"{label} {form.format(values[name])}" for name, label, form in _STEP_FIELDS if name in values]
    parts += [f"{label} {form.format(values[name])}" for name, label, form in _EVAL_FIELDS if name in values]
    return "  ".join(parts)


def summary_table(summary: Summary) -> Table:
    """Return held-out figures before and after training, with the change."""
    table = Table(box=box.SIMPLE_HEAD, title="held-out", title_justify="left")
    table.add_column("")
    for heading in ("before", "after", "change"):
        table.add_column(heading, justify="right")
    table.add_row(
        "pass@1",
        _share(summary.pass_at_1_before, summary.pass_at_1_stderr_before),
        _share(summary.pass_at_1_after, summary.pass_at_1_stderr_after),
        _change(summary.pass_at_1_before, summary.pass_at_1_after, scale=100.0, unit=" points"),
    )
    before, after = summary.format_rate_before, summary.format_rate_after
    table.add_row("format rate", _share(before), _share(after), _change(before, after, scale=100.0, unit=" points"))
    before, after = summary.completion_tokens_mean_before, summary.completion_tokens_mean_after
    table.add_row("completion tokens", _number(before), _number(after), _change(before, after, scale=1.0, unit=""))
    return table


def plain_off_terminals(console: Console) -> Console:
    """Return the console, or off terminals one on the same file that neither styles nor breaks lines at 80 columns."""
    if console.is_terminal:
        return console
    return Console(
        file=console.file,
        width=max(_PLAIN_WIDTH, console.width),
        color_system=None,
        force_terminal=False,
        no_color=True,
        highlight=False,
    )


def _share(value: float | None, stderr: float | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.1%}" if stderr is None else f"{value:.1%} ± {100 * stderr:.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _change(before: float | None, after: float | None, *, scale: float, unit: str) -> str:
    return "-" if before is None or after is None else f"{scale * (after - before):+,.1f}{unit}"


def duration(seconds: float) -> str:
    """Return seconds as people read them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}" if minutes else f"{seconds:.1f} s"
