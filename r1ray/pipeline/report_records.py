"""What the stages of a pipeline have left on disk, as the report needs it.

A stage may be half done, failed or not begun, and a file missing or torn: then there is less to show, and never an
error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from r1ray.config.load import to_yaml
from r1ray.errors import R1RayError
from r1ray.pipeline.artifacts import STAGE_FILE, Artifact, read_artifact
from r1ray.pipeline.references import made_from
from r1ray.pipeline.spec import Pipeline, Stage
from r1ray.pipeline.state import StageState, State
from r1ray.tracking.jsonl import read_jsonl
from r1ray.tracking.metrics import MetricLine
from r1ray.tracking.run_dir import CONFIG_FILE, METRICS_FILE, REPORT_FILE, SUMMARY_FILE, RunDirectory


@dataclass(frozen=True, slots=True, eq=False)
class StageRecord:
    """One stage with what is known of it.

    Attributes:
        state: one of `State`; a stage that began and broke off is half done.
        why: for people, where the state is not plain.
        made_from: stages whose outputs it takes.
        artifact: of a stage that is done, or was before it went out of date.
        lines: of metrics.jsonl.
        summary: of summary.json; empty where there is none.
        config: YAML, as it was run; of a stage not begun, as it will be.
        begun: whether `config` is of a run.
        report: page of the stage, relative to the pipeline's directory; None where there is none.
    """

    stage: Stage
    state: State
    why: str
    made_from: list[str]
    artifact: Artifact | None
    lines: list[MetricLine]
    summary: dict[str, Any]
    config: str
    begun: bool
    report: str | None

    @property
    def name(self) -> str:
        """Name of the stage."""
        return self.stage.name

    @property
    def kind(self) -> str:
        """Kind of the stage."""
        return self.stage.config.stage

    @property
    def wall_s(self) -> float | None:
        """Seconds of its last run; None where it has not finished."""
        return self.artifact.wall_s if self.artifact else None

    @property
    def model_stage(self) -> str | None:
        """For an evaluation: the stage that made the model; None where the model comes from elsewhere."""
        path = self.stage.config.model.path
        return next((name for name in self.made_from if path == f"artifact://{name}"), None)


def read_records(pipeline: Pipeline, states: Mapping[str, StageState]) -> list[StageRecord]:
    """Return what is on disk of every stage, in order."""
    return [_record(pipeline, stage, states.get(stage.name)) for stage in pipeline.stages]


def _record(pipeline: Pipeline, stage: Stage, known: StageState | None) -> StageRecord:
    run_dir = RunDirectory(stage.directory)
    state, why = (known.state, known.why) if known else (State.WAITING, "")
    # The state is from before the stage ran, where the run then broke off.
    if state in (State.READY, State.WAITING) and run_dir.has(STAGE_FILE):
        state, why = State.HALF_DONE, ""
    config = _text(run_dir, CONFIG_FILE)
    return StageRecord(
        stage=stage,
        state=state,
        why=why,
        made_from=made_from(stage.config),
        artifact=(known.artifact if known else None) or _artifact(stage),
        lines=read_metrics(run_dir),
        summary=_summary(run_dir),
        config=config or to_yaml(stage.config),
        begun=bool(config),
        report=f"{_relative(pipeline, stage)}/{REPORT_FILE}" if run_dir.has(REPORT_FILE) else None,
    )


def read_metrics(run_dir: RunDirectory) -> list[MetricLine]:
    """Return the lines of metrics.jsonl that are lines of metrics; none where the file cannot be read."""
    try:
        lines = read_jsonl(run_dir, METRICS_FILE)
    except (R1RayError, OSError):
        return []
    kept = [{name: value for name, value in line.items() if value is None or _is_finite(value)} for line in lines]
    return [line for line in kept if line.get("step") is not None]


def is_number(value: object) -> bool:
    """Whether a value of JSON is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def figures(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a summary, at any depth, without texts and lists."""
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            kept[str(name)] = figures(value)
        elif value is None or is_number(value):
            kept[str(name)] = value
    return kept


def _artifact(stage: Stage) -> Artifact | None:
    try:
        artifact = read_artifact(stage.directory)
    except (R1RayError, OSError):
        return None
    return artifact if artifact and is_number(artifact.wall_s) else None


def _summary(run_dir: RunDirectory) -> dict[str, Any]:
    try:
        summary = json.loads(_text(run_dir, SUMMARY_FILE) or "{}")
    except ValueError:
        return {}
    return summary if isinstance(summary, dict) else {}


def _text(run_dir: RunDirectory, name: str) -> str:
    try:
        return run_dir.read_bytes(name).decode("utf-8", errors="replace") if run_dir.has(name) else ""
    except OSError:
        return ""


def _relative(pipeline: Pipeline, stage: Stage) -> str:
    return stage.directory.relative_to(pipeline.directory).as_posix()
