"""The receiving end of a weight sync for a plain module, as the `transformers` engine holds it.

Speaks the same verbs and payloads as vLLM's workers, so that a sender need not know which engine listens: gloo with
torch alone, staged through CPU memory; CUDA IPC with torch alone; NCCL through vLLM's communicator.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import rebuild_cuda_tensor

from r1ray.errors import WeightSyncError
from r1ray.weights.gloo import GlooGroup, GlooInitInfo, GlooUpdateInfo, connect_store, receive


class ModuleWeightReceiver:
    """Copies incoming weights into a module's parameters, by name; blocking, so call it from a thread."""

    def __init__(self, module: nn.Module, device: torch.device | str) -> None:
        """Take the module and the device that its parameters are on."""
        self._parameters = dict(module.named_parameters())
        self._device = torch.device(device)
        self._missing: set[str] = set()
        self._gloo: GlooGroup | None = None
        self._nccl: Any = None
        self._nccl_info: dict[str, Any] = {}

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Join the sender; the payload tells its backend.

        Raises:
            WeightSyncError: the sender was not reached, or its backend is not available here.
        """
        if "address" in init_info:
            info = GlooInitInfo(**init_info)
            store = connect_store(info.address, info.port, timeout_s=info.timeout_s)
            self._gloo = GlooGroup.join(
                store, rank=info.rank_offset, world_size=info.world_size, timeout_s=info.timeout_s
            )
        elif "master_address" in init_info:
            self._nccl_info = init_info
            self._nccl = self._join_nccl(init_info)

    def start_weight_update(self) -> None:
        """Begin an update."""
        self._missing = set(self._parameters)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive what `update_info` describes and copy it in."""
        if "ipc_handles" in update_info:
            self._load(self._open_ipc(update_info))
        elif self._gloo is not None:
            info = GlooUpdateInfo(**update_info)
            self._load(receive(self._gloo, info.specs(), bucket_bytes=info.bucket_bytes))
        else:
            assert self._nccl is not None, "init_weight_transfer_engine comes before update"
            self._receive_nccl(update_info)
        if self._device.type == "cuda":
            # The sender may reuse its memory as soon as this call returns.
            torch.cuda.synchronize(self._device)

    def finish_weight_update(self) -> None:
        """End the update.

        Raises:
            WeightSyncError: a parameter did not come.
        """
        if self._missing:
            raise WeightSyncError(
                f"{len(self._missing)} parameters were not sent, first {min(self._missing)}: learner and rollout must "
                "load the same model"
            )

    @torch.no_grad()
    def _load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        for name, weight in weights:
            parameter = self._parameters.get(name)
            if parameter is None or parameter.shape != weight.shape:
                have = "no such parameter" if parameter is None else f"shape {tuple(parameter.shape)}"
                raise WeightSyncError(
                    f"the learner sends {name} {tuple(weight.shape)}, the rollout model has {have}: both must load "
                    "the same model"
                )
            parameter.copy_(weight)
            self._missing.discard(name)

    def _open_ipc(self, update_info: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
        """Map the sender's CUDA memory: one handle per parameter, or one for a packed buffer of bytes."""
        handles = update_info["ipc_handles"]
        names, shapes = update_info["names"], update_info["shapes"]
        if isinstance(handles, list):
            for name, handle in zip(names, handles, strict=True):
                yield name, self._open_handle(handle)
            return
        sizes = update_info["tensor_sizes"]
        dtypes = [getattr(torch, dtype_name) for dtype_name in update_info["dtype_names"]]
        parts = torch.split(self._open_handle(handles)[: sum(sizes)], sizes)
        for name, part, dtype, shape in zip(names, parts, dtypes, shapes, strict=True):
            yield name, part.view(dtype).view(shape)

    def _open_handle(self, handle: dict[str, tuple[Any, ...]]) -> Tensor:
        uuid = str(torch.cuda.get_device_properties(self._device).uuid)
        if uuid not in handle:
            raise WeightSyncError(
                f"the learner has no process on GPU {uuid}, only on {', '.join(handle)}: CUDA IPC needs a learner "
                "process on every rollout GPU (cluster.placement=colocated)"
            )
        arguments = list(handle[uuid])
        # Argument 6 is the device index, which differs where the processes see different GPUs.
        arguments[6] = torch.device("cuda", torch.cuda.current_device()).index
        opened: Tensor = rebuild_cuda_tensor(*arguments)  # type: ignore[no-untyped-call]
        return opened

    def _join_nccl(self, init_info: dict[str, Any]) -> Any:
        try:
            from vllm.distributed.weight_transfer.nccl_common import stateless_init_process_group
        except ImportError as error:
            raise WeightSyncError(
                "sync.backend=nccl needs vLLM in the rollout worker's environment: install vllm, or use "
                "sync.backend=gloo"
            ) from error
        return stateless_init_process_group(
            init_info["master_address"],
            init_info["master_port"],
            init_info["rank_offset"],
            init_info["world_size"],
            device=self._device,
        )

    def _receive_nccl(self, update_info: dict[str, Any]) -> None:
        from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_consumer

        info = self._nccl_info
        announced = [
            (name, (shape, getattr(torch, dtype_name)))
            for name, dtype_name, shape in zip(
                update_info["names"], update_info["dtype_names"], update_info["shapes"], strict=True
            )
        ]
        packed_nccl_broadcast_consumer(
            iterator=iter(announced),
            group=self._nccl,
            src=0,
            post_unpack_func=self._load,
            buffer_size_bytes=info["packed_buffer_size_bytes"],
            num_buffers=info["packed_num_buffers"],
            device=self._device,
        )
