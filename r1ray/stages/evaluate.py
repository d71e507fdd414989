"""The evaluation stage: a model's completions of held-out prompts, graded, and their figures.

    data.eval -> eval.samples_per_prompt completions each -> grades by rewards.terms -> summary.json

Samples as `eval` says; interrupted, it goes on where it stopped. Rewards of weight 0 are measured as well, so a config
can measure what it does not pay for.
"""

from __future__ import annotations

import json
import time
from typing import Any

from rich.console import Console

from r1ray.config.load import to_yaml
from r1ray.config.schema import Config
from r1ray.data.prompts import PromptBuilder
from r1ray.data.sources import open_source
from r1ray.evaluation.evaluate import evaluation_sampling
from r1ray.evaluation.metrics import evaluation_metrics
from r1ray.models.locate import locate_model
from r1ray.models.tokenizer import load_tokenizer
from r1ray.rewards.registry import check_judges, check_prompts, check_rewards
from r1ray.stages.collecting import SamplingJob, collect, with_unique_ids
from r1ray.tracking.console import plain_off_terminals
from r1ray.tracking.evaluation_table import evaluation_table
from r1ray.tracking.rollouts import RolloutLog, rows_from_group
from r1ray.tracking.run_dir import CONFIG_FILE, SUMMARY_FILE, RunDirectory
from r1ray.types import Group, Verdict

# Groups of one file of candidates.
PROMPTS_PER_SHARD = 256


def evaluate_model(config: Config) -> dict[str, Any]:
    """Evaluate as configured and return what summary.json holds.

    Raises:
        R1RayError: with a message for the user.
    """
    check_rewards(config.rewards, config.sandbox)
    run_dir = RunDirectory(config.run.dir)
    job = _prepare(config)
    run_dir.create(resume=config.resume)
    run_dir.write_text(CONFIG_FILE, to_yaml(config))
    console = plain_off_terminals(Console(highlight=False))
    began = time.perf_counter()
    groups = list(collect(config, job, run_dir, console=console).groups())
    RolloutLog(run_dir).write(0, [row for group in groups for row in rows_from_group(0, group)])
    graded = [
        Group(g.group_id, g.prompt, tuple(one for one in g.graded if one.grade.verdict is not Verdict.ERROR))
        for g in groups
    ]
    metrics = evaluation_metrics(graded, expected_completions=len(job.prompts) * job.samples_per_prompt)
    summary = {
        "stage": "evaluate",
        "model": config.model.path,
        "prompts": len(job.prompts),
        "samples_per_prompt": job.samples_per_prompt,
        "wall_s": time.perf_counter() - began,
        "metrics": metrics,
    }
    run_dir.write_text(SUMMARY_FILE, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    console.print(evaluation_table(metrics))
    return summary


def _prepare(config: Config) -> SamplingJob:
    model_path = locate_model(config.model.path, config.model.revision)
    tokenizer = load_tokenizer(model_path, config.model.revision, config.model.trust_remote_code)
    prompts = PromptBuilder(tokenizer, config.template, config.data.max_prompt_tokens).build_all(
        open_source(config.data.eval)
    )
    check_prompts(config.rewards, prompts)
    check_judges(config.rewards, config.sandbox)
    return SamplingJob(
        model_path,
        with_unique_ids(prompts),
        evaluation_sampling(config.eval, config.rollout),
        config.eval.samples_per_prompt,
        PROMPTS_PER_SHARD,
        # The rewards as they are at the end of a run.
        step=max((term.from_step for term in config.rewards.terms), default=0),
    )
