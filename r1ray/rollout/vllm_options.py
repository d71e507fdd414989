"""What vLLM is told: environment variables, engine arguments, sampling parameters."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig

from r1ray.errors import RolloutError
from r1ray.rollout.protocol import EngineOptions
from r1ray.types import SamplingParams

if TYPE_CHECKING:
    import vllm

# The CPU attention kernel takes multiples of 32 only; the smallest shares most of a short prompt.
_CPU_BLOCK_TOKENS = 32


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the processes started inside."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def vllm_environment(options: EngineOptions) -> dict[str, str]:
    """Return what vLLM reads, at its import and later."""
    variables = {
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS": "20",
    }
    if Path(options.model_path).exists():
        variables["HF_HUB_OFFLINE"] = "1"
    if options.sync_backend == "ipc":
        # CUDA IPC handles are Python objects, which vLLM passes between its own processes only when told so.
        variables["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    if options.device == "cpu":
        variables["VLLM_CPU_OMP_THREADS_BIND"] = _bind(_cores(options), ranks=options.tensor_parallel)
        # The model in the scheduler's own process: on CPU the hop to another costs more than a small model's step,
        # and its end waits by spinning on a core that the model needs.
        variables["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1" if options.tensor_parallel > 1 else "0"
    return variables


def openmp_environment(options: EngineOptions) -> dict[str, str]:
    """Return what OpenMP reads when the scheduler's process starts; vLLM sets it for separate workers only."""
    if options.device != "cpu" or options.tensor_parallel > 1:
        return {}
    cores = _cores(options)
    return {
        "OMP_NUM_THREADS": str(len(cores)),
        "GOMP_CPU_AFFINITY": " ".join(map(str, cores)),
        # Threads that wait long for work spin on cores that others could use; the default is milliseconds.
        "GOMP_SPINCOUNT": "5000",
    }


def _cores(options: EngineOptions) -> tuple[int, ...]:
    return options.cores or tuple(sorted(os.sched_getaffinity(0)))


def _bind(cores: Sequence[int], *, ranks: int) -> str:
    """Deal the cores out to the tensor-parallel ranks in vLLM's notation, e.g. `0,1|2,3`."""
    if len(cores) < ranks:
        raise RolloutError(
            f"rollout.tensor_parallel={ranks} needs as many CPU cores, the worker has {len(cores)}: lower it or raise "
            "rollout.cpus_per_worker"
        )
    return "|".join(",".join(str(core) for core in cores[rank::ranks]) for rank in range(ranks))


def engine_arguments(options: EngineOptions) -> dict[str, Any]:
    """Return the arguments of `AsyncEngineArgs`."""
    config = AutoConfig.from_pretrained(
        options.model_path, revision=options.revision, trust_remote_code=options.trust_remote_code
    )
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    arguments: dict[str, Any] = {
        "model": options.model_path,
        "revision": options.revision,
        "trust_remote_code": options.trust_remote_code,
        "dtype": options.dtype,
        # vLLM wants to sample a token after scoring a prompt and its completion: leave room where the model has it.
        "max_model_len": options.max_model_tokens + (0 if limit == options.max_model_tokens else 1),
        "max_num_seqs": options.max_num_seqs,
        "tensor_parallel_size": options.tensor_parallel,
        "enforce_eager": options.enforce_eager,
        "enable_prefix_caching": True,
        # Of the distribution that was sampled from: after temperature and top-p.
        "logprobs_mode": "processed_logprobs",
        "disable_log_stats": True,
        "weight_transfer_config": {"backend": options.sync_backend},
    }
    if options.fp32_lm_head:
        arguments["hf_overrides"] = {"head_dtype": "float32"}
    if options.device == "cpu":
        arguments["block_size"] = _CPU_BLOCK_TOKENS
        arguments["kv_cache_memory_bytes"] = options.cpu_kv_cache_bytes
        arguments["distributed_executor_backend"] = "mp" if options.tensor_parallel > 1 else "uni"
        arguments["worker_cls"] = "r1ray.rollout.vllm_cpu_worker.SeededCpuWorker"
    else:
        arguments["gpu_memory_utilization"] = options.gpu_memory_fraction
    return arguments


def sampling_params(sampling: SamplingParams, *, seed: int) -> vllm.SamplingParams:
    """Return how one completion is sampled, in vLLM's terms."""
    from vllm import SamplingParams as VllmSamplingParams
    from vllm.sampling_params import RequestOutputKind

    return VllmSamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_completion_tokens,
        seed=seed,
        stop=list(sampling.stop),
        include_stop_str_in_output=True,
        detokenize=bool(sampling.stop),
        # Of the sampled token and no other.
        logprobs=0,
        flat_logprobs=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
    )


def eos_ids(tokenizer: Any, model_config: Any) -> frozenset[int]:
    """Return every token that ends a completion: the tokenizer's, and those of the generation config."""
    more = model_config.try_get_generation_config().get("eos_token_id") or ()
    ids = {tokenizer.eos_token_id} | ({more} if isinstance(more, int) else set(more))
    return frozenset(token_id for token_id in ids if token_id is not None)
