"""The GRPO stage: builds every part from the config, runs the loop, and leaves a run directory behind.

What can be refused without Ray (data, prompts, rewards, model location) is refused before Ray starts.
Whatever happens after that, actors are stopped and the report is written.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import ray

from r1ray.checkpoint import CheckpointStore, RunState
from r1ray.config.load import to_yaml
from r1ray.config.schema import Config
from r1ray.data.mixture import Cursor, open_cursor
from r1ray.data.prompts import PromptBuilder
from r1ray.data.sources import open_source
from r1ray.driver.interrupt import InterruptFlag
from r1ray.driver.loop import GrpoLoop
from r1ray.driver.placement import attach_ray, plan_placement
from r1ray.driver.record import StepRecorder
from r1ray.driver.stream import CompletionStream, sample_groups
from r1ray.driver.supervise import DEFAULT_TOLERANCE, LearnerRecovery, WeightSync
from r1ray.errors import ConfigError, Interrupted
from r1ray.evaluation.evaluate import HeldOutEvaluation
from r1ray.learner.pool import LearnerPool
from r1ray.models.locate import locate_model
from r1ray.models.tokenizer import load_tokenizer
from r1ray.rewards.registry import check_judges, check_prompts, check_rewards
from r1ray.rewards.terms import reward_weights
from r1ray.stages.learning import learner_options
from r1ray.stages.sampling import start_sampling
from r1ray.tracking.console import RunConsole
from r1ray.tracking.events import EventLog
from r1ray.tracking.metrics import MetricsLog
from r1ray.tracking.report import write_report
from r1ray.tracking.rollouts import RolloutLog
from r1ray.tracking.run_dir import CONFIG_FILE, RunDirectory
from r1ray.tracking.sinks import open_sinks
from r1ray.tracking.summary import Summary, build_summary, write_summary
from r1ray.types import Prompt

logger = logging.getLogger(__name__)

PROBE_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is known before Ray starts."""

    model_path: str
    cursor: Cursor
    held_out: list[Prompt]


def train_grpo(config: Config) -> Summary:
    """Run GRPO as configured and return the run in figures.

    Raises:
        R1RayError: with a message for the user; the run directory holds what was done until then.
    """
    check_rewards(config.rewards, config.sandbox)
    if config.algorithm.advantage == "per_reward_zscore":
        reward_weights(config.rewards.terms)
    run_dir = RunDirectory(config.run.dir)
    inputs = _prepare_inputs(config)
    run_dir.create(resume=config.resume)
    checkpoints = CheckpointStore(run_dir.checkpoints_url, keep=config.checkpoint.keep)
    newest = checkpoints.newest() if config.resume else None
    initial_cursor = inputs.cursor.state()
    state = newest[1] if newest else RunState(step=0, phase=0, cursor=initial_cursor)
    inputs.cursor.restore(state.cursor)
    run_dir.write_text(CONFIG_FILE, to_yaml(config))
    metrics, rollouts, events = MetricsLog(run_dir), RolloutLog(run_dir), EventLog(run_dir)
    # A run without a checkpoint starts over, its first evaluation included.
    keep_until = state.step if newest else -1
    metrics.truncate_after(keep_until)
    rollouts.truncate_after(keep_until)
    try:
        with ExitStack() as stack:
            console = stack.enter_context(RunConsole(config.train.steps, first_step=state.step))
            sinks = open_sinks(run_dir, config, events=events, first_step=state.step)
            stack.callback(sinks.close)
            recorder = StepRecorder(
                metrics=metrics,
                rollouts=rollouts,
                events=events,
                sinks=sinks,
                console=console,
                algorithm=config.algorithm,
                first_step=state.step,
            )
            parts = _start_parts(config, inputs, stack=stack, console=console, events=events)
            if newest:
                parts.learner.load(newest[0], state.step)
                console.message(f"resumed from {newest[0]}")
                events.write("resumed", step=state.step)
            parts.weights.connect()
            parts.weights.sync()
            evaluate = HeldOutEvaluation(
                inputs.held_out,
                config.eval,
                config.rollout,
                sample=partial(sample_groups, parts.stream, config.run.seed),
                timers=recorder.timers,
            )
            recorder.start_clock()
            GrpoLoop(
                config,
                cursor=inputs.cursor,
                stream=parts.stream,
                learner=parts.learner,
                weights=parts.weights,
                recorder=recorder,
                checkpoints=checkpoints,
                evaluate=evaluate,
                recover_learner=LearnerRecovery(
                    parts.learner,
                    checkpoints,
                    max_restarts=config.learner.max_restarts,
                    on_event=events.write,
                    say=console.message,
                    initial=RunState(step=0, phase=0, cursor=initial_cursor),
                    then=parts.weights.connect,
                ),
                state=state,
            ).run()
    except Interrupted as stop:
        raise Interrupted(
            f"{stop}: a checkpoint is in {run_dir.checkpoints_url}; the same command with resume=true goes on"
        ) from None
    finally:
        summary = _conclude(run_dir, metrics, events)
    RunConsole(config.train.steps).summary(summary)
    return summary


