"""The preferences stage: completions of a model, judged by an LLM, as training data of a reward model.

    prompts -> completions -> pairs, judged in both orders -> margin, lengths -> parquet      (pairwise)
    prompts -> completions -> safe or unsafe, by the majority       -> parquet                (pointwise)

Replies of the judge are kept, so an interrupted job asks nothing twice.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from r1ray.config.load import to_yaml
from r1ray.config.schema import Config, RewardTerm
from r1ray.errors import DataError, GraderError
from r1ray.rewards.llm_judge import LLMJudgeReward
from r1ray.rewards.scopes import summary as summary_of
from r1ray.stages.collecting import collect
from r1ray.stages.judging import batches
from r1ray.stages.pairs import JudgedPair, Pair, agrees_with_itself, decide, length_bias, make_pairs, match_lengths
from r1ray.stages.rejection import prepare
from r1ray.tracking.console import plain_off_terminals
from r1ray.tracking.run_dir import CONFIG_FILE, SUMMARY_FILE, RunDirectory
from r1ray.types import Completion, Group, Prompt, Verdict

DATA_FILE = "data/preferences.parquet"
# Completions judged together; each batch has the deadline `rewards.batch_timeout_s`.
BATCH = 64
_REFERENCE = "other_completion"


@dataclass(slots=True)
class _Counts:
    judged: int = 0
    failed: int = 0


def collect_preferences(config: Config) -> dict[str, Any]:
    """Sample, let the judge compare, write; return what summary.json holds.

    Raises:
        R1RayError: with a message for the user; what has been sampled and judged is kept.
    """
    preferences = config.preferences
    run_dir = RunDirectory(config.run.dir)
    # The judge decides, so nothing is graded while sampling.
    style = "r1_zero" if config.template.name == "r1_zero" else "r1"
    ungraded = replace(config.rewards, terms=[RewardTerm("format", 0.0, {"style": style})])
    sampling = replace(config, rewards=ungraded)
    check_judge(config)
    job = prepare(
        sampling, samples_per_prompt=preferences.samples_per_prompt, prompts_per_shard=preferences.prompts_per_shard
    )
    run_dir.create(resume=config.resume)
    run_dir.write_text(CONFIG_FILE, to_yaml(config))
    console = plain_off_terminals(Console(highlight=False))
    candidates = collect(sampling, job, run_dir, console=console)
    judge = _judge(config, run_dir)
    make = _pairs if preferences.kind == "pairwise" else _labels
    try:
        rows, figures = make(config, candidates.groups(), judge, console)
    finally:
        judge.close()
    if not rows:
        raise DataError(f"nothing is left to learn from: {json.dumps(figures)}")
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, compression="zstd")
    run_dir.write_bytes(DATA_FILE, sink.getvalue())
    summary = {"stage": config.stage, "kind": preferences.kind, "model": config.model.path, **figures}
    run_dir.write_text(SUMMARY_FILE, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    for name, value in figures.items():
        console.print(f"{name.replace('_', ' ')}: {value:.3g}" if isinstance(value, float) else f"{name}: {value}")
    return summary


def check_judge(config: Config) -> None:
    """Ask the judge one easy thing.

    Raises:
        GraderError, ConfigError: it does not answer, or its key is not set.
    """
    judge = _judge(config, None)
    try:
        judge.check()
    finally:
        judge.close()


def _judge(config: Config, run_dir: RunDirectory | None) -> LLMJudgeReward:
    preferences, endpoint = config.preferences, config.preferences.judge
    assert endpoint.base_url is not None, "checked with the config"
    return LLMJudgeReward(
        base_url=endpoint.base_url,
        model=endpoint.model,
        mode="helpfulness" if preferences.kind == "pairwise" else "safety",
        api_key_env=endpoint.api_key_env,
        reference_column=_REFERENCE,
        num_judgements=preferences.num_judgements,
        temperature=endpoint.temperature,
        max_tokens=endpoint.max_tokens,
        timeout_s=endpoint.timeout_s,
        max_retries=endpoint.max_retries,
        requests_per_minute=endpoint.requests_per_minute,
        max_concurrency=endpoint.max_concurrency,
        batch_timeout_s=config.rewards.batch_timeout_s,
        cache_dir=str(run_dir.local_path("judge")) if run_dir is not None and run_dir.is_local else None,
    )


def _pairs(
    config: Config, groups: Iterable[Group], judge: LLMJudgeReward, console: Console
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return rows of pairs, and the figures of how they came about."""
    preferences = config.preferences
    made = (
        pair
        for group in groups
        for pair in make_pairs(group, at_most=preferences.max_pairs_per_prompt, seed=config.run.seed)
    )
    apart: list[JudgedPair] = []
    counts, agreeing = _Counts(), 0
    for batch in batches(made, BATCH):
        for pair, values in zip(batch, judge.judgements([_shown(pair) for pair in batch]), strict=True):
            counts.judged += 1
            if isinstance(values, str):
                counts.failed += 1
                console.print(f"not judged: {values}")
                continue
            decided = decide(pair, values)
            agreeing += agrees_with_itself(decided.judgements)
            if decided.margin >= preferences.min_margin:
                apart.append(decided)
        _check_failures(config, counts)
        console.print(f"{counts.judged} pairs judged")
    judged = counts.judged - counts.failed
    matched = match_lengths(apart, max_bias=preferences.max_length_bias)
    figures = {
        "pairs_judged": counts.judged,
        "judge_failures": counts.failed,
        "dropped_by_margin": judged - len(apart),
        "dropped_by_length": len(apart) - len(matched),
        "pairs": len(matched),
        "margin_mean": sum(p.margin for p in matched) / len(matched) if matched else 0.0,
        "length_bias_before": length_bias(apart),
        "length_bias_after": length_bias(matched),
        "judge_agrees_with_itself": agreeing / judged if judged else 0.0,
    }
    return [_pair_row(config, pair) for pair in matched], figures


