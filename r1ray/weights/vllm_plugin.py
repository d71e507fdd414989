"""Makes `gloo` a weight-transfer backend of vLLM, next to its own `nccl` and `ipc`.

vLLM calls `register` in every one of its processes through the entry point `vllm.general_plugins`; until then this
module imports nothing heavy. The engine itself is `vllm_gloo.py`.
"""

from __future__ import annotations


def register() -> None:
    """Register the engine by name; vLLM may call this more than once in a process."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if "gloo" not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine("gloo", "r1ray.weights.vllm_gloo", "GlooWeightTransferEngine")
