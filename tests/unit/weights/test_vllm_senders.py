from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from r1ray.errors import WeightSyncError
from r1ray.weights.source import ModuleWeightSource

pytest.importorskip("vllm")

pytestmark = [
    # Raised while vLLM imports torch's and its own modules.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:vllm"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning"),
]


class Recorder:
    """A `WeightSyncClient` that writes down what it is told."""

    def __init__(self, ranks_per_worker: Sequence[int]) -> None:
        self.ranks_per_worker = ranks_per_worker
        self.calls: list[tuple[str, Any]] = []

    def pause(self) -> None:
        self.calls.append(("pause", None))

    def resume(self) -> None:
        self.calls.append(("resume", None))

    def init_weight_transfer_engine(self, init_infos: Sequence[dict[str, Any]]) -> None:
        self.calls.append(("init", list(init_infos)))

    def start_weight_update(self) -> None:
        self.calls.append(("start", None))

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.calls.append(("update", update_info))

    def finish_weight_update(self, policy_version: int) -> None:
        self.calls.append(("finish", policy_version))


class FakeTrainerEngine:
    """What vLLM's trainer engines do with their client, without a GPU."""

    def __init__(self, init_info: Any, client: Any, source: Any) -> None:
        self.client, self.source = client, source
        client.init_weight_transfer_engine({"rank_offset": 1, "world_size": init_info.world_size})

    def send_weights(self) -> None:
        self.client.start_weight_update()
        self.client.update_weights({"names": [meta.name for meta in self.source.metadata()]})
        self.client.finish_weight_update()

    def shutdown(self) -> None:
        self.client = None


def test_each_worker_gets_its_own_ranks_and_the_version_that_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    from r1ray.weights import vllm_senders

    def trainer_init(init_info: Any, *, client: Any, source: Any) -> FakeTrainerEngine:
        return FakeTrainerEngine(init_info, client, source)

    monkeypatch.setattr("vllm.distributed.weight_transfer.WeightTransferTrainerFactory.trainer_init", trainer_init)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    client = Recorder([2, 2, 1])
    source = ModuleWeightSource(nn.Linear(2, 3), dtype=torch.bfloat16)
    sender = vllm_senders.NcclSender(source, client, rank=0, address="127.0.0.1", timeout_s=20.0)
    sender.connect()
    sender.send(7)
    sender.close()
    infos = [{"rank_offset": offset, "world_size": 6} for offset in (1, 3, 5)]
    assert client.calls == [
        ("init", infos),
        ("pause", None),
        ("start", None),
        ("update", {"names": ["weight", "bias"]}),
        ("finish", 7),
        ("resume", None),
    ]


def test_a_transfer_that_hangs_ends_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    from r1ray.weights import vllm_senders

    released = threading.Event()

    def trainer_init(init_info: Any, *, client: Any, source: Any) -> None:
        released.wait(20.0)

    monkeypatch.setattr("vllm.distributed.weight_transfer.WeightTransferTrainerFactory.trainer_init", trainer_init)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    source = ModuleWeightSource(nn.Linear(2, 3))
    sender = vllm_senders.NcclSender(source, Recorder([1]), rank=0, address="127.0.0.1", timeout_s=0.2)
    with pytest.raises(WeightSyncError, match=r"joining took longer than sync.timeout_s=0\.2"):
        sender.connect()
    released.set()


def test_the_gloo_engine_is_registered_once_and_found_by_name() -> None:
    from vllm.config.weight_transfer import WeightTransferConfig
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    from r1ray.weights.vllm_gloo import GlooWeightTransferEngine
    from r1ray.weights.vllm_plugin import register

    register()
    register()
    assert WeightTransferEngineFactory._registry["gloo"]() is GlooWeightTransferEngine
    assert WeightTransferConfig(backend="gloo").backend == "gloo"
