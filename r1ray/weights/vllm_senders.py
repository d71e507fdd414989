"""Weight sync over NCCL and CUDA IPC: vLLM's own trainer engines behind our `WeightSender`.

NCCL for rollout and learner on separate GPUs: rank 0 broadcasts packed buffers to every engine rank. CUDA IPC for the
same GPUs: every learner rank opens its memory to the engine rank on its GPU. Both walk the source in step on all learner
ranks. vLLM's engines know one vLLM deployment behind one client; `_Fleet` makes several rollout workers look like it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.base import ParamMeta, TrainerInitInfo
from vllm.distributed.weight_transfer.base import WeightSource as VllmWeightSource
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

from r1ray.errors import WeightSyncError
from r1ray.weights.protocol import WeightSource, WeightSyncClient, rank_offsets


class VllmSender:
    """`WeightSender` over one of vLLM's trainer engines; make it with `nccl_sender` or `ipc_sender`."""

    def __init__(self, source: WeightSource, client: WeightSyncClient, init_info: TrainerInitInfo) -> None:
        self._source = source
        self._client = client
        self._init_info = init_info
        self._fleet = _Fleet(client)
        self._engine: Any = None

    def connect(self) -> None:
        """Meet the engines; every learner rank calls this."""
        try:
            self._engine = WeightTransferTrainerFactory.trainer_init(
                self._init_info, client=self._fleet, source=_CheckpointSource(self._source)
            )
        except (RuntimeError, ValueError, TimeoutError) as error:
            raise WeightSyncError(
                f"{self._init_info.backend} weight transfer: the rollout engines were not reached: check that every "
                f"rollout worker is alive and on the network of the learner (NCCL_SOCKET_IFNAME) ({error})"
            ) from error

    def send(self, policy_version: int) -> None:
        """Replace the engines' weights; see `WeightSender.send`."""
        assert self._engine is not None, "connect() comes before send()"
        self._fleet.policy_version = policy_version
        try:
            if self._init_info.is_sender:
                self._client.pause()
            # Start, transfer and finish; the calls to the workers inside are made on rank 0 only.
            self._engine.send_weights()
            if self._init_info.is_sender:
                self._client.resume()
        except WeightSyncError:
            raise
        except (RuntimeError, ValueError, TimeoutError) as error:
            raise WeightSyncError(
                f"{self._init_info.backend} weight transfer of version {policy_version} stopped: {error}"
            ) from error

    def close(self) -> None:
        """Leave the group."""
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None


def nccl_sender(source: WeightSource, client: WeightSyncClient, *, rank: int, address: str, port: int) -> VllmSender:
    """Return a sender for engines on other GPUs.

    Args:
        source: yields CUDA tensors in the rollout dtype.
        client: called on rank 0 only.
        rank: of this learner process; 0 sends.
        address: where rollout nodes reach learner rank 0.
        port: free there.
    """
    world_size = 1 + (sum(client.ranks_per_worker) if rank == 0 else 0)
    info = NCCLTrainerInitInfo(master_address=address, master_port=port, world_size=world_size, packed=True, rank=rank)
    return VllmSender(source, client, info)


def ipc_sender(source: WeightSource, client: WeightSyncClient, *, rank: int) -> VllmSender:
    """Return a sender for engines on the learner's GPUs.

    Handles are gathered over the default process group, which must hold one learner process per rollout GPU.

    Args:
        source: yields CUDA tensors in the rollout dtype.
        client: called on rank 0 only.
        rank: of this learner process.
    """
    return VllmSender(source, client, IPCTrainerInitInfo(packed=True, rank=rank))


class _Fleet:
    """vLLM's view of the rollout workers: one client that takes one payload."""

    def __init__(self, client: WeightSyncClient) -> None:
        self._client = client
        self.policy_version = 0

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Give each worker its own ranks: vLLM counts them from 1 for a single deployment."""
        offsets = rank_offsets(self._client.ranks_per_worker)
        infos = [init_info | ({"rank_offset": offset} if "rank_offset" in init_info else {}) for offset in offsets]
        self._client.init_weight_transfer_engine(infos)

    def start_weight_update(self) -> None:
        """Pass on."""
        self._client.start_weight_update()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Pass on; IPC handles are keyed by GPU, so every worker finds its own among all."""
        self._client.update_weights(update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Stamp what `send` is sending; vLLM's engines pass no version."""
        self._client.finish_weight_update(self.policy_version)


class _CheckpointSource(VllmWeightSource):  # type: ignore[misc]
    """A source as vLLM's engines want it."""

    def __init__(self, source: WeightSource) -> None:
        self._source = source

    def metadata(self) -> list[ParamMeta]:
        """Describe the parameters."""
        return [ParamMeta(spec.name, spec.dtype, spec.shape) for spec in self._source.specs()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Yield CUDA tensors: the packing kernels read device memory, wherever the master weights are."""
        for name, weight in self._source:
            yield name, weight.to(torch.device("cuda", torch.cuda.current_device()))
