"""vLLM's CPU worker with per-request seeds that survive chunked prefill; loaded by name inside vLLM's processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.cpu_worker import CPUWorker


class SeededCpuModelRunner(CPUModelRunner):  # type: ignore[misc]
    """Samples nothing from the generators of requests whose prompt is not yet through.

    vLLM 0.32 samples a token for such a request, drops it, and rewinds its generator by offset. CPU generators have
    no offset, so a seeded request whose prefill is cut in two would end the engine. Without its generator the token
    to be dropped comes from the global one, and the request's own sequence of draws no longer depends on the cuts.
    """

    _held_back: dict[int, torch.Generator]

    def _sample(self, *args: Any, **kwargs: Any) -> Any:
        generators = self.input_batch.generators
        unfinished = np.nonzero(self.discard_request_mask.np[: self.input_batch.num_reqs])[0].tolist()
        self._held_back = {index: generators.pop(index) for index in unfinished if index in generators}
        return super()._sample(*args, **kwargs)

    def _bookkeeping_sync(self, *args: Any, **kwargs: Any) -> Any:
        outcome = super()._bookkeeping_sync(*args, **kwargs)
        self.input_batch.generators.update(self._held_back)
        return outcome


class SeededCpuWorker(CPUWorker):  # type: ignore[misc]
    """A CPU worker with that model runner."""

    def init_device(self) -> None:
        """Set up the device as vLLM does, then take the other model runner."""
        super().init_device()
        self.model_runner.__class__ = SeededCpuModelRunner
