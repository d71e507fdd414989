"""The receiving end of a gloo weight sync inside a vLLM worker process.

Same lifecycle as vLLM's NCCL engine: layerwise reload around `load_weights`. vLLM finds it through `vllm_plugin.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from r1ray.weights.gloo import GlooGroup, GlooInitInfo, GlooUpdateInfo, connect_store, receive


@dataclass
class VllmGlooInitInfo(WeightTransferInitInfo):  # type: ignore[misc]
    """`GlooInitInfo` in the base class that vLLM wants."""

    address: str
    port: int
    rank_offset: int
    world_size: int
    timeout_s: float


@dataclass
class VllmGlooUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """`GlooUpdateInfo` in the base class that vLLM wants."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    bucket_bytes: int


class GlooWeightTransferEngine(WeightTransferEngine[VllmGlooInitInfo, VllmGlooUpdateInfo]):  # type: ignore[misc]
    """Receives checkpoint-format weights by broadcast and loads them into the worker's model."""

    init_info_cls = VllmGlooInitInfo
    update_info_cls = VllmGlooUpdateInfo

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what vLLM gives every engine."""
        super().__init__(*args, **kwargs)
        self._group: GlooGroup | None = None

    def init_transfer_engine(self, init_info: VllmGlooInitInfo) -> None:
        """Join the transfer group as this worker's rank."""
        info = GlooInitInfo(**vars(init_info))
        parallel = self.parallel_config
        rank = info.rank_offset + parallel.data_parallel_index * parallel.world_size + parallel.rank
        store = connect_store(info.address, info.port, timeout_s=info.timeout_s)
        self._group = GlooGroup.join(store, rank=rank, world_size=info.world_size, timeout_s=info.timeout_s)

    def start_weight_update(self) -> None:
        """Bring the layers back to the form that checkpoints load into."""
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: VllmGlooUpdateInfo) -> None:
        """Receive and load."""
        assert self._group is not None, "init_weight_transfer_engine comes before update_weights"
        info = GlooUpdateInfo(**vars(update_info))
        weights = receive(self._group, info.specs(), bucket_bytes=info.bucket_bytes)
        try:
            self.model.load_weights((name, weight.to(self.device)) for name, weight in weights)
        except BaseException:
            # Half-loaded layers would take the next update for the rest of this one.
            finalize_layerwise_reload(self.model, self.model_config)
            raise

    def finish_weight_update(self) -> None:
        """Pack the layers again for computing."""
        finalize_layerwise_reload(self.model, self.model_config)
        # vLLM 0.32 reloads layers, and a tied LM head is none: on CPU its packed weights stay those of the old
        # embedding, so that the new policy would sample with the old head.
        head = getattr(self.model, "lm_head", None)
        if head is not None and hasattr(head, "cpu_linear"):
            dispatch_cpu_unquantized_gemm(head, remove_weight=False)

    def shutdown(self) -> None:
        """Leave the group."""
        self._group = None
