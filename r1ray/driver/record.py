"""Collects what a step did and writes it where the run keeps it.

One line of metrics.jsonl per optimizer step: the line of a finished step stays open until the next begins, so
that the sync and the evaluation that follow it are part of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from r1ray.config.schema import AlgorithmConfig
from r1ray.driver.batch import MASKED, PreparedGroup, is_masked
from r1ray.tracking.console import RunConsole
from r1ray.tracking.events import EventLog
from r1ray.tracking.metrics import MetricsLog, step_of
from r1ray.tracking.rollouts import RolloutLog, RolloutRow, rows_from_group
from r1ray.tracking.sinks import Sinks
from r1ray.tracking.timers import Timers
from r1ray.types import GradedCompletion, Group, Verdict

DROPPED_ERROR = "grading failed"


@dataclass(slots=True)
class _PhaseStats:
    """Graded completions of one rollout phase."""

    graded: list[GradedCompletion] = field(default_factory=list)
    rows: list[RolloutRow] = field(default_factory=list)
    groups: int = 0
    dropped: int = 0
    errors: int = 0


class StepRecorder:
    """The run's record, as the loop writes it."""

    def __init__(
        self,
        *,
        metrics: MetricsLog,
        rollouts: RolloutLog,
        events: EventLog,
        sinks: Sinks,
        console: RunConsole,
        algorithm: AlgorithmConfig,
        first_step: int,
    ) -> None:
        self._metrics = metrics
        self._rollouts = rollouts
        self._events = events
        self._sinks = sinks
        self._console = console
        self._algorithm = algorithm
        self._step = first_step
        self._line: dict[str, float] = {}
        self._reopened = False
        self._stats = _PhaseStats()
        self._began = time.perf_counter()
        self.timers = Timers()

    def start_clock(self) -> None:
        """Begin timing: what came before was starting up."""
        self._began = time.perf_counter()
        self.timers.take()

    def add_group(self, prepared: PreparedGroup, *, failed: Sequence[GradedCompletion]) -> None:
        """Note one group and the completions of it that could not be graded."""
        stats = self._stats
        stats.graded += prepared.group.graded
        stats.groups += 1
        stats.dropped += prepared.drop_reason is not None
        stats.errors += len(failed)
        masked = {g.completion.sample_index: MASKED for g in prepared.group.graded if is_masked(g, self._algorithm)}
        # The step a phase's first update leads to names its file.
        step = self._step + 1
        stats.rows += rows_from_group(
            step,
            prepared.group,
            advantages=prepared.advantages,
            drop_reason=prepared.drop_reason,
            sample_drop_reasons=masked,
        )
        failures = Group(prepared.group.group_id, prepared.group.prompt, tuple(failed))
        stats.rows += rows_from_group(step, failures, drop_reason=DROPPED_ERROR)
        for g in failed:
            self._events.write("grading_failed", step=step, group_id=g.completion.group_id, reason=g.grade.detail)

    def finish_step(self, step: int, metrics: dict[str, float], *, throughput: tuple[int, float]) -> None:
        """Open the line of an optimizer step; the one before is written first."""
        self.flush()
        self._step = step
        tokens, seconds = throughput
        values = {
            **metrics,
            **_phase_metrics(self._stats),
            "rollout/tokens_per_s": tokens / seconds if seconds else 0.0,
        }
        self._line = {"policy_version": step, **values}
        if not math.isfinite(metrics.get("train/grad_norm", 0.0)):
            self._events.write("update_skipped", step=step, reason="the gradient norm is not finite")
        if self._stats.rows:
            self._rollouts.write(step, self._stats.rows)
        self._stats = _PhaseStats()

    def add(self, **values: float) -> None:
        """Add figures to the line of the step just finished."""
        self._line |= values

    def record_evaluation(self, values: dict[str, float]) -> None:
        """Write the line of step 0: the policy before training."""
        self._line = {"policy_version": 0, **values}
        self.flush()

    @property
    def has_line(self) -> bool:
        """Whether the current step has its line."""
        return self._metrics.last_step == self._step

    def reopen(self) -> bool:
        """Open the newest line again if it is of the current step and has no evaluation; tell whether it is open."""
        lines = self._metrics.read()
        if not lines or step_of(lines[-1]) != self._step or any(name.startswith("eval/") for name in lines[-1]):
            return False
        self._line = {name: value for name, value in lines[-1].items() if name != "step" and value is not None}
        self._reopened = True
        return True

    def go_back(self, step: int) -> None:
        """Drop what is recorded of steps later than `step`: they are done again."""
        self._line, self._reopened = {}, False
        self._step, self._stats = step, _PhaseStats()
        self._metrics.truncate_after(step)
        self._rollouts.truncate_after(step)
        self._sinks.go_back(step)
        self.start_clock()

    def flush(self) -> None:
        """Write the open line, if there is one, everywhere."""
        if not self._line:
            return
        now = time.perf_counter()
        line = self._line | self.timers.take()
        line.setdefault("time/step_s", now - self._began - line.get("time/eval_s", 0.0))
        if self._step == 0:
            del line["time/step_s"]
        for name in ("rollout", "grade", "learn", "sync") if self._step else ():
            line.setdefault(f"time/{name}_s", 0.0)
        self._began = now
        self._metrics.write(self._step, line, replace=self._reopened)
        self._reopened = False
        self._sinks.log(self._step, line)
        self._console.step_done(self._step, line)
        self._line = {}


def _phase_metrics(stats: _PhaseStats) -> dict[str, float]:
    """Average over all graded completions of a phase, dropped groups included."""
    count = len(stats.graded)
    values: dict[str, float] = {
        "rollout/samples": float(count + stats.errors),
        "rollout/completion_tokens": float(sum(len(g.completion.completion_ids) for g in stats.graded)),
    }
    if not count:
        return values
    values["train/reward_mean"] = sum(g.grade.reward for g in stats.graded) / count
    values["train/completion_tokens_mean"] = values["rollout/completion_tokens"] / count
    values["train/truncated_fraction"] = sum(g.completion.finish_reason == "length" for g in stats.graded) / count
    values["train/dropped_groups"] = float(stats.dropped)
    answerable = [g for g in stats.graded if "accuracy" in g.grade.breakdown] or stats.graded
    values["train/accuracy_mean"] = sum(g.grade.verdict is Verdict.CORRECT for g in answerable) / len(answerable)
    for verdict in (Verdict.UNPARSEABLE, Verdict.TIMEOUT):
        values[f"grade/{verdict.value}_fraction"] = sum(g.grade.verdict is verdict for g in stats.graded) / count
    values["grade/error_fraction"] = stats.errors / (count + stats.errors)
    names = sorted({name for g in stats.graded for name in g.grade.breakdown})
    for name in names:
        # Of the completions that the reward was for.
        given = [g.grade.breakdown[name] for g in stats.graded if name in g.grade.breakdown]
        mean = sum(given) / len(given)
        values["train/format_mean" if name == "format" else f"reward/{name}_mean"] = mean
    return values
