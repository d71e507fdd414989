from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from r1ray.errors import ConfigError, ModelError, RolloutError
from r1ray.rollout.protocol import EngineOptions
from r1ray.rollout.transformers_engine import TransformersEngine
from r1ray.types import Completion, GroupRequest

MakeRequest = Callable[..., GroupRequest]
DEADLINE_S = 60.0


@asynccontextmanager
async def running(options: EngineOptions) -> AsyncIterator[TransformersEngine]:
    engine = TransformersEngine(options)
    try:
        await engine.start()
        yield engine
    finally:
        await engine.shutdown()


async def collect(engine: TransformersEngine, count: int) -> list[Completion]:
    completions: list[Completion] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(completions) < count:
            completions.extend(await engine.next_completions(5.0))
    return completions


def sample_all(options: EngineOptions, requests: Sequence[GroupRequest]) -> list[Completion]:
    async def main() -> list[Completion]:
        async with running(options) as engine:
            engine.submit(requests)
            return await collect(engine, sum(len(r.seeds) for r in requests))

    return asyncio.run(main())


@pytest.fixture
def requests(make_request: MakeRequest) -> list[GroupRequest]:
    return [
        make_request(str(i), range(60, 60 + 5 * i + 1), range(i * 10, i * 10 + 3), max_completion_tokens=20 + 5 * i)
        for i in range(5)
    ]


def test_one_submit_gives_the_same_completions_in_the_same_order_every_time(
    options: EngineOptions, requests: list[GroupRequest]
) -> None:
    assert sample_all(options, requests) == sample_all(options, requests)


def test_completion_carries_its_request(options: EngineOptions, make_request: MakeRequest) -> None:
    completions = sample_all(options, [make_request("12/a", [72, 73], [5, 6, 7])])
    assert sorted(c.sample_index for c in completions) == [0, 1, 2]
    for completion in completions:
        assert (completion.group_id, completion.prompt_id, completion.worker) == ("12/a", "prompt/12/a", "rollout-0")
        assert len(completion.rollout_logprobs) == len(completion.completion_ids)
        assert completion.policy_versions == (0,) * len(completion.completion_ids)


def test_a_sample_asked_for_again_is_the_same(options: EngineOptions, requests: list[GroupRequest]) -> None:
    whole = {(c.group_id, c.sample_index): c for c in sample_all(options, requests)}
    again = replace(requests[3], seeds=requests[3].seeds[1:2], sample_indices=(1,))
    [completion] = sample_all(options, [again])
    assert completion.completion_ids == whole["3", 1].completion_ids


def test_pausing_in_the_middle_changes_nothing(options: EngineOptions, requests: list[GroupRequest]) -> None:
    async def main() -> list[Completion]:
        async with running(options) as engine:
            engine.submit(requests)
            first = await collect(engine, 1)
            await engine.pause()
            first += await engine.next_completions(0)
            assert await engine.next_completions(0.2) == []
            assert len(await engine.score([5, 6, 7])) == 2
            await engine.resume()
            return first + await collect(engine, 15 - len(first))

    assert asyncio.run(main()) == sample_all(options, requests)


def test_abort_returns_every_completion_of_the_group_once(options: EngineOptions, requests: list[GroupRequest]) -> None:
    async def main() -> list[Completion]:
        async with running(options) as engine:
            await engine.pause()
            engine.submit(requests)
            await engine.abort(["1", "4"])
            await engine.resume()
            completions = await collect(engine, 15)
            await engine.abort()
            return completions

    completions = asyncio.run(main())
    assert len({(c.group_id, c.sample_index) for c in completions}) == 15
    for completion in completions:
        assert (completion.finish_reason == "abort") == (completion.group_id in ("1", "4"))


def test_stop_string_ends_the_completion_and_stays_in_the_text(
    options: EngineOptions, make_request: MakeRequest
) -> None:
    prompt_ids = list(range(60, 70))
    [free] = sample_all(options, [make_request("0", prompt_ids, [4], max_completion_tokens=30)])
    characters = free.text.encode()
    stop = free.text[6:8]
    assert len(characters) > 8
    [stopped] = sample_all(options, [make_request("0", prompt_ids, [4], max_completion_tokens=30, stop=(stop, "%%%"))])
    assert stopped.finish_reason == "stop"
    assert stopped.text == free.text[: free.text.index(stop) + len(stop)]
    assert stopped.completion_ids == free.completion_ids[: len(stopped.completion_ids)]
    assert len(stopped.completion_ids) < len(free.completion_ids)


