"""Picks the sender for a backend; the vLLM ones are imported only where they are used."""

from __future__ import annotations

from r1ray.weights.gloo import GlooSender
from r1ray.weights.protocol import WeightSender, WeightSource, WeightSyncClient


def open_sender(
    backend: str, source: WeightSource, client: WeightSyncClient, *, rank: int, address: str, timeout_s: float
) -> WeightSender:
    """Return the sender of `sync.backend`: `gloo`, `nccl` or `ipc`.

    Args:
        backend: how the bytes move.
        source: what to send.
        client: the rollout workers; called on rank 0 only.
        rank: of this learner process.
        address: where rollout nodes reach rank 0.
        timeout_s: deadline of joining and of every buffer.
    """
    if backend == "gloo":
        return GlooSender(source, client, rank=rank, address=address, timeout_s=timeout_s)
    from r1ray.weights.vllm_senders import IpcSender, NcclSender

    kind = NcclSender if backend == "nccl" else IpcSender
    return kind(source, client, rank=rank, address=address, timeout_s=timeout_s)
