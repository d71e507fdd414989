"""metrics.jsonl: one line of figures per step.

The driver merges what a step's training and evaluation measured and writes the line once. `step` counts
optimizer steps done, so the evaluation before training stands at step 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from r1ray.tracking.jsonl import JsonlFile
from r1ray.tracking.run_dir import METRICS_FILE, RunDirectory

MetricLine = dict[str, float | int | None]


class MetricsLog:
    """Writes and reads the metrics of a run.

    Attributes:
        last_step: step of the newest line, also of an earlier process; None before the first.
    """

    def __init__(self, run_dir: RunDirectory) -> None:
        """Open the log and find the newest line."""
        self._file = JsonlFile(run_dir, METRICS_FILE)
        lines = self.read()
        self.last_step: int | None = step_of(lines[-1]) if lines else None

    def write(self, step: int, values: Mapping[str, float | int], *, replace: bool = False) -> None:
        """Append the line of `step`; NaN and infinity become null.

        Args:
            step: the line's.
            values: its figures.
            replace: the line may take the place of one that is there.

        Raises:
            ValueError: this step or a later one has its line already.
        """
        if replace:
            self.truncate_after(step - 1)
        if self.last_step is not None and step <= self.last_step:
            raise ValueError(f"metrics of step {step} come after those of step {self.last_step}: one line a step")
        self._file.append({"step": step, **{name: values[name] for name in sorted(values)}})
        self.last_step = step

    def truncate_after(self, step: int) -> None:
        """Drop the lines of steps later than `step`, as when training goes on from its checkpoint."""
        lines = self.read()
        kept = [line for line in lines if step_of(line) <= step]
        if len(kept) < len(lines):
            self._file.rewrite(kept)
        self.last_step = step_of(kept[-1]) if kept else None

    def read(self) -> list[MetricLine]:
        """Return all lines, oldest first."""
        return self._file.read()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def step_of(line: Mapping[str, float | int | None]) -> int:
    """Return the step of a line."""
    return int(line["step"] or 0)


def series(lines: Sequence[MetricLine], name: str) -> list[tuple[int, float]]:
    """Return (step, value) of one metric wherever it was measured and finite."""
    return [(step_of(line), float(value)) for line in lines if (value := line.get(name)) is not None]


def metric_names(lines: Sequence[MetricLine]) -> list[str]:
    """Return every name that occurs besides `step`, sorted."""
    return sorted({name for line in lines for name in line} - {"step"})
