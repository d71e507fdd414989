"""Weight sync over NCCL and CUDA IPC: vLLM's own trainer engines behind our `WeightSender`.

NCCL for rollout and learner on separate GPUs: rank 0 broadcasts packed buffers to every engine rank. CUDA IPC for the
same GPUs: every learner rank opens its memory to the engine rank on its GPU. Both walk the source in step on all
learner ranks. vLLM's engines know one vLLM deployment behind one client; `_Fleet` makes several workers look like it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
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
    """`WeightSender` over one of vLLM's trainer engines; the subclasses name the engine."""

    def __init__(
        self, source: WeightSource, client: WeightSyncClient, init_info: TrainerInitInfo, *, timeout_s: float
    ) -> None:
        """Take what to send and to whom.

        Args:
            source: yields tensors in the rollout dtype.
            client: called on rank 0 only.
            init_info: chooses the engine.
            timeout_s: for joining, and for a whole transfer.
        """
        self._source = _CheckpointSource(source)
        self._client = client
        self._init_info = init_info
        self._timeout_s = timeout_s
        self._fleet = _Fleet(client)
        self._engine: Any = None

    def connect(self) -> None:
        """Meet the engines; every learner rank calls this."""
        self._engine = self._in_time(self._open, "joining")

    def send(self, policy_version: int) -> None:
        """Replace the engines' weights; see `WeightSender.send`."""
        assert self._engine is not None, "connect() comes before send()"
        self._fleet.policy_version = policy_version
        self._in_time(self._transfer, f"sending version {policy_version}")

    def close(self) -> None:
        """Leave the group."""
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None

    def _open(self) -> Any:
        return WeightTransferTrainerFactory.trainer_init(self._init_info, client=self._fleet, source=self._source)

    def _transfer(self) -> None:
        try:
            if self._init_info.is_sender:
                self._client.pause()
            # Start, transfer and finish; the calls to the workers inside are made on rank 0 only.
            self._engine.send_weights()
        finally:
            # Other learner ranks walk the whole source, whatever happened here.
            self._source.finish_walk()
        if self._init_info.is_sender:
            self._client.resume()

    def _in_time(self, work: Callable[[], Any], what: str) -> Any:
        """Do the work in a thread: NCCL calls have no deadline, and one that hangs cannot be called back."""
        device = torch.cuda.current_device()
        outcome: Future[Any] = Future()

        def run() -> None:
            torch.cuda.set_device(device)
            try:
                outcome.set_result(work())
            except BaseException as error:
                outcome.set_exception(error)

        threading.Thread(target=run, name="weight-sync", daemon=True).start()
        try:
            return outcome.result(self._timeout_s)
        except WeightSyncError:
            raise
        except TimeoutError as error:
            raise WeightSyncError(
                f"{self._init_info.backend} weight transfer: {what} took longer than sync.timeout_s="
                f"{self._timeout_s:g}: check that every rollout worker is alive and on the learner's network "
                "(NCCL_SOCKET_IFNAME)"
            ) from error
        except Exception as error:
            raise WeightSyncError(f"{self._init_info.backend} weight transfer: {what} failed: {error}") from error


class NcclSender(VllmSender):
    """Sends to engines on other GPUs."""

    def __init__(
        self, source: WeightSource, client: WeightSyncClient, *, rank: int, address: str, timeout_s: float
    ) -> None:
        """Take what to send and to whom.

        Args:
            source: yields tensors in the rollout dtype.
            client: called on rank 0 only.
            rank: of this learner process; 0 sends.
            address: where rollout nodes reach rank 0.
            timeout_s: for joining, and for a whole transfer.
        """
        info = NCCLTrainerInitInfo(
            master_address=address,
            master_port=_free_port() if rank == 0 else 0,
            world_size=1 + sum(client.ranks_per_worker),
            packed=True,
            rank=rank,
        )
        super().__init__(source, client, info, timeout_s=timeout_s)


class IpcSender(VllmSender):
    """Sends to engines on the learner's own GPUs.

    Handles are gathered over the default process group, which must hold one learner process per rollout GPU.
    """

    def __init__(
        self, source: WeightSource, client: WeightSyncClient, *, rank: int, address: str, timeout_s: float
    ) -> None:
        """Take what to send and to whom; `address` is there for symmetry, since handles travel with the client."""
        super().__init__(source, client, IPCTrainerInitInfo(packed=True, rank=rank), timeout_s=timeout_s)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


class _Fleet:
    """vLLM's view of the rollout workers: one client that takes one payload."""

    def __init__(self, client: WeightSyncClient) -> None:
        """Take the real client."""
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
    """A source as vLLM's engines want it, one walk at a time."""

    def __init__(self, source: WeightSource) -> None:
        """Take a source of ours."""
        self._source = source
        self._walk: Iterator[tuple[str, Tensor]] | None = None

    def metadata(self) -> list[ParamMeta]:
        """Describe the parameters."""
        return [ParamMeta(spec.name, spec.dtype, spec.shape) for spec in self._source.specs()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Yield CUDA tensors: the packing kernels read device memory, wherever the master weights are."""
        self._walk = iter(self._source)
        for name, weight in self._walk:
            yield name, weight.to(torch.device("cuda", torch.cuda.current_device()))

    def finish_walk(self) -> None:
        """Walk to the end, from the start where nobody has begun."""
        for _ in self._walk if self._walk is not None else self._source:
            pass
        self._walk = None