def test_prompt_that_leaves_no_room_is_refused(options: EngineOptions, make_request: MakeRequest) -> None:
    async def main() -> None:
        async with running(options) as engine:
            with pytest.raises(RolloutError, match=r"prompt/0 has 109 tokens.*128 - 20"):
                engine.submit([make_request("0", range(109), [0], max_completion_tokens=20)])
            engine.submit([make_request("0", range(108), [0], max_completion_tokens=20)])
            await collect(engine, 1)

    asyncio.run(main())


def test_failing_forward_pass_surfaces_after_what_had_finished(
    options: EngineOptions, make_request: MakeRequest
) -> None:
    async def main() -> None:
        async with running(options) as engine:
            engine.submit([make_request("0", [5, 6], [0], max_completion_tokens=1)])
            await collect(engine, 1)

            def fail(*_: Any, **__: Any) -> None:
                raise RuntimeError("out of memory")

            engine._model.forward = fail
            engine.submit([make_request("1", [5, 6], [0])])
            with pytest.raises(RolloutError, match=r"rollout-0 failed.*out of memory") as caught:
                await collect(engine, 1)
            assert isinstance(caught.value.__cause__, RuntimeError)
            with pytest.raises(RolloutError, match="out of memory"):
                await engine.score([1, 2])
            with pytest.raises(RolloutError, match="out of memory"):
                engine.submit([make_request("2", [5, 6], [0])])

    asyncio.run(main())


def test_failing_command_leaves_the_engine_running(options: EngineOptions, make_request: MakeRequest) -> None:
    async def main() -> None:
        async with running(options) as engine:
            with pytest.raises(IndexError):
                await engine.score([1, 100_000])
            engine.submit([make_request("0", [5, 6], [0])])
            await collect(engine, 1)

    asyncio.run(main())


def test_finished_weight_update_stamps_new_tokens(options: EngineOptions, make_request: MakeRequest) -> None:
    class Receiver:
        def __init__(self) -> None:
            self.calls: list[str] = []

        def start_weight_update(self) -> None:
            self.calls.append("start")

        def update_weights(self, update_info: dict[str, Any]) -> None:
            self.calls.append(f"update {update_info}")

        def finish_weight_update(self) -> None:
            self.calls.append("finish")

    async def main() -> None:
        async with running(options) as engine:
            receiver = engine.__dict__["_receiver"] = Receiver()
            assert await engine.policy_version() == 0
            await engine.pause()
            await engine.start_weight_update()
            await engine.update_weights({"names": []})
            await engine.finish_weight_update(3)
            await engine.resume()
            assert receiver.calls == ["start", "update {'names': []}", "finish"]
            assert await engine.policy_version() == 3
            engine.submit([make_request("0", [5, 6], [0])])
            [completion] = await collect(engine, 1)
            assert set(completion.policy_versions) == {3}

    asyncio.run(main())


def test_shutdown_ends_the_thread_and_may_be_repeated(options: EngineOptions, requests: list[GroupRequest]) -> None:
    async def main() -> None:
        engine = TransformersEngine(options)
        await engine.start()
        engine.submit(requests)
        await engine.shutdown()
        await engine.shutdown()
        with pytest.raises(RolloutError, match="not running"):
            engine.submit(requests)

    asyncio.run(main())
    assert "decode" not in {thread.name for thread in threading.enumerate()}


def test_next_completions_gives_up_after_the_wait(options: EngineOptions) -> None:
    async def main() -> None:
        async with running(options) as engine:
            assert await engine.next_completions(0) == []
            assert await engine.next_completions(0.05) == []

    asyncio.run(main())


def test_unusable_options_are_refused(options: EngineOptions) -> None:
    with pytest.raises(ConfigError, match="tensor_parallel must be 1"):
        TransformersEngine(replace(options, tensor_parallel=2))
    engine = TransformersEngine(replace(options, model_path="does/not/exist"))
    with pytest.raises(ModelError, match="does/not/exist"):
        asyncio.run(engine.start())
