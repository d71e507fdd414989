"""Runs a pipeline: each stage in its turn, skipped where it is done, resumed where it is half done.

    look -> skip | resume | move the old output aside and start -> record the output -> next

One Ray serves all stages; each takes the GPUs it asks for and gives them back. Whatever stops the run, the same command
goes on from there.
"""

from __future__ import annotations

import dataclasses
import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray

from r1ray.checkpoint import CheckpointStore
from r1ray.driver.placement import attach_ray
from r1ray.errors import CheckpointError, ConfigError, Interrupted, R1RayError
from r1ray.pipeline.artifacts import ARTIFACT_FILE, Artifact, write_artifact, write_started
from r1ray.pipeline.preflight import check_pipeline, check_stage_inputs
from r1ray.pipeline.references import OUTPUT_KINDS, references, resolve
from r1ray.pipeline.report import REPORT_FILE, write_pipeline_report
from r1ray.pipeline.spec import RESERVED, Pipeline, Stage
from r1ray.pipeline.state import Inspector, StageState, State
from r1ray.stages.registry import run_stage
from r1ray.tracking.run_dir import CHECKPOINTS_FOLDER, SUMMARY_FILE

LOCK_FILE = ".lock"
(SUPERSEDED,) = RESERVED


def run_pipeline(
    pipeline: Pipeline, *, first: str | None = None, only: str | None = None, say: Callable[[str], None]
) -> Path:
    """Bring a pipeline to its end and return its report.

    Args:
        pipeline: what to run.
        first: do this stage and all that depend on it anew; the others as usual.
        only: run no stage but this.
        say: tells the user something.

    Raises:
        R1RayError: with a message for the user; what is done stays done.
    """
    chosen = choose(pipeline, first=first, only=only)
    with ExitStack() as stack:
        stack.enter_context(_locked(pipeline.directory))
        inspector = Inspector(pipeline)
        states = inspector.all()
        to_do = [pipeline.stage(name) for name in chosen.run if name in chosen.anew or states[name].state != State.DONE]
        check_pipeline(pipeline, to_do)
        for name in chosen.anew:
            _set_aside(pipeline, pipeline.stage(name), say)
        # Also where a stage fails: the page shows what is there.
        stack.callback(lambda: write_pipeline_report(pipeline, states))
        started_ray = False
        for number, stage in enumerate(pipeline.stages, 1):
            states[stage.name] = state = inspector.look(stage, states)
            if stage.name not in chosen.run:
                continue
            heading = f"[{number}/{len(pipeline.stages)}] {stage.name}"
            if state.state is State.DONE:
                say(f"{heading}: done")
                continue
            if state.state is State.WAITING:
                raise ConfigError(f"stage {stage.name} {state.why}: run the pipeline without --only first")
            if not started_ray:
                started_ray = True
                if attach_ray(stage.config):
                    stack.callback(ray.shutdown)
            say(f"{heading}: {stage.config.stage}{_wording(state)}")
            _run(pipeline, stage, state, states, inspector, say)
            states[stage.name] = inspector.look(stage, states)
    return pipeline.directory / REPORT_FILE


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """Stages to run, and those of them to do anew."""

    run: tuple[str, ...]
    anew: tuple[str, ...]


def choose(pipeline: Pipeline, *, first: str | None, only: str | None) -> Choice:
    """Return what `--from` and `--only` ask for.

    Raises:
        ConfigError: both are given, or a stage of that name is not there.
    """
    if first and only:
        raise ConfigError("give --from or --only, not both")
    names = tuple(stage.name for stage in pipeline.stages)
    if only:
        return Choice((pipeline.stage(only).name,), ())
    if not first:
        return Choice(names, ())
    anew = {pipeline.stage(first).name}
    for stage in pipeline.stages:
        if any(reference.stage in anew for reference in references(stage.config)):
            anew.add(stage.name)
    return Choice(names, tuple(name for name in names if name in anew))


