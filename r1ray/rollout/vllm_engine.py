"""The vLLM rollout engine: one `AsyncLLM`, one request per completion, weights replaced while it runs.

Requests go in as token ids and come out finished; nothing is streamed token by token and, unless there are stop
strings, nothing is detokenized on the way, since on small models the front end costs as much as the model. Weight
sync is vLLM's own (`nccl`, `ipc`) or the `gloo` engine of `weights/vllm_gloo.py`.

Does not know Ray. One per process: vLLM is configured by environment variables.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from transformers import AutoConfig

from r1ray.errors import RolloutError, WeightSyncError
from r1ray.rollout.protocol import EngineOptions
from r1ray.types import Completion, FinishReason, GroupRequest, SamplingParams

if TYPE_CHECKING:
    import vllm

logger = logging.getLogger(__name__)

# The CPU attention kernel takes multiples of 32 only; the smallest shares most of a short prompt.
_CPU_BLOCK_TOKENS = 32
_FIRST_VERSION = "0"
_ABORT_TIMEOUT_S = 60.0
_SHUTDOWN_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class _Ticket:
    """One completion on its way."""

    request: GroupRequest
    position: int
    request_id: str


class VllmEngine:
    """`RolloutEngine` over vLLM's `AsyncLLM`."""

    def __init__(self, options: EngineOptions) -> None:
        """Take the options; nothing starts yet."""
        self._options = options
        self._llm: Any = None
        self._tokenizer: Any = None
        self._eos_ids: frozenset[int] = frozenset()
        self._finished: deque[Completion] = deque()
        self._arrived = asyncio.Event()
        self._running: dict[str, tuple[_Ticket, asyncio.Task[None]]] = {}
        self._dropped: set[str] = set()
        self._submitted = 0
        self._failure: RolloutError | None = None
        self._paused = False

    async def start(self) -> None:
        """Start vLLM's processes and load the model."""
        os.environ.update(_vllm_environment(self._options))
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        try:
            with _environment(_openmp_environment(self._options)):
                self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**_engine_arguments(self._options)))
        except (RuntimeError, ValueError, OSError) as error:
            raise RolloutError(
                f"vLLM on {self._options.worker} does not start with {self._options.model_path}: {error}"
            ) from error
        self._tokenizer = self._llm.get_tokenizer()
        self._eos_ids = _eos_ids(self._tokenizer, self._llm.model_config)
        # Asked for once and kept: from now on a started request is known to vLLM before anything else happens.
        await self._llm.get_supported_tasks()
        await self._llm.update_weight_version(_FIRST_VERSION)

    def submit(self, requests: Sequence[GroupRequest]) -> None:
        """Queue every completion as a request of its own."""
        for request in requests:
            for position in range(len(request.seeds)):
                ticket = _Ticket(request, position, str(self._submitted))
                self._submitted += 1
                task = asyncio.create_task(self._complete(ticket))
                self._running[ticket.request_id] = ticket, task

    async def next_completions(self, max_wait_s: float) -> list[Completion]:
        """Return what has finished, waiting for the first.

        Raises:
            RolloutError: the engine has died.
        """
        if not self._finished and self._failure is None:
            try:
                async with asyncio.timeout(max_wait_s):
                    await self._arrived.wait()
            except TimeoutError:
                return []
        self._arrived.clear()
        if self._failure is not None:
            raise self._failure
        finished = list(self._finished)
        self._finished.clear()
        return finished

    async def abort(self, group_ids: Sequence[str] | None = None) -> None:
        """Drop the named groups, or all."""
        names = None if group_ids is None else set(group_ids)
        dropped = [
            (ticket, task)
            for ticket, task in self._running.values()
            if names is None or ticket.request.group_id in names
        ]
        # What vLLM knows of comes back by itself, with its tokens; what it has not heard of yet never reaches it.
        self._dropped.update(ticket.request_id for ticket, _ in dropped)
        async with self._reporting("abort"):
            await self._llm.abort([ticket.request_id for ticket, _ in dropped])
        async with asyncio.timeout(_ABORT_TIMEOUT_S):
            await asyncio.gather(*(task for _, task in dropped))

    async def score(self, token_ids: Sequence[int]) -> list[float]:
        """Return the log-probabilities of `token_ids[1:]`; prompt logprobs never come from the prefix cache."""
        if len(token_ids) < 2:
            return []
        from vllm import SamplingParams as VllmSamplingParams

        params = VllmSamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        self._submitted += 1
        async with self._reporting("score"):
            output = await self._final_output(token_ids, params, f"score-{self._submitted}")
        return [
            position[token_id].logprob
            for position, token_id in zip(output.prompt_logprobs[1:], token_ids[1:], strict=True)
        ]

    async def pause(self) -> None:
        """Freeze generation; requests stay."""
        async with self._reporting("pause"):
            # The caches go in finish_weight_update: a pause alone leaves them valid.
            await self._llm.pause_generation(mode="keep", clear_cache=False)
        self._paused = True

    async def resume(self) -> None:
        """Go on."""
        async with self._reporting("resume"):
            await self._llm.resume_generation()
        self._paused = False

    async def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Join the weight-transfer group."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        async with self._reporting("init_weight_transfer_engine"):
            await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info=init_info))

    async def start_weight_update(self) -> None:
        """Prepare to receive weights; the engine must be paused."""
        if not self._paused:
            raise WeightSyncError("weights can be replaced only while generation is frozen: call pause() first")
        async with self._reporting("start_weight_update"):
            await self._llm.start_weight_update()

    async def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Receive weights."""
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        async with self._reporting("update_weights"):
            await self._llm.update_weights(WeightTransferUpdateRequest(update_info=update_info))

    async def finish_weight_update(self, policy_version: int) -> None:
        """Make the weights current; requests in flight compute their keys and values anew when they go on."""
        async with self._reporting("finish_weight_update"):
            await self._llm.finish_weight_update(weight_version=str(policy_version))
            cleared = await self._llm.reset_prefix_cache(reset_running_requests=True)
        if not cleared:
            raise WeightSyncError(f"vLLM on {self._options.worker} kept a prefix cache of the old weights")

    async def policy_version(self) -> int:
        """Return the version of the weights."""
        async with self._reporting("policy_version"):
            return int(await self._llm.get_weight_version())

    async def shutdown(self) -> None:
        """Stop vLLM's processes."""
        for _, task in list(self._running.values()):
            task.cancel()
        await asyncio.gather(*(task for _, task in self._running.values()), return_exceptions=True)
        self._running.clear()
        if self._llm is not None:
            self._llm.shutdown(timeout=_SHUTDOWN_TIMEOUT_S)
            # vLLM closes its sockets and forgets their context.
            self._llm.engine_core.resources.ctx.destroy(linger=0)
            self._llm = None

    async def _complete(self, ticket: _Ticket) -> None:
        """See one completion through; whatever happens, something comes back for it."""
        request = ticket.request
        params = _sampling(request.sampling, seed=request.seeds[ticket.position])
        try:
            if ticket.request_id in self._dropped:
                self._finished.append(self._unborn(ticket))
                return
            output = await self._final_output(request.prompt.prompt_ids, params, ticket.request_id)
            self._finished.append(self._completion(ticket, output.outputs[0]))
        except Exception as error:
            # A task's boundary: next_completions raises this where the caller can see it.
            self._fail(f"completing group {request.group_id}", error)
        finally:
            del self._running[ticket.request_id]
            self._dropped.discard(ticket.request_id)
            self._arrived.set()

    async def _final_output(self, token_ids: Sequence[int], params: vllm.SamplingParams, request_id: str) -> Any:
        """Run one request; with FINAL_ONLY vLLM yields once."""
        # An input with a type is taken as it is; others take a detour over vLLM's thread pool.
        prompt = {"type": "token", "prompt_token_ids": list(token_ids)}
        outputs = [output async for output in self._llm.generate(prompt, params, request_id)]
        return outputs[-1]

    def _completion(self, ticket: _Ticket, output: Any) -> Completion:
        request = ticket.request
        completion_ids = tuple(output.token_ids)
        if request.sampling.stop:
            text = output.text
        else:
            text_ids = completion_ids[:-1] if completion_ids and completion_ids[-1] in self._eos_ids else completion_ids
            text = self._tokenizer.decode(text_ids, skip_special_tokens=True)
        if output.finish_reason not in ("stop", "length", "abort"):
            raise RolloutError(f"vLLM ended a request of group {request.group_id} with {output.finish_reason!r}")
        versions = [int(span.version) for span in output.weight_versions or () for _ in range(span.start, span.end)]
        return Completion(
            group_id=request.group_id,
            prompt_id=request.prompt.prompt_id,
            sample_index=request.sample_indices[ticket.position],
            text=text,
            completion_ids=completion_ids,
            rollout_logprobs=tuple(output.logprobs.logprobs),
            policy_versions=tuple(versions),
            finish_reason=cast(FinishReason, output.finish_reason),
            worker=self._options.worker,
        )

    def _unborn(self, ticket: _Ticket) -> Completion:
        """Return the completion of a request aborted before its first token."""
        request = ticket.request
        return Completion(
            group_id=request.group_id,
            prompt_id=request.prompt.prompt_id,
            sample_index=request.sample_indices[ticket.position],
            text="",
            completion_ids=(),
            rollout_logprobs=(),
            policy_versions=(),
            finish_reason="abort",
            worker=self._options.worker,
        )

    @asynccontextmanager
    async def _reporting(self, action: str) -> AsyncIterator[None]:
        if self._failure is not None:
            raise self._failure
        try:
            yield
        except (RolloutError, WeightSyncError, asyncio.CancelledError):
            raise
        except Exception as error:
            if self._llm.errored:
                raise self._fail(action, error) from error
            raise self._named(action, error) from error

    def _named(self, action: str, error: Exception) -> RolloutError:
        if isinstance(error, RolloutError):
            return error
        return RolloutError(f"vLLM on {self._options.worker} failed at {action}: {type(error).__name__}: {error}")

    def _fail(self, action: str, error: Exception) -> RolloutError:
        failure = self._named(action, error)
        if self._failure is None:
            self._failure = failure
            logger.error("%s", failure)
        self._arrived.set()
        return failure


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
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


def _vllm_environment(options: EngineOptions) -> dict[str, str]:
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


def _openmp_environment(options: EngineOptions) -> dict[str, str]:
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


def _engine_arguments(options: EngineOptions) -> dict[str, Any]:
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
    if options.device == "cpu":
        arguments["block_size"] = _CPU_BLOCK_TOKENS
        arguments["kv_cache_memory_bytes"] = options.cpu_kv_cache_bytes
        arguments["distributed_executor_backend"] = "mp" if options.tensor_parallel > 1 else "uni"
        arguments["worker_cls"] = "r1ray.rollout.vllm_cpu_worker.SeededCpuWorker"
    else:
        arguments["gpu_memory_utilization"] = options.gpu_memory_fraction
    return arguments


def _sampling(sampling: SamplingParams, *, seed: int) -> vllm.SamplingParams:
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


def _eos_ids(tokenizer: Any, model_config: Any) -> frozenset[int]:
    """Return every token that ends a completion: the tokenizer's, and those of the generation config."""
    more = model_config.try_get_generation_config().get("eos_token_id") or ()
    ids = {tokenizer.eos_token_id} | ({more} if isinstance(more, int) else set(more))
    return frozenset(token_id for token_id in ids if token_id is not None)
