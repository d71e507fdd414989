"""CUDA IPC weight sync on one GPU, and as much of NCCL as works there: it wants a GPU per rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from r1ray.weights.module_receiver import ModuleWeightReceiver
from r1ray.weights.source import ModuleWeightSource

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # Raised while vLLM imports torch's and its own modules.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:vllm"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning"),
]

TIMEOUT_S = 120.0


def make_model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Embedding(50, 32), nn.Linear(32, 64), nn.Linear(64, 50, bias=False))


def receive_in_another_process(inbox: Any, outbox: Any) -> None:
    """CUDA cannot open a handle in the process that made it, so the receiver is one of its own."""
    model = make_model(seed=1).cuda().bfloat16()
    receiver = ModuleWeightReceiver(model, "cuda")
    while (call := inbox.get(timeout=TIMEOUT_S)) is not None:
        verb, payload = call
        try:
            getattr(receiver, verb)(*payload)
            outbox.put(None)
        except Exception as error:
            outbox.put(repr(error))
    outbox.put({name: parameter.detach().float().cpu().numpy() for name, parameter in model.named_parameters()})


class ProcessClient:
    """A `WeightSyncClient` over one such process."""

    ranks_per_worker: Sequence[int] = (1,)

    def __init__(self, inbox: Any, outbox: Any) -> None:
        self._inbox = inbox
        self._outbox = outbox
        self.versions: list[int] = []

    def _call(self, verb: str, *payload: Any) -> None:
        self._inbox.put((verb, payload))
        error = self._outbox.get(timeout=TIMEOUT_S)
        if error is not None:
            raise RuntimeError(error)

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass

    def init_weight_transfer_engine(self, init_infos: Sequence[dict[str, Any]]) -> None:
        self._call("init_weight_transfer_engine", init_infos[0])

    def start_weight_update(self) -> None:
        self._call("start_weight_update")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self._call("update_weights", update_info)

    def finish_weight_update(self, policy_version: int) -> None:
        self._call("finish_weight_update")
        self.versions.append(policy_version)

    def received(self) -> dict[str, Any]:
        self._inbox.put(None)
        received: dict[str, Any] = self._outbox.get(timeout=TIMEOUT_S)
        return received


@pytest.fixture
def client() -> Iterator[ProcessClient]:
    context = mp.get_context("spawn")
    inbox, outbox = context.Queue(), context.Queue()
    process = context.Process(target=receive_in_another_process, args=(inbox, outbox), daemon=True)
    process.start()
    yield ProcessClient(inbox, outbox)
    inbox.put(None)
    process.join(TIMEOUT_S / 10)
    process.kill()


def test_ipc_brings_every_parameter_of_each_version(client: ProcessClient) -> None:
    pytest.importorskip("vllm")
    from r1ray.weights.vllm_senders import IpcSender

    learner = make_model(seed=0).cuda()
    sender = IpcSender(
        ModuleWeightSource(learner, dtype=torch.bfloat16), client, rank=0, address="127.0.0.1", timeout_s=TIMEOUT_S
    )
    sender.connect()
    for version in (1, 2):
        with torch.no_grad():
            for parameter in learner.parameters():
                parameter.add_(version)
        sender.send(version)
    received = client.received()
    sender.close()
    assert client.versions == [1, 2]
    for name, parameter in learner.named_parameters():
        torch.testing.assert_close(torch.from_numpy(received[name]), parameter.bfloat16().float().cpu(), atol=0, rtol=0)


def test_gloo_brings_cuda_weights_to_a_cuda_receiver(client: ProcessClient) -> None:
    from r1ray.weights.gloo import GlooSender

    learner = make_model(seed=0).cuda()
    source = ModuleWeightSource(learner, dtype=torch.bfloat16)
    sender = GlooSender(source, client, rank=0, address="127.0.0.1", timeout_s=TIMEOUT_S)
    sender.connect()
    sender.send(1)
    received = client.received()
    sender.close()
    for name, parameter in learner.named_parameters():
        torch.testing.assert_close(torch.from_numpy(received[name]), parameter.bfloat16().float().cpu(), atol=0, rtol=0)


def test_nccl_sender_joins_a_group_of_itself_and_walks_the_source() -> None:
    pytest.importorskip("vllm")
    from r1ray.weights.vllm_senders import NcclSender

    class NoWorkers:
        ranks_per_worker: Sequence[int] = ()

        def __init__(self) -> None:
            self.calls: list[str] = []

        def __getattr__(self, name: str) -> Any:
            return lambda *_: self.calls.append(name)

    workers = NoWorkers()
    source = ModuleWeightSource(make_model(seed=0).cuda(), dtype=torch.bfloat16)
    sender = NcclSender(source, workers, rank=0, address="127.0.0.1", timeout_s=TIMEOUT_S)
    sender.connect()
    sender.send(1)
    sender.close()
    assert workers.calls == [
        "init_weight_transfer_engine",
        "pause",
        "start_weight_update",
        "update_weights",
        "finish_weight_update",
        "resume",
    ]
