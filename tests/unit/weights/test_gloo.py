from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from r1ray.errors import WeightSyncError
from r1ray.weights.gloo import GlooSender, connect_store, cut_buckets
from r1ray.weights.module_receiver import ModuleWeightReceiver
from r1ray.weights.protocol import ParameterSpec, rank_offsets
from r1ray.weights.source import ModuleWeightSource

LOCALHOST = "127.0.0.1"


class Model(nn.Module):
    def __init__(self, seed: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, shape in (("a", (3, 4)), ("b", (7,)), ("big", (100, 10)), ("scalar", ()), ("c", (5, 1))):
            self.register_parameter(name, nn.Parameter(torch.randn(shape, generator=generator).to(dtype)))


class Receivers:
    """A `WeightSyncClient` over receivers in threads of this process."""

    def __init__(self, receivers: Sequence[ModuleWeightReceiver]) -> None:
        self.ranks_per_worker = [1] * len(receivers)
        self.receivers = receivers
        self.calls: list[str] = []

    def _each(self, name: str, calls: Sequence[Callable[[], None]]) -> None:
        self.calls.append(name)
        with ThreadPoolExecutor(len(calls)) as threads:
            for call in [threads.submit(call) for call in calls]:
                call.result()

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")

    def init_weight_transfer_engine(self, init_infos: Sequence[dict[str, Any]]) -> None:
        pairs = zip(self.receivers, init_infos, strict=True)
        self._each("init", [partial(r.init_weight_transfer_engine, info) for r, info in pairs])

    def start_weight_update(self) -> None:
        self._each("start", [receiver.start_weight_update for receiver in self.receivers])

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self._each("update", [partial(receiver.update_weights, update_info) for receiver in self.receivers])

    def finish_weight_update(self, policy_version: int) -> None:
        self._each(f"finish {policy_version}", [receiver.finish_weight_update for receiver in self.receivers])


def make_sender(source: Any, client: Any, *, timeout_s: float = 20.0, bucket_bytes: int = 64) -> GlooSender:
    return GlooSender(source, client, rank=0, address=LOCALHOST, timeout_s=timeout_s, bucket_bytes=bucket_bytes)


def spec(name: str, dtype: torch.dtype, *shape: int) -> ParameterSpec:
    return ParameterSpec(name, dtype, shape)


def test_buckets_keep_the_order_and_split_on_size_and_dtype() -> None:
    specs = [
        spec("a", torch.float32, 2),
        spec("b", torch.float32, 2),
        spec("c", torch.float32, 1),
        spec("d", torch.bfloat16, 1),
        spec("huge", torch.bfloat16, 100),
        spec("e", torch.bfloat16, 1),
    ]
    buckets = cut_buckets(specs, bucket_bytes=16)
    assert [[s.name for s in bucket] for bucket in buckets] == [["a", "b"], ["c"], ["d"], ["huge"], ["e"]]


def test_the_first_worker_starts_at_rank_one() -> None:
    assert rank_offsets([2, 1, 4]) == [1, 3, 4]


@pytest.mark.parametrize("num_receivers", [1, 3])
@pytest.mark.parametrize("bucket_bytes", [8, 64, 1 << 20])
def test_every_receiver_gets_the_weights_of_every_send(num_receivers: int, bucket_bytes: int) -> None:
    learner = Model(seed=0)
    engines = [Model(seed=1 + n) for n in range(num_receivers)]
    client = Receivers([ModuleWeightReceiver(engine, "cpu") for engine in engines])
    sender = make_sender(ModuleWeightSource(learner), client, bucket_bytes=bucket_bytes)
    sender.connect()
    for version in (1, 2):
        with torch.no_grad():
            for parameter in learner.parameters():
                parameter.add_(version)
        sender.send(version)
        for engine in engines:
            for name, parameter in engine.named_parameters():
                assert torch.equal(parameter, learner.get_parameter(name))
    sender.close()
    sender.close()
    once = ["pause", "start", "update", "finish 1", "resume"]
    assert client.calls == ["init", *once, *(call.replace("1", "2") for call in once)]


def test_weights_are_cast_before_they_travel() -> None:
    learner, engine = Model(seed=0), Model(seed=1, dtype=torch.bfloat16)
    source = ModuleWeightSource(learner, dtype=torch.bfloat16)
    assert {s.dtype for s in source.specs()} == {torch.bfloat16}
    sender = make_sender(source, Receivers([ModuleWeightReceiver(engine, "cpu")]))
    sender.connect()
    sender.send(1)
    for name, parameter in engine.named_parameters():
        assert torch.equal(parameter, learner.get_parameter(name).bfloat16())


def test_other_learner_ranks_only_walk_the_source() -> None:
    walked: list[str] = []

    class Source(ModuleWeightSource):
        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            for name, weight in super().__iter__():
                walked.append(name)
                yield name, weight

    client = Receivers([])
    sender = GlooSender(Source(Model(seed=0)), client, rank=1, address=LOCALHOST, timeout_s=1.0)
    sender.connect()
    sender.send(1)
    assert walked == ["a", "b", "big", "scalar", "c"]
    assert client.calls == []


def test_a_worker_that_never_joins_is_named_as_such() -> None:
    class Absent(Receivers):
        def init_weight_transfer_engine(self, init_infos: Sequence[dict[str, Any]]) -> None:
            pass

    absent = Absent([ModuleWeightReceiver(Model(seed=1), "cpu")])
    sender = make_sender(ModuleWeightSource(Model(seed=0)), absent, timeout_s=0.5)
    with pytest.raises(WeightSyncError, match="rollout worker is alive"):
        sender.connect()


def test_a_worker_that_fails_to_join_gives_its_reason() -> None:
    class Broken(Receivers):
        def init_weight_transfer_engine(self, init_infos: Sequence[dict[str, Any]]) -> None:
            raise RuntimeError("out of memory")

    broken = Broken([ModuleWeightReceiver(Model(seed=1), "cpu")])
    sender = make_sender(ModuleWeightSource(Model(seed=0)), broken, timeout_s=0.5)
    with pytest.raises(WeightSyncError, match="out of memory"):
        sender.connect()


def test_a_learner_that_is_not_there_is_named_as_such() -> None:
    with pytest.raises(WeightSyncError, match="check that the learner is alive"):
        connect_store(LOCALHOST, 1, timeout_s=0.5)


def test_a_worker_that_dies_during_the_transfer_ends_it_long_before_the_timeout() -> None:
    class Dying(Receivers):
        def update_weights(self, update_info: dict[str, Any]) -> None:
            raise RuntimeError("worker died")

    client = Dying([ModuleWeightReceiver(Model(seed=1), "cpu")])
    sender = make_sender(ModuleWeightSource(Model(seed=0)), client, timeout_s=60.0)
    sender.connect()
    start = time.perf_counter()
    with pytest.raises(WeightSyncError, match="worker died"):
        sender.send(1)
    assert time.perf_counter() - start < 10.0
    assert "resume" not in client.calls


def test_a_failed_send_still_walks_the_whole_source() -> None:
    walked: list[str] = []

    class Source(ModuleWeightSource):
        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            for name, weight in super().__iter__():
                walked.append(name)
                yield name, weight

    class Dying(Receivers):
        def start_weight_update(self) -> None:
            raise WeightSyncError("worker died")

    sender = make_sender(Source(Model(seed=0)), Dying([ModuleWeightReceiver(Model(seed=1), "cpu")]))
    sender.connect()
    with pytest.raises(WeightSyncError, match="worker died"):
        sender.send(1)
    assert walked == ["a", "b", "big", "scalar", "c"]


def test_a_sender_that_falls_silent_is_noticed_by_the_receiver() -> None:
    receiver = ModuleWeightReceiver(Model(seed=1), "cpu")
    client = Receivers([receiver])
    source = ModuleWeightSource(Model(seed=0))
    sender = make_sender(source, client, timeout_s=1.0)
    sender.connect()
    names = ["a"]
    receiver.start_weight_update()
    with pytest.raises(WeightSyncError, match="did not arrive"):
        receiver.update_weights({"names": names, "dtype_names": ["float32"], "shapes": [[3, 4]], "bucket_bytes": 64})


def test_a_source_that_breaks_its_word_is_refused() -> None:
    class Liar(ModuleWeightSource):
        def specs(self) -> list[ParameterSpec]:
            return [spec("z", torch.float32, 3, 4), *super().specs()[1:]]

    sender = make_sender(Liar(Model(seed=0)), Receivers([ModuleWeightReceiver(Model(seed=1), "cpu")]), timeout_s=2.0)
    sender.connect()
    with pytest.raises(WeightSyncError, match="announce"):
        sender.send(1)


def test_another_model_is_refused_by_name() -> None:
    class Other(Model):
        def __init__(self) -> None:
            super().__init__(seed=0)
            self.c = nn.Parameter(torch.zeros(2, 2))

    sender = make_sender(ModuleWeightSource(Other()), Receivers([ModuleWeightReceiver(Model(seed=1), "cpu")]))
    sender.connect()
    with pytest.raises(WeightSyncError, match=r"c \(2, 2\)"):
        sender.send(1)


def test_a_parameter_that_did_not_come_is_missed() -> None:
    receiver = ModuleWeightReceiver(Model(seed=1), "cpu")
    receiver.start_weight_update()
    with pytest.raises(WeightSyncError, match="5 parameters were not sent"):
        receiver.finish_weight_update()


def test_no_thread_is_left_after_close() -> None:
    before = threading.active_count()
    sender = make_sender(ModuleWeightSource(Model(seed=0)), Receivers([ModuleWeightReceiver(Model(seed=1), "cpu")]))
    sender.connect()
    sender.close()
    deadline = time.monotonic() + 5.0
    while threading.active_count() > before and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert threading.active_count() == before
