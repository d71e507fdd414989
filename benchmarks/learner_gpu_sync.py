"""Weight sync over CUDA IPC into another process, timed; a part of learner_gpu.py."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
import torch.multiprocessing as mp

from r1ray.weights.module_receiver import ModuleWeightReceiver
from r1ray.weights.source import ModuleWeightSource

TIMEOUT_S = 120.0
ROUNDS = 5


def load(path: str) -> Any:
    """Return the model on the GPU in bfloat16."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).cuda()


def receive(path: str, inbox: Any, outbox: Any) -> None:
    """Take weights as a rollout engine does; a process of its own, since CUDA opens no handle where it was made."""
    model = load(path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    receiver = ModuleWeightReceiver(model, "cuda")
    outbox.put(None)
    while (call := inbox.get(timeout=TIMEOUT_S)) is not None:
        verb, payload = call
        try:
            getattr(receiver, verb)(*payload)
            outbox.put(None)
        except Exception as error:
            outbox.put(repr(error))
    outbox.put(float(sum(p.double().abs().sum() for p in model.parameters())))


class ProcessClient:
    """A `WeightSyncClient` over one such process."""

    ranks_per_worker: Sequence[int] = (1,)

    def __init__(self, inbox: Any, outbox: Any) -> None:
        self._inbox, self._outbox = inbox, outbox

    def _call(self, verb: str, *payload: Any) -> None:
        self._inbox.put((verb, payload))
        error = self._outbox.get(timeout=TIMEOUT_S)
        if error is not None:
            raise RuntimeError(error)

    def pause(self) -> None:
        """Nothing generates here."""

    def resume(self) -> None:
        """Nothing generates here."""

    def init_weight_transfer_engine(self, init_infos: Sequence[dict[str, Any]]) -> None:
        """Pass on."""
        self._call("init_weight_transfer_engine", init_infos[0])

    def start_weight_update(self) -> None:
        """Pass on."""
        self._call("start_weight_update")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Pass on."""
        self._call("update_weights", update_info)

    def finish_weight_update(self, policy_version: int) -> None:
        """Pass on."""
        self._call("finish_weight_update")


def time_sync(path: str) -> dict[str, Any]:
    """Send the model several times and return seconds and GB/s of weights; says why where it cannot."""
    try:
        from r1ray.weights.vllm_senders import IpcSender
    except ImportError as error:
        return {"skipped": f"vLLM is not here: {error}"}
    context = mp.get_context("spawn")
    inbox, outbox = context.Queue(), context.Queue()
    process = context.Process(target=receive, args=(path, inbox, outbox), daemon=True)
    process.start()
    model = load(path)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    outbox.get(timeout=TIMEOUT_S)
    sender = IpcSender(
        ModuleWeightSource(model), ProcessClient(inbox, outbox), rank=0, address="127.0.0.1", timeout_s=TIMEOUT_S
    )
    sender.connect()
    seconds = []
    for version in range(ROUNDS):
        torch.cuda.synchronize()
        began = time.perf_counter()
        sender.send(version)
        seconds.append(time.perf_counter() - began)
    sender.close()
    inbox.put(None)
    arrived = outbox.get(timeout=TIMEOUT_S)
    process.join(TIMEOUT_S)
    sent = float(sum(p.double().abs().sum() for p in model.parameters()))
    return {
        "weights_gb": size / 1e9,
        "seconds": seconds,
        "gb_per_s": size / 1e9 / median(seconds[1:]),
        "arrived_equal": abs(arrived - sent) <= 1e-9 * sent,
    }
