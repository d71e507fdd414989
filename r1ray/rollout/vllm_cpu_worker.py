"""vLLM's CPU worker with per-request seeds that hold; loaded by name inside vLLM's processes.

vLLM 0.32 gives a seeded request a generator, and where a prompt is prefilled in pieces samples a token too many and
rewinds the generator by offset. CPU generators have no offset, so there the engine ends. Here the noise of a token is
a function of its request's seed and its position and nothing else: no state to rewind, no dependence on how prompts
were cut or requests preempted, and one array operation a step instead of a generator call per request.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.cpu_worker import CPUWorker

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class SeededCpuWorker(CPUWorker):  # type: ignore[misc]
    """A CPU worker with the model runner below."""

    def init_device(self) -> None:
        """Set up as vLLM does; the runner has the same state, and other methods."""
        super().init_device()
        self.model_runner.__class__ = SeededCpuModelRunner
        self.model_runner.sampler.topk_topp_sampler.forward = self.model_runner.sample_seeded


class SeededCpuModelRunner(CPUModelRunner):  # type: ignore[misc]
    """Samples by seed and position."""

    def _sample(self, *args: Any, **kwargs: Any) -> Any:
        # The dictionary is the one that the sampler sees: without generators nothing draws from or rewinds them.
        self.input_batch.generators.clear()
        return super()._sample(*args, **kwargs)

    def sample_seeded(
        self, logits: Tensor, generators: dict[int, torch.Generator], k: Tensor | None, p: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Replace `TopKTopPSampler.forward`.

        Args:
            logits: [B, V] after temperature.
            generators: empty.
            k: [B] or None.
            p: [B] or None.

        Returns:
            [B] sampled ids and [B, V] log-probabilities of the distribution they come from.
        """
        logits = apply_top_k_top_p(logits, k, p)
        noise = torch.from_numpy(noise_seeds(*self._seeds_and_positions(len(logits))))
        return torch.ops._C.fused_gumbel_argmax(logits, noise), logits.log_softmax(dim=-1)

    def _seeds_and_positions(self, rows: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        batch = self.input_batch
        if len(batch.req_ids) != rows:
            # The warm-up before compilation samples for requests that do not exist.
            return np.zeros(rows, dtype=np.uint64), np.zeros(rows, dtype=np.uint64)
        seeds = np.array([self.requests[name].sampling_params.seed or 0 for name in batch.req_ids], dtype=np.int64)
        return seeds.view(np.uint64), batch.num_tokens_no_spec[:rows].astype(np.uint64)


def noise_seeds(seeds: npt.NDArray[np.uint64], positions: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return [B] non-negative seeds, one per (request seed, position), without visible relation to their neighbours.

    Source: SplitMix64, Steele et al. 2014, doi:10.1145/2660193.2660195.
    """
    return (_mix(_mix(seeds) + positions) >> np.uint64(1)).view(np.int64)


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    state = state + _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
