"""Sampling and grading a list of prompts from a model as it is, wherever it is interrupted.

    prompts -> blocks -> rollout workers and graders -> candidates/      (a finished group is never sampled again)

`rejection`, `cold_start`, `preferences` and `evaluate` begin with it and differ in what they make of the candidates.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from rich.console import Console

from r1ray.config.schema import Config
from r1ray.driver.stream import CompletionStream, make_requests
from r1ray.errors import Interrupted, RolloutError
from r1ray.stages.candidates import Candidates
from r1ray.stages.sampling import sampling_stream
from r1ray.tracking.events import EventLog
from r1ray.tracking.run_dir import RunDirectory
from r1ray.types import Prompt, SamplingParams

# Blocks of prompts under way at a time, so that workers do not idle at the tail of one.
BLOCKS = 2


@dataclass(frozen=True, slots=True)
class SamplingJob:
    """What is to be sampled, known before Ray starts.

    Attributes:
        model_path: as `locate_model` returned it.
        prompts: with unique ids.
        sampling: of every completion.
        samples_per_prompt: completions of each prompt.
        prompts_per_shard: groups of one file of candidates.
        step: by whose rewards completions are graded.
    """

    model_path: str
    prompts: list[Prompt]
    sampling: SamplingParams
    samples_per_prompt: int
    prompts_per_shard: int
    step: int = 0

    def fingerprint(self, config: Config) -> str:
        """Return a hash of everything that decides on what is sampled, on its grades, and on which file it is in."""
        job = [self.model_path, asdict(self.sampling), self.samples_per_prompt, self.prompts_per_shard, self.step]
        model = [config.run.seed, config.model.revision, config.model.dtype, asdict(config.template)]
        digest = hashlib.sha256(json.dumps([job, model, asdict(config.rewards)["terms"]]).encode())
        for prompt in self.prompts:
            what = [prompt.prompt_id, prompt.text, prompt.answer, prompt.task, prompt.domain, prompt.metadata]
            digest.update(json.dumps(what, default=str).encode())
        return digest.hexdigest()


def with_unique_ids(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Tell prompts of like id apart, as parts of one dataset may hold them."""
    seen: Counter[str] = Counter()
    unique = []
    for prompt in prompts:
        seen[prompt.prompt_id] += 1
        number = seen[prompt.prompt_id]
        unique.append(prompt if number == 1 else replace(prompt, prompt_id=f"{prompt.prompt_id}#{number}"))
    return unique


def collect(config: Config, job: SamplingJob, run_dir: RunDirectory, *, console: Console) -> Candidates:
    """Sample and grade what is not on disk yet; return the complete candidates.

    Raises:
        Interrupted: the user asked to stop; finished groups are kept.
        RolloutError: more completions did not come back than may be missing; finished groups are kept.
    """
    ids = [prompt.prompt_id for prompt in job.prompts]
    candidates = Candidates(run_dir, ids, prompts_per_shard=job.prompts_per_shard, fingerprint=job.fingerprint(config))
    missing = [prompt for prompt in job.prompts if prompt.prompt_id not in candidates.done]
    events = EventLog(run_dir)
    try:
        if missing:
            if len(missing) < len(ids):
                console.print(f"{len(ids) - len(missing)} of {len(ids)} prompts are done")
            with sampling_stream(config, job.model_path, on_event=events.write, say=console.print) as stream:
                _sample(job, missing, config.run.seed, stream, candidates, console)
    except Interrupted as stop:
        raise Interrupted(
            f"{stop}: {len(candidates.done)} of {len(ids)} prompts are sampled; the same command with resume=true "
            "goes on"
        ) from None
    finally:
        candidates.close()
        events.close()
    if lacking := len(ids) - len(candidates.done):
        raise RolloutError(
            f"{lacking} of {len(ids)} prompts did not come back whole: events.jsonl says when; the same command with "
            "resume=true samples them again"
        )
    return candidates


def _sample(
    job: SamplingJob,
    prompts: Sequence[Prompt],
    seed: int,
    stream: CompletionStream,
    candidates: Candidates,
    console: Console,
) -> None:
    requests = make_requests(
        prompts,
        namespace="sample",
        seed=seed,
        group_size=job.samples_per_prompt,
        sampling=job.sampling,
        step=job.step,
        numbered=False,
    )
    size = job.prompts_per_shard
    waiting = deque(requests[start : start + size] for start in range(0, len(requests), size))
    under_way = deque(stream.open(waiting.popleft()) for _ in range(min(BLOCKS, len(waiting))))
    while under_way:
        for buffer, group in stream.groups_of_all(under_way):
            failed = buffer.errored(group.group_id)
            # What has been given up is left for another attempt.
            if len(group.graded) + len(failed) == job.samples_per_prompt:
                candidates.add(group, failed)
        under_way.popleft()
        console.print(f"{len(candidates.done)} prompts sampled")
        if waiting:
            under_way.append(stream.open(waiting.popleft()))
