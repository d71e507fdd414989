"""What SFT and reward models have in common: parts from the config, the supervised loop, a run directory.

What can be refused without Ray (data, columns, templates, model) is refused before Ray starts.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import ray

from r1ray.checkpoint import CheckpointStore
from r1ray.config.load import to_yaml
from r1ray.config.schema import Config
from r1ray.data.examples import Encoder, ExampleKind, Examples
from r1ray.driver.interrupt import InterruptFlag
from r1ray.driver.placement import attach_ray, plan_placement
from r1ray.driver.supervise import LearnerRecovery
from r1ray.driver.supervised import SupervisedLoop, check_cursor, data_cursor
from r1ray.errors import Interrupted
from r1ray.learner.pool import LearnerPool
from r1ray.learner.task import make_task
from r1ray.stages.learning import learner_options
from r1ray.tracking.console import RunConsole
from r1ray.tracking.events import EventLog
from r1ray.tracking.metrics import MetricsLog
from r1ray.tracking.report import write_report
from r1ray.tracking.run_dir import CONFIG_FILE, SUMMARY_FILE, RunDirectory
from r1ray.tracking.sinks import open_sinks
from r1ray.tracking.supervised_summary import supervised_summary, supervised_table


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is learned, and how often.

    Attributes:
        kind: of the examples, and of the learner's task.
        encode: turns question and completion into token ids.
        batch_size: examples per optimizer step.
        max_tokens: longer samples are skipped.
    """

    kind: ExampleKind
    encode: Encoder
    epochs: int
    batch_size: int
    max_tokens: int
    held_out_fraction: float


@dataclass(frozen=True, slots=True)
class _Records:
    """What a run leaves behind."""

    run_dir: RunDirectory
    checkpoints: CheckpointStore
    metrics: MetricsLog
    events: EventLog


def train_supervised(config: Config, lesson: Lesson, model_path: str) -> dict[str, Any]:
    """Train as configured and return what summary.json holds.

    Raises:
        R1RayError: with a message for the user; the run directory holds what was done until then.
    """
    run_dir = RunDirectory(config.run.dir)
    examples = Examples(config.data.train, lesson.kind, encode=lesson.encode, max_tokens=lesson.max_tokens)
    split = examples.split(lesson.held_out_fraction)
    total_steps = lesson.epochs * -(-len(split[0]) // lesson.batch_size)
    run_dir.create(resume=config.resume)
    checkpoints = CheckpointStore(run_dir.checkpoints_url, keep=config.checkpoint.keep)
    if config.resume and (newest := checkpoints.newest()):
        check_cursor(newest[1].cursor, data_cursor(config.run.seed, *split, lesson.batch_size))
    run_dir.write_text(CONFIG_FILE, to_yaml(config))
    records = _Records(run_dir, checkpoints, MetricsLog(run_dir), EventLog(run_dir))
    try:
        _train(config, lesson, model_path, examples, split, total_steps, records)
    except Interrupted as stop:
        raise Interrupted(
            f"{stop}: a checkpoint is in {run_dir.checkpoints_url}; the same command with resume=true goes on"
        ) from None
    finally:
        summary = _conclude(records, examples, config)
    console = RunConsole(total_steps)
    console.table(supervised_table(summary))
    console.message(f"report: {summary['report']}")
    return summary


def _train(
    config: Config,
    lesson: Lesson,
    model_path: str,
    examples: Examples,
    split: tuple[list[int], list[int]],
    total_steps: int,
    records: _Records,
) -> None:
    """Start the learner where the newest checkpoint is, and run the loop to its end."""
    newest = records.checkpoints.newest() if config.resume else None
    step = newest[1].step if newest else 0
    # A run without a checkpoint starts over, its first evaluation included.
    records.metrics.truncate_after(step if newest else -1)
    # Nothing is compared with a reference.
    algorithm = replace(config.algorithm, kl_coef=0.0)
    with ExitStack() as stack:
        console = stack.enter_context(RunConsole(total_steps, first_step=step))
        sinks = open_sinks(records.run_dir, config, events=records.events, first_step=step)
        stack.callback(sinks.close)
        if attach_ray(config):
            stack.callback(ray.shutdown)
        # After Ray, which puts a handler of its own on SIGTERM that aborts the process.
        interrupt = stack.enter_context(InterruptFlag(console.message))
        placement = plan_placement(config, rollout=False)
        stack.callback(placement.release)
        options = learner_options(
            config, model_path, placement, task=lesson.kind, total_steps=total_steps, algorithm=algorithm
        )
        learner = LearnerPool(options, placement.learner)
        stack.callback(learner.shutdown)
        learner.start()
        learner.wait_started()
        task = make_task(lesson.kind, algorithm, temperature=1.0, max_completion_tokens=lesson.max_tokens)
        loop = SupervisedLoop(
            config,
            examples=examples,
            train=split[0],
            held_out=split[1],
            epochs=lesson.epochs,
            batch_size=lesson.batch_size,
            learner=learner,
            task_metrics=task.metrics,
            metrics=records.metrics,
            sinks=sinks,
            console=console,
            checkpoints=records.checkpoints,
            interrupted=interrupt.is_set,
            recover=LearnerRecovery(
                learner,
                records.checkpoints,
                max_restarts=config.learner.max_restarts,
                on_event=records.events.write,
                say=console.message,
            ),
            step=step,
        )
        if newest:
            learner.load(newest[0], step)
            console.message(f"resumed from {newest[0]}")
            records.events.write("resumed", step=step)
        loop.run()


def _conclude(records: _Records, examples: Examples, config: Config) -> dict[str, Any]:
    """Write summary and report from what is on disk, also after a failure."""
    for reason, count in examples.skipped.items():
        records.events.write("examples_skipped", reason=reason, count=count)
    report = write_report(records.run_dir)
    summary = supervised_summary(
        records.metrics.read(),
        stage=config.stage,
        examples=examples.size,
        event_counts=records.events.counts,
        report=report,
    )
    records.run_dir.write_text(SUMMARY_FILE, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    records.metrics.close()
    records.events.close()
    return summary
