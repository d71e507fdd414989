"""The rejection and cold-start stages: sample from a model, keep what is good, write training data.

    prompts -> k completions each -> grades -> one reason each, or kept -> (rewritten) -> + supplied samples -> parquet

Both do the same; a cold start samples from R1-Zero, so its completions are brought from R1-Zero's form into R1's.

Source: arXiv:2501.12948, sections 2.3.1 and 2.3.3.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, TypeVar

from rich.console import Console

from r1ray.config.load import to_yaml
from r1ray.config.schema import Config
from r1ray.data.ngrams import NgramIndex
from r1ray.data.prompts import PromptBuilder
from r1ray.data.sources import open_source
from r1ray.driver.stream import CompletionStream, make_requests
from r1ray.errors import DataError, Interrupted, RolloutError
from r1ray.models.locate import locate_model
from r1ray.models.tokenizer import load_tokenizer
from r1ray.rewards.registry import check_judges, check_prompts, check_rewards
from r1ray.stages.candidates import Candidates
from r1ray.stages.rewriting import Rewriter
from r1ray.stages.sampling import sampling_stream
from r1ray.stages.selection import Selector
from r1ray.stages.training_data import DataWriter, supplied_samples
from r1ray.tracking.console import plain_console
from r1ray.tracking.events import EventLog
from r1ray.tracking.run_dir import CONFIG_FILE, SUMMARY_FILE, RunDirectory
from r1ray.tracking.selection_summary import SelectionCounts, selection_table
from r1ray.types import Prompt, SamplingParams

# Blocks of prompts under way at a time, so that workers do not idle at the tail of one.
BLOCKS = 2
# Prompts whose completions an endpoint rewrites together.
REWRITTEN_TOGETHER = 64

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is known before Ray starts."""

    model_path: str
    prompts: list[Prompt]
    fingerprint: str


def sample_and_select(config: Config) -> dict[str, Any]:
    """Sample, select and write as configured; return what summary.json holds.

    Raises:
        R1RayError: with a message for the user; what has been sampled is kept.
    """
    check_rewards(config.rewards, config.sandbox)
    run_dir = RunDirectory(config.run.dir)
    inputs = prepare(config, samples_per_prompt=config.selection.samples_per_prompt)
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
    console = plain_or_rich()
    candidates = collect(
        config,
        inputs,
        run_dir,
        samples_per_prompt=config.selection.samples_per_prompt,
        prompts_per_shard=config.selection.prompts_per_shard,
        console=console,
    )
    counts = SelectionCounts()
    writer = DataWriter(run_dir, config)
    for batch in batches(candidates.groups(), REWRITTEN_TOGETHER):
        kept = []
        for group in batch:
            judged = selector.judge(group)
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
        summary["rewriting"] = dict(rewriter.counts.most_common())
    run_dir.write_text(SUMMARY_FILE, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    console.print(selection_table(summary))
    return summary


def prepare(config: Config, *, samples_per_prompt: int) -> Inputs:
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
    prompts = _with_unique_ids(built)
    check_prompts(config.rewards, prompts)
    check_judges(config.rewards, config.sandbox)
    sampling = {"samples": samples_per_prompt, "seed": config.run.seed, **asdict(_sampling(config))}
    model = [model_path, config.model.revision, config.model.dtype]
    rewards = asdict(config.rewards)["terms"]
    shards = [config.selection.prompts_per_shard, config.preferences.prompts_per_shard]
    digest = hashlib.sha256(json.dumps([model, sampling, rewards, asdict(config.template), shards]).encode())
    for prompt in prompts:
        what = [prompt.prompt_id, prompt.text, prompt.answer, prompt.task, prompt.domain, prompt.metadata]
        digest.update(json.dumps(what, default=str).encode())
    return Inputs(model_path, prompts, digest.hexdigest())


def _with_unique_ids(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Tell prompts of like id apart, as parts of one dataset may hold them."""
    seen: Counter[str] = Counter()
    unique = []
    for prompt in prompts:
        seen[prompt.prompt_id] += 1
        number = seen[prompt.prompt_id]
        unique.append(prompt if number == 1 else replace(prompt, prompt_id=f"{prompt.prompt_id}#{number}"))
    return unique


def _sampling(config: Config) -> SamplingParams:
    r = config.rollout
    return SamplingParams(r.temperature, r.top_p, r.max_completion_tokens, tuple(r.stop))


def collect(
    config: Config,
    inputs: Inputs,
    run_dir: RunDirectory,
    *,
    samples_per_prompt: int,
    prompts_per_shard: int,
    console: Console,
) -> Candidates:
    """Sample and grade what is not on disk yet; return the complete candidates.

    Raises:
        Interrupted: the user asked to stop; finished groups are kept.
    """
    candidates = Candidates(
        run_dir,
        [prompt.prompt_id for prompt in inputs.prompts],
        prompts_per_shard=prompts_per_shard,
        fingerprint=inputs.fingerprint,
    )
    missing = [prompt for prompt in inputs.prompts if prompt.prompt_id not in candidates.done]
    events = EventLog(run_dir)
    try:
        if missing:
            if len(missing) < len(inputs.prompts):
                console.print(f"{len(inputs.prompts) - len(missing)} of {len(inputs.prompts)} prompts are done")
            with sampling_stream(config, inputs.model_path, on_event=events.write, say=console.print) as stream:
                _sample(config, missing, samples_per_prompt, stream, candidates, console, block=prompts_per_shard)
    except Interrupted as stop:
        raise Interrupted(
            f"{stop}: {len(candidates.done)} of {len(inputs.prompts)} prompts are sampled; the same command with "
            "resume=true goes on"
        ) from None
    finally:
        candidates.close()
        events.close()
    if lacking := len(inputs.prompts) - len(candidates.done):
        raise RolloutError(
            f"{lacking} of {len(inputs.prompts)} prompts did not come back whole: events.jsonl says when; the same "
            "command with resume=true samples them again"
        )
    return candidates


def _sample(
    config: Config,
    prompts: Sequence[Prompt],
    samples_per_prompt: int,
    stream: CompletionStream,
    candidates: Candidates,
    console: Console,
    *,
    block: int,
) -> None:
    requests = make_requests(
        prompts,
        namespace="sample",
        seed=config.run.seed,
        group_size=samples_per_prompt,
        sampling=_sampling(config),
        numbered=False,
    )
    waiting = deque(requests[start : start + block] for start in range(0, len(requests), block))
    under_way = deque(stream.open(waiting.popleft()) for _ in range(min(BLOCKS, len(waiting))))
    while under_way:
        for buffer, group in stream.groups_of_all(under_way):
            failed = buffer.errored(group.group_id)
            # What has been given up is left for another attempt.
            if len(group.graded) + len(failed) == samples_per_prompt:
                candidates.add(group, failed)
        under_way.popleft()
        console.print(f"{len(candidates.done)} prompts sampled")
        if waiting:
            under_way.append(stream.open(waiting.popleft()))


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


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def plain_or_rich() -> Console:
    """Return a console that styles on terminals only."""
    console = Console(highlight=False)
    return console if console.is_terminal else plain_console(console)
