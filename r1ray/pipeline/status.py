"""How a pipeline stands, as a table: its graph, what each stage takes, how far it is."""

from __future__ import annotations

import json
from collections.abc import Mapping

from rich import box
from rich.table import Table

from r1ray.pipeline.references import made_from
from r1ray.pipeline.spec import Pipeline, Stage
from r1ray.pipeline.state import StageState, State
from r1ray.tracking.metrics import MetricsLog, step_of
from r1ray.tracking.run_dir import RunDirectory

_STYLES = {State.DONE: "green", State.HALF_DONE: "yellow", State.OUT_OF_DATE: "magenta"}


def status_table(
    pipeline: Pipeline, states: Mapping[str, StageState], *, intentions: Mapping[str, str] | None = None
) -> Table:
    """Return one row a stage: what it is, from what it is made, how it stands; with a dry run's intentions beside."""
    table = Table(box=box.SIMPLE, title=f"{pipeline.name} in {pipeline.directory}", title_justify="left")
    for heading in ("stage", "kind", "made from", "state", "progress", *(["a run would"] if intentions else [])):
        table.add_column(heading, overflow="fold")
    for stage in pipeline.stages:
        state = states[stage.name]
        cells = [
            stage.name,
            stage.config.stage,
            ", ".join(made_from(stage.config)),
            # What a waiting stage waits for stands beside it.
            f"{state.state.value}{f': {state.why}' if state.why and state.state is not State.WAITING else ''}",
            progress(stage, state),
        ]
        table.add_row(*cells, *([intentions[stage.name]] if intentions else []), style=_STYLES.get(state.state))
    return table


def progress(stage: Stage, state: StageState) -> str:
    """Return how far a stage is: seconds it took, steps, or shards of samples."""
    if state.artifact is not None:
        return f"{state.artifact.wall_s:,.0f} s"
    run_dir = RunDirectory(stage.directory)
    steps = max(map(step_of, MetricsLog(run_dir).read()), default=0)
    if steps:
        total = stage.config.train.steps if stage.config.stage == "grpo" else None
        return f"step {steps}" + (f" of {total}" if total else "")
    shards = [name for name in run_dir.names("candidates") if name.endswith(".parquet")]
    return f"{len(shards)} shards" if shards else ""


def states_as_json(pipeline: Pipeline, states: Mapping[str, StageState]) -> str:
    """Return the same for tools."""
    rows = [
        {
            "stage": stage.name,
            "kind": stage.config.stage,
            "made_from": made_from(stage.config),
            "state": states[stage.name].state.value,
            "why": states[stage.name].why,
            "progress": progress(stage, states[stage.name]),
        }
        for stage in pipeline.stages
    ]
    return json.dumps({"name": pipeline.name, "dir": str(pipeline.directory), "stages": rows}, indent=2)
