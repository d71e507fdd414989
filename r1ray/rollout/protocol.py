"""What every rollout engine does.

An engine lives inside one rollout worker process and turns group requests into completions. It does not
know Ray, rewards or the learner. `rollout/vllm_engine.py` and `rollout/transformers_engine.py` implement
it; `tests/integration/test_engine_contract.py` holds both to the same behaviour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from r1ray.types import Completion, GroupRequest


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an engine needs to start; resolved by the driver from the configuration.

    Attributes:
        model_path: local directory in Hugging Face layout (or a hub id).
        dtype: `float32` or `bfloat16`.
        device: `cpu` or `cuda`.
        sync_backend: `gloo`, `nccl` or `ipc`.
        max_model_tokens: longest prompt plus completion.
        cores: CPU cores this worker may use; empty: no restriction.
        fp32_lm_head: multiply by the LM head in float32 whatever `dtype` is, as the learner then does.
    """

    model_path: str
    revision: str | None
    dtype: str
    device: str
    sync_backend: str
    max_model_tokens: int
    max_num_seqs: int
    tensor_parallel: int
    gpu_memory_fraction: float
    cpu_kv_cache_bytes: int
    enforce_eager: bool
    trust_remote_code: bool
    cores: tuple[int, ...]
    worker: str
    fp32_lm_head: bool = False


class RolloutEngine(Protocol):
    """A sampler whose weights can be replaced while it runs.

    Weight updates follow vLLM's verbs: `init_weight_transfer_engine` once, then for every version
    `pause`, `start_weight_update`, `update_weights`, `finish_weight_update`, `resume`. Pausing freezes
    requests in flight; they go on with the new weights, and each token keeps the version that made it.
    """

    async def start(self) -> None:
        """Load the model; the policy version is 0 until the first update finishes."""

    def submit(self, requests: Sequence[GroupRequest]) -> None:
        """Queue every completion of `requests` in the given order and return at once."""

    async def next_completions(self, max_wait_s: float) -> list[Completion]:
        """Return what has finished since the last call, waiting up to `max_wait_s` for the first."""

    async def abort(self, group_ids: Sequence[str] | None = None) -> None:
        """Drop the named groups (None: all); their completions come back with `finish_reason` `abort`."""

    async def score(self, token_ids: Sequence[int]) -> list[float]:
        """Return [T-1] log-probabilities of `token_ids[1:]` under the current weights, at temperature 1."""

    async def pause(self) -> None:
        """Freeze generation; returns once no forward pass is running."""

    async def resume(self) -> None:
        """Go on with what was frozen."""

    async def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Join the weight-transfer group; blocks until every member has joined."""

    async def start_weight_update(self) -> None:
        """Prepare to receive weights."""

    async def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Receive the weights that `update_info` describes; blocks until they are loaded."""

    async def finish_weight_update(self, policy_version: int) -> None:
        """Make the received weights current, drop the prefix cache and stamp `policy_version`."""

    async def policy_version(self) -> int:
        """Return the version that `finish_weight_update` last stamped."""

    async def shutdown(self) -> None:
        """Stop and free everything; safe to call twice."""
