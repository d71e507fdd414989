"""Weight sync over gloo: one sender, many receivers, CPU memory on both ends. Imports torch only.

The transfer group has rank 0, the sending learner rank, and one rank per rollout engine rank. Parameters travel in
the order of their specs, small ones packed into flat buffers, since on CPU the cost of a broadcast is its latency.
Both ends cut the buffers by the same rule from the same specs, so the bytes need no headers.

Does not load what it receives: see `vllm_gloo.py` and `module_receiver.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import timedelta

import torch
from torch import Tensor
from torch._C._distributed_c10d import BroadcastOptions, PrefixStore, ProcessGroupGloo, Store, TCPStore, Work

from r1ray.errors import WeightSyncError
from r1ray.weights.protocol import ParameterSpec, WeightSource, WeightSyncClient, rank_offsets

BUCKET_BYTES = 64 * 1024 * 1024
_POLL_S = 0.0005


@dataclass(frozen=True, slots=True)
class GlooInitInfo:
    """How a rollout engine joins the group.

    Attributes:
        rank_offset: group rank of the engine's first rank.
        timeout_s: for joining, and for every transfer.
    """

    address: str
    port: int
    rank_offset: int
    world_size: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class GlooUpdateInfo:
    """What the next transfer brings; plain values, since it crosses process boundaries as msgpack."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    bucket_bytes: int

    @classmethod
    def of(cls, specs: Sequence[ParameterSpec], *, bucket_bytes: int) -> GlooUpdateInfo:
        """Describe a transfer of these parameters."""
        return cls(
            names=[spec.name for spec in specs],
            dtype_names=[str(spec.dtype).removeprefix("torch.") for spec in specs],
            shapes=[list(spec.shape) for spec in specs],
            bucket_bytes=bucket_bytes,
        )

    def specs(self) -> list[ParameterSpec]:
        """Return the parameters in their order of travel."""
        return [
            ParameterSpec(name, getattr(torch, dtype_name), tuple(shape))
            for name, dtype_name, shape in zip(self.names, self.dtype_names, self.shapes, strict=True)
        ]


class GlooGroup:
    """A broadcast group with the sender at rank 0."""

    def __init__(self, group: ProcessGroupGloo, store: Store) -> None:
        """Take what `join` made."""
        self._group = group
        # The group's peers rendezvous in the store, which must live as long as the group.
        self._store = store

    @classmethod
    def join(cls, store: Store, *, rank: int, world_size: int, timeout_s: float) -> GlooGroup:
        """Join; blocks until all `world_size` ranks have, or `timeout_s` is over.

        Raises:
            WeightSyncError: not every rank came in time.
        """
        try:
            group = ProcessGroupGloo(PrefixStore("weights", store), rank, world_size, timedelta(seconds=timeout_s))
        except RuntimeError as error:
            raise WeightSyncError(
                f"weight transfer group: rank {rank} did not meet all {world_size} ranks within {timeout_s:g} s: check "
                "that every rollout worker is alive and that learner and rollout nodes reach each other (firewall, "
                f"GLOO_SOCKET_IFNAME) ({error})"
            ) from error
        return cls(group, store)

    def broadcast(self, buffer: Tensor) -> Work:
        """Start sending (rank 0) or filling (the others) a contiguous CPU tensor."""
        work: Work = self._group.broadcast([buffer], BroadcastOptions())  # type: ignore[attr-defined]
        return work


def connect_store(address: str, port: int, *, timeout_s: float) -> TCPStore:
    """Connect to the sender's rendezvous store.

    Raises:
        WeightSyncError: nobody listens there.
    """
    try:
        return TCPStore(address, port, is_master=False, timeout=timedelta(seconds=timeout_s))
    except RuntimeError as error:
        raise WeightSyncError(
            f"weight transfer store at {address}:{port} not reached within {timeout_s:g} s: check that the learner is "
            f"alive and that the rollout node may connect to it (firewall, cluster addresses) ({error})"
        ) from error


def cut_buckets(specs: Sequence[ParameterSpec], *, bucket_bytes: int) -> list[list[ParameterSpec]]:
    """Cut the parameters into runs of one dtype of at most `bucket_bytes` together; a larger one stands alone."""
    buckets: list[list[ParameterSpec]] = []
    room = 0
    for spec in specs:
        if not buckets or spec.num_bytes > room or spec.dtype != buckets[-1][0].dtype:
            buckets.append([])
            room = bucket_bytes
        buckets[-1].append(spec)
        room -= spec.num_bytes
    return buckets