def _conclude(run_dir: RunDirectory, metrics: MetricsLog, events: EventLog) -> Summary:
    """Write summary and report from what is on disk, also after a failure."""
    report = write_report(run_dir)
    summary = build_summary(metrics.read(), event_counts=events.counts, report=report)
    write_summary(run_dir, summary)
    metrics.close()
    events.close()
    return summary


def _prepare_inputs(config: Config) -> Inputs:
    model_path = locate_model(config.model.path, config.model.revision)
    tokenizer = load_tokenizer(model_path, config.model.revision, config.model.trust_remote_code)
    builder = PromptBuilder(tokenizer, config.template, config.data.max_prompt_tokens)
    held_out = builder.build_all(open_source(config.data.eval))
    cursor = open_cursor(config.data.train, builder, seed=config.run.seed, shuffle=config.data.shuffle)
    check_prompts(config.rewards, held_out)
    check_judges(config.rewards, config.sandbox)
    return Inputs(model_path, cursor, held_out)


@dataclass(frozen=True, slots=True)
class Parts:
    """The running parts."""

    learner: LearnerPool
    weights: WeightSync
    stream: CompletionStream


def _start_parts(config: Config, inputs: Inputs, *, stack: ExitStack, console: RunConsole, events: EventLog) -> Parts:
    """Start Ray, rollout workers, graders and learners together; `stack` stops them again."""
    if attach_ray(config):
        stack.callback(ray.shutdown)
    # After Ray, which puts a handler of its own on SIGTERM that aborts the process.
    interrupt = stack.enter_context(InterruptFlag(console.message))
    placement = plan_placement(config)
    stack.callback(placement.release)
    learner = LearnerPool(learner_options(config, inputs.model_path, placement), placement.learner)
    stack.callback(learner.shutdown)
    learner.start()
    pools = start_sampling(config, inputs.model_path, placement, stack=stack, on_event=events.write)
    learner.wait_started()
    weights = WeightSync(
        learner,
        pools.rollout,
        probe_ids=_probe(inputs),
        tolerance=config.sync.probe_tolerance or DEFAULT_TOLERANCE[config.model.dtype],
        ranks_per_worker=config.rollout.tensor_parallel,
        timeout_s=config.sync.timeout_s,
    )
    stream = pools.stream(
        config,
        recover_rollout=weights.recover,
        on_event=events.write,
        interrupted=interrupt.is_set,
        watch=learner.check,
    )
    stream.on_progress = console.completions_done
    return Parts(learner, weights, stream)


def _probe(inputs: Inputs) -> tuple[int, ...]:
    ids = inputs.held_out[0].prompt_ids[-PROBE_TOKENS:]
    if len(ids) < 2:
        raise ConfigError("the first held-out prompt has fewer than 2 tokens: the sync probe needs a longer one")
    return ids
