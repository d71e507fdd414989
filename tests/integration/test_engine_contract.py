"""What every rollout engine promises, held against both: the same tests, the same model, real processes."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from importlib import resources
from typing import Any, TypeVar

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from r1ray.rollout.protocol import EngineOptions, RolloutEngine
from r1ray.types import Completion, GroupRequest, Prompt, SamplingParams

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]

MODEL = str(resources.files("r1ray.models") / "base")
OPTIONS = EngineOptions(
    model_path=MODEL,
    revision=None,
    dtype="float32",
    device="cpu",
    sync_backend="gloo",
    max_model_tokens=512,
    max_num_seqs=64,
    tensor_parallel=1,
    gpu_memory_fraction=0.9,
    cpu_kv_cache_bytes=256 * 2**20,
    enforce_eager=True,
    trust_remote_code=False,
    cores=tuple(sorted(os.sched_getaffinity(0)))[:2],
    worker="rollout-0",
)
QUESTIONS = ("What is 12 + 7?", "What is 345 + 678?", "What is 9 - 4 + 30?")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    # Raised while vLLM imports torch's and its own modules.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:vllm"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def run() -> Iterator[Run[Any]]:
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="module", params=["vllm", "transformers"])
def engine(request: pytest.FixtureRequest, run: Run[Any]) -> Iterator[RolloutEngine]:
    engine = make_engine(request.param)
    run(engine.start())
    yield engine
    run(engine.shutdown())
    run(engine.shutdown())


def make_engine(name: str) -> RolloutEngine:
    if name == "vllm":
        pytest.importorskip("vllm")
        from r1ray.rollout.vllm_engine import VllmEngine

        return VllmEngine(OPTIONS)
    from r1ray.rollout.transformers_engine import TransformersEngine

    return TransformersEngine(OPTIONS)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()


def make_prompt(tokenizer: Any, question: str) -> Prompt:
    text = f"User: {question} Assistant:"
    return Prompt(question, question, text, tuple(tokenizer(text)["input_ids"]))


def make_request(
    prompt: Prompt,
    *,
    group_id: str = "group",
    seeds: Sequence[int] = (0,),
    temperature: float = 1.0,
    max_completion_tokens: int = 32,
    stop: tuple[str, ...] = (),
) -> GroupRequest:
    sampling = SamplingParams(temperature, 1.0, max_completion_tokens, stop)
    return GroupRequest(group_id, prompt, sampling, tuple(seeds), tuple(range(len(seeds))))


async def complete(engine: RolloutEngine, requests: Sequence[GroupRequest]) -> list[Completion]:
    """Return all completions, in the order asked for."""
    engine.submit(requests)
    wanted = [(request.group_id, index) for request in requests for index in request.sample_indices]
    got: dict[tuple[str, int], Completion] = {}
    async with asyncio.timeout(120):
        while len(got) < len(wanted):
            for completion in await engine.next_completions(5.0):
                got[completion.group_id, completion.sample_index] = completion
    return [got[key] for key in wanted]


def reference_logprobs(
    model: Any, prompt_ids: Sequence[int], completion_ids: Sequence[int], temperature: float
) -> torch.Tensor:
    ids = torch.tensor([[*prompt_ids, *completion_ids]])
    with torch.no_grad():
        logits = model(ids).logits[0, len(prompt_ids) - 1 : -1]
    logprobs = torch.log_softmax(logits / temperature, dim=-1)
    return logprobs.gather(1, torch.tensor(completion_ids)[:, None])[:, 0]


def reference_greedy(model: Any, tokenizer: Any, prompt_ids: Sequence[int], max_tokens: int) -> list[int]:
    ids = list(prompt_ids)
    for _ in range(max_tokens):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    return ids[len(prompt_ids) :]


def test_greedy_tokens_are_those_of_a_plain_forward(
    engine: RolloutEngine, run: Run[Any], model: Any, tokenizer: Any
) -> None:
    prompts = [make_prompt(tokenizer, question) for question in QUESTIONS]
    requests = [make_request(prompt, group_id=prompt.prompt_id, temperature=0.0) for prompt in prompts]
    completions = run(complete(engine, requests))
    for prompt, completion in zip(prompts, completions, strict=True):
        assert list(completion.completion_ids) == reference_greedy(model, tokenizer, prompt.prompt_ids, 32)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0, 1.5])
def test_rollout_logprobs_are_those_of_the_sampled_distribution(
    engine: RolloutEngine, run: Run[Any], model: Any, tokenizer: Any, temperature: float
) -> None:
    prompt = make_prompt(tokenizer, QUESTIONS[0])
    completions = run(complete(engine, [make_request(prompt, seeds=range(8), temperature=temperature)]))
    for completion in completions:
        expected = reference_logprobs(model, prompt.prompt_ids, completion.completion_ids, temperature or 1.0)
        torch.testing.assert_close(torch.tensor(completion.rollout_logprobs), expected, atol=1e-4, rtol=0)
        assert completion.policy_versions == (0,) * len(completion.completion_ids)


def test_a_completion_that_ends_by_itself_holds_eos_in_its_ids_and_not_in_its_text(
    engine: RolloutEngine, run: Run[Any], tokenizer: Any
) -> None:
    prompt = make_prompt(tokenizer, QUESTIONS[0])
    request = make_request(prompt, seeds=range(16), max_completion_tokens=256)
    ended = [c for c in run(complete(engine, [request])) if c.finish_reason == "stop"]
    assert ended
    for completion in ended:
        assert completion.completion_ids[-1] == tokenizer.eos_token_id
        assert completion.text == tokenizer.decode(completion.completion_ids[:-1])


def test_a_stop_string_ends_the_completion_and_stays_in_it(
    engine: RolloutEngine, run: Run[Any], tokenizer: Any
) -> None:
    prompt = make_prompt(tokenizer, QUESTIONS[0])
    free = run(complete(engine, [make_request(prompt, temperature=0.0)]))[0]
    stop = tokenizer.decode(free.completion_ids[4:6])
    stopped = run(complete(engine, [make_request(prompt, temperature=0.0, stop=(stop,))]))[0]
    assert stopped.finish_reason == "stop"
    assert stopped.text == free.text[: free.text.index(stop) + len(stop)]
    count = len(stopped.completion_ids)
    assert stopped.completion_ids == free.completion_ids[:count]
    assert len(stopped.rollout_logprobs) == len(stopped.policy_versions) == count < len(free.completion_ids)


def test_the_same_seed_samples_the_same_and_others_differ(engine: RolloutEngine, run: Run[Any], tokenizer: Any) -> None:
    prompt = make_prompt(tokenizer, QUESTIONS[0])
    once, again, *others = run(complete(engine, [make_request(prompt, seeds=(5, 5, 6, 7, 8, 9))]))
    assert once.completion_ids == again.completion_ids
    assert len({other.completion_ids for other in [once, *others]}) > 1


def test_seeds_in_a_row_sample_the_distribution(
    engine: RolloutEngine, run: Run[Any], model: Any, tokenizer: Any
) -> None:
    prompt = make_prompt(tokenizer, QUESTIONS[0])
    count = 2000
    request = make_request(prompt, seeds=range(count), max_completion_tokens=1, temperature=1.5)
    sampled = torch.tensor([completion.completion_ids[0] for completion in run(complete(engine, [request]))])
    with torch.no_grad():
        expected = torch.softmax(model(torch.tensor([prompt.prompt_ids])).logits[0, -1] / 1.5, dim=-1)
    frequencies = torch.bincount(sampled, minlength=len(expected)) / count
    spread = (expected * (1 - expected) / count).sqrt()
    assert ((frequencies - expected).abs() <= 5 * spread + 1 / count).all()


def test_a_seeded_completion_does_not_depend_on_its_neighbours(
    engine: RolloutEngine, run: Run[Any], tokenizer: Any
) -> None:
    prompt = make_prompt(tokenizer, QUESTIONS[0])
    # Long prompts beside it, so that prefill is cut into pieces at other places.
    filler = Prompt("filler", "", "", prompt.prompt_ids * 24)
    alone = run(complete(engine, [make_request(prompt, seeds=range(4))]))
    crowd = [
        make_request(dataclasses.replace(filler, prompt_ids=filler.prompt_ids[n:]), group_id=f"crowd-{n}", seeds=(n,))
        for n in range(24)
    ]
    crowded = run(complete(engine, [*crowd, make_request(prompt, seeds=range(4))]))[-4:]
    assert [c.completion_ids for c in crowded] == [c.completion_ids for c in alone]


def test_a_completion_at_its_limit_has_exactly_that_many_tokens(
    engine: RolloutEngine, run: Run[Any], tokenizer: Any
) -> None:
    prompt = make_prompt(tokenizer, QUESTIONS[1])
    free = run(complete(engine, [make_request(prompt, temperature=0.0, max_completion_tokens=64)]))[0].completion_ids
    for limit in (1, len(free) - 1):
        completion = run(complete(engine, [make_request(prompt, temperature=0.0, max_completion_tokens=limit)]))[0]
        assert completion.finish_reason == "length"
        assert completion.completion_ids == free[:limit]


def test_groups_larger_than_the_batch_all_come_back_with_their_indices(
    engine: RolloutEngine, run: Run[Any], tokenizer: Any
) -> None:
    prompt = make_prompt(tokenizer, QUESTIONS[2])
    sampling = SamplingParams(1.0, 1.0, 8)
    request = GroupRequest("g", prompt, sampling, tuple(range(100)), tuple(range(200, 300)))
    completions = run(complete(engine, [request]))
    assert [c.sample_index for c in completions] == list(range(200, 300))
    assert {(c.group_id, c.prompt_id, c.worker) for c in completions} == {("g", prompt.prompt_id, "rollout-0")}


def test_aborted_groups_come_back_and_the_others_finish(engine: RolloutEngine, run: Run[Any], tokenizer: Any) -> None:
    prompt = make_prompt(tokenizer, QUESTIONS[0])

    async def scenario() -> dict[str, list[Completion]]:
        kept = make_request(prompt, group_id="kept", seeds=(1, 2), max_completion_tokens=24)
        dropped = make_request(prompt, group_id="dropped", seeds=range(80), max_completion_tokens=400)
        engine.submit([dropped, kept])
        await engine.abort(["dropped"])
        by_group: dict[str, list[Completion]] = {"kept": [], "dropped": []}
        async with asyncio.timeout(120):
            while len(by_group["kept"]) < 2 or len(by_group["dropped"]) < 80:
                for completion in await engine.next_completions(5.0):
                    by_group[completion.group_id].append(completion)
        return by_group

    by_group = run(scenario())
    assert {c.finish_reason for c in by_group["dropped"]} == {"abort"}
    assert "abort" not in {c.finish_reason for c in by_group["kept"]}


def test_abort_of_everything_leaves_nothing_running(engine: RolloutEngine, run: Run[Any], tokenizer: Any) -> None:
    prompt = make_prompt(tokenizer, QUESTIONS[0])

    async def scenario() -> list[Completion]:
        engine.submit([make_request(prompt, seeds=range(4), max_completion_tokens=400)])
        await engine.next_completions(0.2)
        await engine.abort()
        completions = await engine.next_completions(5.0)
        return completions + await engine.next_completions(0.2)

    for completion in run(scenario()):
        assert len(completion.rollout_logprobs) == len(completion.completion_ids) == len(completion.policy_versions)


def test_waiting_on_an_empty_queue_returns_within_its_deadline(engine: RolloutEngine, run: Run[Any]) -> None:
    start = time.perf_counter()
    assert run(engine.next_completions(0.2)) == []
    assert time.perf_counter() - start < 2.0


def test_score_is_the_log_softmax_at_temperature_one(
    engine: RolloutEngine, run: Run[Any], model: Any, tokenizer: Any
) -> None:
    ids = make_prompt(tokenizer, QUESTIONS[1]).prompt_ids
    expected = reference_logprobs(model, ids[:1], ids[1:], 1.0)
    for _ in range(2):
        torch.testing.assert_close(torch.tensor(run(engine.score(ids))), expected, atol=1e-4, rtol=0)


def test_a_pause_freezes_completions_and_resume_finishes_them(
    engine: RolloutEngine, run: Run[Any], tokenizer: Any
) -> None:
    prompt = make_prompt(tokenizer, QUESTIONS[0])
    request = make_request(prompt, seeds=range(4), max_completion_tokens=200)

    async def scenario() -> list[Completion]:
        engine.submit([request])
        await engine.pause()
        early = await engine.next_completions(0.3)
        assert await engine.next_completions(0.3) == []
        await engine.resume()
        late: list[Completion] = []
        async with asyncio.timeout(120):
            while len(early) + len(late) < 4:
                late += await engine.next_completions(5.0)
        return sorted(early + late, key=lambda completion: completion.sample_index)

    paused = run(scenario())
    unpaused = run(complete(engine, [request]))
    assert [c.completion_ids for c in paused] == [c.completion_ids for c in unpaused]


def test_a_new_engine_is_at_version_zero(engine: RolloutEngine, run: Run[Any]) -> None:
    assert run(engine.policy_version()) == 0
