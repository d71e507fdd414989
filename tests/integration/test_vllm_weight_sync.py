"""New weights reach a running vLLM over gloo, whole and at once; checked by logprobs against transformers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from importlib import resources
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from r1ray.errors import RolloutError, WeightSyncError
from r1ray.rollout.protocol import EngineOptions
from r1ray.types import Completion, GroupRequest, Prompt, SamplingParams
from r1ray.weights.gloo import GlooSender
from r1ray.weights.source import ModuleWeightSource

pytest.importorskip("vllm")
from r1ray.rollout.vllm_engine import VllmEngine

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
TIMEOUT_S = 120.0
Run = Callable[[Coroutine[Any, Any, Any]], Any]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    # Raised while vLLM imports torch's and its own modules.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:vllm"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning"),
]


class EngineClient:
    """A `WeightSyncClient` over one engine in this process's event loop; called from the sender's threads."""

    ranks_per_worker: Sequence[int] = (1,)

    def __init__(self, engine: VllmEngine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop

    def _call(self, call: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(call, self._loop).result(TIMEOUT_S)

    def pause(self) -> None:
        self._call(self._engine.pause())

    def resume(self) -> None:
        self._call(self._engine.resume())

    def init_weight_transfer_engine(self, init_infos: Sequence[dict[str, Any]]) -> None:
        self._call(self._engine.init_weight_transfer_engine(init_infos[0]))

    def start_weight_update(self) -> None:
        self._call(self._engine.start_weight_update())

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self._call(self._engine.update_weights(update_info))

    def finish_weight_update(self, policy_version: int) -> None:
        self._call(self._engine.finish_weight_update(policy_version))


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="module")
def engine(run: Run) -> Iterator[VllmEngine]:
    engine = VllmEngine(OPTIONS)
    run(engine.start())
    yield engine
    run(engine.shutdown())


@pytest.fixture(scope="module")
def policy() -> Any:
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def sender(engine: VllmEngine, policy: Any, run: Run) -> Iterator[GlooSender]:
    async def connect() -> GlooSender:
        client = EngineClient(engine, asyncio.get_running_loop())
        source = ModuleWeightSource(policy, dtype=torch.float32)
        sender = GlooSender(source, client, rank=0, address="127.0.0.1", timeout_s=TIMEOUT_S, bucket_bytes=300_000)
        await asyncio.to_thread(sender.connect)
        return sender

    sender = run(connect())
    yield sender
    sender.close()


@pytest.fixture(scope="module")
def prompt() -> Prompt:
    # Longer than two cache blocks.
    text = "User: " + "What is 12 + 7? " * 12 + "Assistant:"
    return Prompt("p", text, text, tuple(AutoTokenizer.from_pretrained(MODEL)(text)["input_ids"]))


def change(policy: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02 * parameter.abs().mean())


def reference(policy: Any, prompt: Prompt, completion_ids: Sequence[int]) -> torch.Tensor:
    ids = torch.tensor([[*prompt.prompt_ids, *completion_ids]])
    with torch.no_grad():
        logprobs = torch.log_softmax(policy(ids).logits[0, len(prompt.prompt_ids) - 1 : -1], dim=-1)
    return logprobs.gather(1, torch.tensor(completion_ids)[:, None])[:, 0]


def make_request(prompt: Prompt, *, count: int, max_completion_tokens: int) -> GroupRequest:
    indices = tuple(range(count))
    return GroupRequest("g", prompt, SamplingParams(1.0, 1.0, max_completion_tokens), indices, indices)


async def collect(engine: VllmEngine, count: int) -> list[Completion]:
    completions: list[Completion] = []
    async with asyncio.timeout(TIMEOUT_S):
        while len(completions) < count:
            completions += await engine.next_completions(5.0)
    return completions


async def complete(engine: VllmEngine, prompt: Prompt) -> list[Completion]:
    engine.submit([make_request(prompt, count=4, max_completion_tokens=24)])
    return await collect(engine, 4)


def assert_samples_from(policy: Any, prompt: Prompt, completions: Sequence[Completion], version: int) -> None:
    for completion in completions:
        expected = reference(policy, prompt, completion.completion_ids)
        torch.testing.assert_close(torch.tensor(completion.rollout_logprobs), expected, atol=1e-5, rtol=1e-5)
        assert set(completion.policy_versions) == {version}


def test_the_same_prompt_gets_the_new_logprobs_after_each_sync(
    engine: VllmEngine, sender: GlooSender, policy: Any, prompt: Prompt, run: Run
) -> None:
    # Each round fills the prefix cache with the prompt, which the next must not use.
    old = run(engine.score(prompt.prompt_ids))
    for version in (1, 2):
        change(policy, seed=version)
        run(asyncio.to_thread(sender.send, version))
        assert run(engine.policy_version()) == version
        assert_samples_from(policy, prompt, run(complete(engine, prompt)), version)
        new = run(engine.score(prompt.prompt_ids))
        torch.testing.assert_close(
            torch.tensor(new),
            reference(policy, Prompt("", "", "", prompt.prompt_ids[:1]), prompt.prompt_ids[1:]),
            atol=1e-5,
            rtol=1e-5,
        )
        assert max(abs(a - b) for a, b in zip(old, new, strict=True)) > 1e-3
        old = new


def test_unchanged_weights_give_the_same_logprobs_to_the_bit(
    engine: VllmEngine, sender: GlooSender, prompt: Prompt, run: Run
) -> None:
    before = run(engine.score(prompt.prompt_ids))
    run(asyncio.to_thread(sender.send, 3))
    assert run(engine.score(prompt.prompt_ids)) == before


def test_requests_in_flight_go_on_with_the_new_weights_and_each_token_keeps_its_version(
    engine: VllmEngine, sender: GlooSender, policy: Any, prompt: Prompt, run: Run
) -> None:
    old_policy = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    old_policy.load_state_dict(policy.state_dict())
    old_version = run(engine.policy_version())

    async def scenario() -> list[Completion]:
        # The short ones tell when the long ones are on their way.
        engine.submit([make_request(prompt, count=2, max_completion_tokens=4)])
        engine.submit([make_request(prompt, count=16, max_completion_tokens=300)])
        early = await engine.next_completions(TIMEOUT_S)
        change(policy, seed=7)
        await asyncio.to_thread(sender.send, old_version + 1)
        return early + await collect(engine, 18 - len(early))

    mixed = [c for c in run(scenario()) if len(set(c.policy_versions)) == 2]
    assert mixed
    for completion in mixed:
        assert sorted(completion.policy_versions) == list(completion.policy_versions)
        assert len(completion.policy_versions) == len(completion.completion_ids) == len(completion.rollout_logprobs)
        cut = completion.policy_versions.index(old_version + 1)
        expected = torch.cat(
            [
                reference(old_policy, prompt, completion.completion_ids)[:cut],
                reference(policy, prompt, completion.completion_ids)[cut:],
            ]
        )
        torch.testing.assert_close(torch.tensor(completion.rollout_logprobs), expected, atol=1e-5, rtol=1e-5)


def test_an_update_that_broke_off_is_made_good_by_the_next(
    engine: VllmEngine, sender: GlooSender, policy: Any, prompt: Prompt, run: Run
) -> None:
    class BreaksOff(ModuleWeightSource):
        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            for index, pair in enumerate(super().__iter__()):
                if index == 5:
                    raise RuntimeError("learner broke off")
                yield pair

    async def scenario() -> list[Completion]:
        client = EngineClient(engine, asyncio.get_running_loop())
        broken = GlooSender(BreaksOff(policy), client, rank=0, address="127.0.0.1", timeout_s=2.0, bucket_bytes=1000)
        await asyncio.to_thread(broken.connect)
        with pytest.raises(RuntimeError, match="broke off"):
            await asyncio.to_thread(broken.send, 20)
        broken.close()
        whole = GlooSender(ModuleWeightSource(policy), client, rank=0, address="127.0.0.1", timeout_s=TIMEOUT_S)
        await asyncio.to_thread(whole.connect)
        await asyncio.to_thread(whole.send, 21)
        whole.close()
        return await complete(engine, prompt)

    change(policy, seed=20)
    assert_samples_from(policy, prompt, run(scenario()), 21)


def test_weights_are_not_touched_while_generation_runs(engine: VllmEngine, run: Run) -> None:
    with pytest.raises(WeightSyncError, match="pause"):
        run(engine.start_weight_update())


def test_a_dead_engine_is_reported_with_its_worker_and_leaves_no_process(prompt: Prompt, run: Run) -> None:
    engine = VllmEngine(OPTIONS)
    others = set(psutil.Process().children(recursive=True))

    async def scenario() -> None:
        await engine.start()
        engine.submit([make_request(prompt, count=8, max_completion_tokens=300)])
        for process in set(psutil.Process().children(recursive=True)) - others:
            if "EngineCore" in process.name() or "EngineCore" in " ".join(process.cmdline()):
                process.kill()
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                await engine.next_completions(5.0)

    with pytest.raises(RolloutError, match="rollout-0"):
        run(scenario())
    run(engine.shutdown())
    left = set(psutil.Process().children(recursive=True)) - others
    _, alive = psutil.wait_procs(left, timeout=30)
    assert not alive
