"""The evaluation stage: a model's completions of held-out prompts, graded, and their figures.

    data.eval -> eval.samples_per_prompt completions each -> grades by rewards.terms -> summary.json

Samples as `eval` says. Rewards of weight 0 are measured as well, so a config can measure what it does not pay for.
"""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any

from rich.console import Console

from r1ray.config.load import to_yaml
from r1ray.config.schema import Config
from r1ray.data.prompts import PromptBuilder
from r1ray.data.sources import open_source
from r1ray.driver.stream import sample_groups
from r1ray.evaluation.evaluate import HeldOutEvaluation
from r1ray.models.locate import locate_model
from r1ray.models.tokenizer import load_tokenizer
from r1ray.rewards.registry import check_judges, check_prompts, check_rewards
from r1ray.stages.sampling import sampling_stream
from r1ray.tracking.console import plain_console
from r1ray.tracking.evaluation_table import evaluation_table
from r1ray.tracking.events import EventLog
from r1ray.tracking.rollouts import RolloutLog, rows_from_group
from r1ray.tracking.run_dir import CONFIG_FILE, SUMMARY_FILE, RunDirectory
from r1ray.tracking.timers import Timers
from r1ray.types import Group, Prompt


def evaluate_model(config: Config) -> dict[str, Any]:
    """Evaluate as configured and return what summary.json holds.

    Raises:
        R1RayError: with a message for the user.
    """
    check_rewards(config.rewards, config.sandbox)
    run_dir = RunDirectory(config.run.dir)
    model_path, prompts = _prepare(config)
    run_dir.create(resume=config.resume)
    run_dir.write_text(CONFIG_FILE, to_yaml(config))
    events = EventLog(run_dir)
    console = Console(highlight=False)
    console = console if console.is_terminal else plain_console(console)
    timers, groups = Timers(), list[Group]()
    began = time.perf_counter()
    try:
        with sampling_stream(config, model_path, on_event=events.write, say=console.print) as stream:
            sample = partial(sample_groups, stream, config.run.seed, on_group=groups.append)
            evaluation = HeldOutEvaluation(prompts, config.eval, config.rollout, sample=sample, timers=timers)
            # The rewards as they are at the end of a run.
            metrics = evaluation(max((term.from_step for term in config.rewards.terms), default=0))
    finally:
        events.close()
    RolloutLog(run_dir).write(0, [row for group in groups for row in rows_from_group(0, group)])
    summary = {
        "stage": "evaluate",
        "model": config.model.path,
        "prompts": len(prompts),
        "samples_per_prompt": config.eval.samples_per_prompt,
        "eval_s": timers.take().get("time/eval_s", 0.0),
        "wall_s": time.perf_counter() - began,
        "metrics": metrics,
        "events": dict(sorted(events.counts.items())),
    }
    run_dir.write_text(SUMMARY_FILE, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    console.print(evaluation_table(metrics))
    return summary


def _prepare(config: Config) -> tuple[str, list[Prompt]]:
    model_path = locate_model(config.model.path, config.model.revision)
    tokenizer = load_tokenizer(model_path, config.model.revision, config.model.trust_remote_code)
    prompts = PromptBuilder(tokenizer, config.template, config.data.max_prompt_tokens).build_all(
        open_source(config.data.eval)
    )
    check_prompts(config.rewards, prompts)
    check_judges(config.rewards, config.sandbox)
    return model_path, prompts