def _wording(state: StageState) -> str:
    if state.state is State.HALF_DONE:
        return ", going on where it stopped"
    return f", anew ({state.why})" if state.state is State.OUT_OF_DATE else ""


def _run(
    pipeline: Pipeline,
    stage: Stage,
    state: StageState,
    states: dict[str, StageState],
    inspector: Inspector,
    say: Callable[[str], None],
) -> None:
    if state.state is State.OUT_OF_DATE:
        _set_aside(pipeline, stage, say)

    def output_of(name: str) -> Path:
        artifact = states[name].artifact
        assert artifact is not None, "a stage runs when its inputs are done"
        return (pipeline.stage(name).directory / artifact.output).absolute()

    config = dataclasses.replace(resolve(stage.config, output_of), resume=state.state is State.HALF_DONE)
    check_stage_inputs(stage.name, config)
    assert state.fingerprint is not None, "its inputs are known"
    write_started(stage.directory, state.fingerprint)
    began = time.perf_counter()
    try:
        run_stage(config)
    except Interrupted as stop:
        raise Interrupted(f"stage {stage.name}: {stop}; or go on with the whole pipeline by the same command") from None
    except R1RayError as error:
        raise type(error)(f"stage {stage.name}: {error}") from error
    output = _output(stage)
    write_artifact(
        stage.directory,
        Artifact(
            fingerprint=state.fingerprint,
            kind=OUTPUT_KINDS[stage.config.stage],
            output=output,
            files=inspector.hashes.of_all(stage.directory / output),
            inputs=state.inputs,
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
            wall_s=round(time.perf_counter() - began, 1),
        ),
    )


def _output(stage: Stage) -> str:
    """Return what a finished stage has made, relative to its directory."""
    kind = OUTPUT_KINDS[stage.config.stage]
    if kind == "evaluation":
        return SUMMARY_FILE
    if kind == "data":
        return "data"
    newest = CheckpointStore(str(stage.directory / CHECKPOINTS_FOLDER), keep=1).newest()
    if newest is None:
        raise CheckpointError(f"stage {stage.name} ended without a checkpoint in {stage.directory}")
    return f"{CHECKPOINTS_FOLDER}/{Path(newest[0]).name}/model"


def _set_aside(pipeline: Pipeline, stage: Stage, say: Callable[[str], None]) -> None:
    """Move what an earlier run of a stage has left out of the way; nothing is deleted."""
    if not stage.directory.exists():
        return
    number = 1
    while (target := pipeline.directory / SUPERSEDED / f"{stage.name}-{number}").exists():
        number += 1
    target.parent.mkdir(parents=True, exist_ok=True)
    # The record first: were the move to break off, nobody may take the rest for whole.
    (stage.directory / ARTIFACT_FILE).unlink(missing_ok=True)
    stage.directory.rename(target)
    say(f"{stage.name}: its earlier output is now in {target}")


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Let only one process run a pipeline in a directory.

    Raises:
        ConfigError: another one does.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK_FILE).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"another process runs the pipeline in {directory}: wait for it, or set another dir"
            ) from None
        yield


def plan(pipeline: Pipeline, *, first: str | None = None, only: str | None = None) -> Sequence[tuple[Stage, Any, str]]:
    """Return each stage with its state and what a run would do with it."""
    chosen = choose(pipeline, first=first, only=only)
    states = Inspector(pipeline).all()
    rows = []
    for stage in pipeline.stages:
        state = states[stage.name]
        rows.append((stage, state, _intention(stage.name, state, chosen, states)))
    check_pipeline(pipeline, [stage for stage, _, what in rows if what not in ("skip", "")])
    return rows


def _intention(name: str, state: StageState, chosen: Choice, states: dict[str, StageState]) -> str:
    if name not in chosen.run:
        return ""
    if name in chosen.anew:
        return "run anew"
    words = {State.DONE: "skip", State.HALF_DONE: "resume", State.OUT_OF_DATE: "run anew"}
    return words.get(state.state, "run")