def receive(group: GlooGroup, specs: Sequence[ParameterSpec], *, bucket_bytes: int) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, CPU tensor) as the buffers arrive.

    The tensors are views of buffers that are never reused, so a loader may keep them.

    Raises:
        WeightSyncError: the sender fell silent.
    """
    for bucket in cut_buckets(specs, bucket_bytes=bucket_bytes):
        sizes = [torch.Size(spec.shape).numel() for spec in bucket]
        buffer = torch.empty(sum(sizes), dtype=bucket[0].dtype)
        try:
            group.broadcast(buffer).wait()
        except RuntimeError as error:
            raise WeightSyncError(
                f"weights from {bucket[0].name} on did not arrive: check that the learner is alive ({error})"
            ) from error
        for spec, part in zip(bucket, _split(buffer, sizes), strict=True):
            yield spec.name, part.view(spec.shape)


class GlooSender:
    """`WeightSender` over gloo."""

    def __init__(
        self,
        source: WeightSource,
        client: WeightSyncClient,
        *,
        rank: int,
        address: str,
        timeout_s: float,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        """Take what to send and to whom.

        Args:
            source: yields tensors on any device; its specs fix the dtype on the wire.
            client: called on rank 0 only.
            rank: of this learner process; 0 sends, the others only iterate the source.
            address: where rollout nodes reach this process.
            timeout_s: for joining, and for every buffer.
            bucket_bytes: size of a flat buffer.
        """
        self._source = source
        self._client = client
        self._is_sender = rank == 0
        self._address = address
        self._timeout_s = timeout_s
        self._bucket_bytes = bucket_bytes
        self._group: GlooGroup | None = None
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="weight-sync")

    def connect(self) -> None:
        """Open the rendezvous, let the engines join, and join."""
        if not self._is_sender:
            return
        ranks_per_worker = self._client.ranks_per_worker
        world_size = 1 + sum(ranks_per_worker)
        # Port 0: the system picks a free one.
        store = TCPStore(
            self._address,
            0,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=self._timeout_s),
        )
        infos = [
            asdict(GlooInitInfo(self._address, store.port, offset, world_size, self._timeout_s))
            for offset in rank_offsets(ranks_per_worker)
        ]
        joining = self._threads.submit(self._client.init_weight_transfer_engine, infos)
        try:
            self._group = GlooGroup.join(store, rank=0, world_size=world_size, timeout_s=self._timeout_s)
        except WeightSyncError:
            _raise_if_failed(joining)
            raise
        _result(joining, self._timeout_s)

    def send(self, policy_version: int) -> None:
        """Replace the engines' weights; see `WeightSender.send`."""
        if not self._is_sender:
            for _ in self._source:
                pass
            return
        assert self._group is not None, "connect() comes before send()"
        specs = self._source.specs()
        update = asdict(GlooUpdateInfo.of(specs, bucket_bytes=self._bucket_bytes))
        weights = iter(self._source)
        try:
            self._client.pause()
            self._client.start_weight_update()
            receiving = self._threads.submit(self._client.update_weights, update)
            self._broadcast(self._group, specs, weights, receiving)
            _result(receiving, self._timeout_s)
        finally:
            # Other learner ranks walk the whole source, whatever happened here.
            for _ in weights:
                pass
        self._client.finish_weight_update(policy_version)
        self._client.resume()

    def close(self) -> None:
        """Leave the group."""
        self._group = None
        self._threads.shutdown(wait=False)

    def _broadcast(
        self,
        group: GlooGroup,
        specs: Sequence[ParameterSpec],
        weights: Iterator[tuple[str, Tensor]],
        receiving: Future[None],
    ) -> None:
        in_flight: tuple[Work, Tensor] | None = None
        for bucket in cut_buckets(specs, bucket_bytes=self._bucket_bytes):
            buffer = _pack(bucket, weights)
            if in_flight is not None:
                self._wait(in_flight[0], receiving)
            in_flight = group.broadcast(buffer), buffer
        if in_flight is not None:
            self._wait(in_flight[0], receiving)
        if next(weights, None) is not None:
            raise WeightSyncError("the weight source yields more parameters than its specs() announce")

    def _wait(self, work: Work, receiving: Future[None]) -> None:
        """Wait for a broadcast, but no longer than there is a receiver: a dead one is known at once by its call."""
        while not work.is_completed():
            _raise_if_failed(receiving)
            time.sleep(_POLL_S)
        try:
            work.wait()
        except RuntimeError as error:
            _raise_if_failed(receiving)
            raise WeightSyncError(
                f"sending weights stopped: check that every rollout worker is alive ({error})"
            ) from error


def _pack(bucket: Sequence[ParameterSpec], weights: Iterator[tuple[str, Tensor]]) -> Tensor:
    """Copy the next weights into one flat buffer, which casts them and brings them to the CPU."""
    sizes = [torch.Size(spec.shape).numel() for spec in bucket]
    buffer = torch.empty(sum(sizes), dtype=bucket[0].dtype)
    for spec, part in zip(bucket, _split(buffer, sizes), strict=True):
        name, weight = next(weights, ("nothing", buffer))
        if name != spec.name or tuple(weight.shape) != spec.shape:
            raise WeightSyncError(
                f"the weight source yields {name} {tuple(weight.shape)} where its specs() announce "
                f"{spec.name} {spec.shape}"
            )
        part.view(spec.shape).copy_(weight)
    return buffer


def _split(buffer: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    return torch.split(buffer, sizes)


def _raise_if_failed(call: Future[None]) -> None:
    if call.done() and (error := call.exception()) is not None:
        raise WeightSyncError(f"a rollout worker could not take the weights: {error}") from error


def _result(call: Future[None], timeout_s: float) -> None:
    try:
        call.result(timeout_s)
    except TimeoutError as error:
        raise WeightSyncError(
            f"rollout workers did not answer within {timeout_s:g} s of the transfer: check that they are alive, "
            "or raise sync.timeout_s"
        ) from error
    except Exception:
        _raise_if_failed(call)
        raise