def _shown(pair: Pair) -> tuple[Prompt, Completion]:
    reference = {_REFERENCE: summary_of(pair.other.text)}
    return replace(pair.prompt, metadata={**pair.prompt.metadata, **reference}), pair.one


def _pair_row(config: Config, pair: JudgedPair) -> dict[str, Any]:
    return {
        "question": pair.prompt.question,
        "chosen": pair.chosen.text,
        "rejected": pair.rejected.text,
        "margin": pair.margin,
        "judgements": list(pair.judgements),
        "chosen_tokens": len(pair.chosen.completion_ids),
        "rejected_tokens": len(pair.rejected.completion_ids),
        "domain": pair.prompt.domain,
        "prompt_id": pair.prompt.prompt_id,
        "model": config.model.path,
        "judge": config.preferences.judge.model,
    }


def _labels(
    config: Config, groups: Iterable[Group], judge: LLMJudgeReward, console: Console
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return rows of labelled completions, and the figures of how they came about."""
    completions = (
        (group.prompt, graded.completion)
        for group in groups
        for graded in group.graded
        if graded.grade.verdict is not Verdict.ERROR and graded.completion.text.strip()
    )
    rows: list[dict[str, Any]] = []
    counts, labels = _Counts(), Counter[str]()
    for batch in batches(completions, BATCH):
        for (prompt, completion), values in zip(batch, judge.judgements(batch), strict=True):
            counts.judged += 1
            if isinstance(values, str):
                counts.failed += 1
                console.print(f"not judged: {values}")
                continue
            mean = sum(values) / len(values)
            label = "tie" if mean == 0.5 else "safe" if mean > 0.5 else "unsafe"
            labels[label] += 1
            if label != "tie":
                rows.append(_label_row(config, prompt, completion, int(label == "safe"), values))
        _check_failures(config, counts)
        console.print(f"{counts.judged} completions judged")
    return rows, {"judged": counts.judged, "judge_failures": counts.failed, **dict(labels)}


def _label_row(
    config: Config, prompt: Prompt, completion: Completion, label: int, values: Sequence[float]
) -> dict[str, Any]:
    return {
        "question": prompt.question,
        "completion": completion.text,
        "label": label,
        "judgements": list(values),
        "completion_tokens": len(completion.completion_ids),
        "domain": prompt.domain,
        "prompt_id": prompt.prompt_id,
        "model": config.model.path,
        "judge": config.preferences.judge.model,
    }


def _check_failures(config: Config, counts: _Counts) -> None:
    limit = config.rewards.max_error_fraction
    if counts.failed > limit * max(counts.judged, BATCH):
        raise GraderError(
            f"the judge failed for {counts.failed} of {counts.judged}, more than rewards.max_error_fraction={limit:g}: "
            "what it has said is kept; see to the endpoint, then resume=true goes on"
        )
