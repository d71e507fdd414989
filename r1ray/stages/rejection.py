"""The rejection and cold-start stages: sample from a model, keep what is good, write training data.

    prompts -> k completions each -> grades -> one reason each, or kept -> (rewritten) -> + supplied samples -> parquet

Both do the same; a cold start samples from R1-Zero, so its completions are brought from R1-Zero's form into R1's.

Source: arXiv:2501.12948, sections 2.3.1 and 2.3.3.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from r1ray.config.load import to_yaml
from r1ray.config.schema import Config
from r1ray.data.ngrams import NgramIndex
from r1ray.data.prompts import PromptBuilder
from r1ray.data.sources import open_source
from r1ray.driver.interrupt import InterruptFlag
from r1ray.driver.stream import rollout_sampling
from r1ray.errors import DataError, Interrupted
from r1ray.models.locate import locate_model
from r1ray.models.tokenizer import load_tokenizer
from r1ray.rewards.registry import check_judges, check_prompts, check_rewards
from r1ray.stages.collecting import SamplingJob, collect, with_unique_ids
from r1ray.stages.judging import batches, judge_all, processes_for
from r1ray.stages.rewriting import REWRITTEN_TOGETHER, Rewriter
from r1ray.stages.selection import Selector
from r1ray.stages.training_data import DataWriter, supplied_samples
from r1ray.tracking.console import plain_off_terminals
from r1ray.tracking.run_dir import CONFIG_FILE, SUMMARY_FILE, RunDirectory
from r1ray.tracking.selection_summary import SelectionCounts, selection_table


def sample_and_select(config: Config) -> dict[str, Any]:
    """Sample, select and write as configured; return what summary.json holds.

    Raises:
        R1RayError: with a message for the user; what has been sampled is kept.
    """
    check_rewards(config.rewards, config.sandbox)
    run_dir = RunDirectory(config.run.dir)
    job = prepare(
        config,
        samples_per_prompt=config.selection.samples_per_prompt,
        prompts_per_shard=config.selection.prompts_per_shard,
    )
    selector = Selector(
        config.selection,
        template=config.template.name,
        seed=config.run.seed,
        contamination=_contamination(config),
    )
    supplied = supplied_samples(config.selection)
    rewriter = Rewriter(config, selector) if config.selection.rewrite.base_url is not None else None
    if rewriter is not None:
        rewriter.check()
    run_dir.create(resume=config.resume)
    run_dir.write_text(CONFIG_FILE, to_yaml(config))
    if rewriter is not None:
        rewriter.keep_replies(run_dir)
    console = plain_off_terminals(Console(highlight=False))
    candidates = collect(config, job, run_dir, console=console)
    counts = SelectionCounts()
    writer = DataWriter(run_dir, config)
    with InterruptFlag(console.print) as interrupt:
        processes = processes_for(len(job.prompts) * job.samples_per_prompt)
        for batch in batches(judge_all(selector, candidates.groups(), processes=processes), REWRITTEN_TOGETHER):
            if interrupt.is_set():
                raise Interrupted("stopped by the user: all is sampled; the same command with resume=true selects")
            kept = []
            for group, judged in batch:
                counts.add(group.prompt, judged)
                kept += [(group.prompt, one) for one in judged if one.reason is None]
            texts = [one for _, one in kept] if rewriter is None else rewriter.rewrite(kept)
            for (prompt, _), one in zip(kept, texts, strict=True):
                writer.add_sampled(prompt, one)
    if not counts.kept:
        raise DataError(
            f"none of {counts.sampled} completions is kept: {counts.reasons_in_words()}; they are in "
            f"{run_dir.path('candidates')}: loosen `selection`, or sample from a better model"
        )
    wanted = round(counts.kept * config.selection.general_share / (1 - config.selection.general_share))
    counts.supplied, counts.supplied_dropped = writer.add_supplied(supplied, wanted, selector)
    summary = {"stage": config.stage, "model": config.model.path, **counts.as_json(), "written": writer.finish()}
    if rewriter is not None:
        rewriter.close()
        summary["rewriting"] = dict(rewriter.counts.most_common())
    run_dir.write_text(SUMMARY_FILE, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    console.print(selection_table(summary))
    return summary


def prepare(config: Config, *, samples_per_prompt: int, prompts_per_shard: int) -> SamplingJob:
    """Find the model and the prompts, and check that they can be sampled and graded.

    Raises:
        R1RayError: they cannot.
    """
    model_path = locate_model(config.model.path, config.model.revision)
    tokenizer = load_tokenizer(model_path, config.model.revision, config.model.trust_remote_code)
    source = open_source(config.data.train)
    if source.size is None:
        raise DataError("data.train must have an end: set its size, or that of each part")
    builder = PromptBuilder(tokenizer, config.template, config.data.max_prompt_tokens)
    order = list(range(source.size))
    if config.selection.max_prompts is not None:
        random.Random(f"{config.run.seed}/prompts").shuffle(order)
        order = sorted(order[: config.selection.max_prompts])
    built = [prompt for index in order if (prompt := builder.build(source[index])) is not None]
    if not built:
        raise DataError(f"every prompt is longer than data.max_prompt_tokens = {config.data.max_prompt_tokens}")
    check_prompts(config.rewards, built)
    check_judges(config.rewards, config.sandbox)
    return SamplingJob(
        model_path, with_unique_ids(built), rollout_sampling(config.rollout), samples_per_prompt, prompts_per_shard
    )


def _contamination(config: Config) -> NgramIndex:
    selection = config.selection
    return NgramIndex(_evaluation_texts(config), n=max(1, selection.decontaminate_ngram))


def _evaluation_texts(config: Config) -> Iterator[str]:
    for dataset in config.selection.decontaminate if config.selection.decontaminate_ngram else ():
        source = open_source(dataset)
        if source.size is None:
            raise DataError(f"selection.decontaminate: {dataset.name!r} must have an end: set its size")
        for index in range(source.size):
            record = source[index]
            yield record.question
            if record.answer:
                yield record.answer
