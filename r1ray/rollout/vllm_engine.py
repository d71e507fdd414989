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
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from r1ray.errors import RolloutError, WeightSyncError
from r1ray.rollout.protocol import EngineOptions
from r1ray.rollout.vllm_options import (
    engine_arguments,
    environment,
    eos_ids,
    openmp_environment,
    sampling_params,
    vllm_environment,
)
from r1ray.types import Completion, FinishReason, GroupRequest

if TYPE_CHECKING:
    import vllm

logger = logging.getLogger(__name__)

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
        os.environ.update(vllm_environment(self._options))
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        try:
            with environment(openmp_environment(self._options)):
                self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_arguments(self._options)))
        except (RuntimeError, ValueError, OSError) as error:
            raise RolloutError(
                f"vLLM on {self._options.worker} does not start with {self._options.model_path}: {error}"
            ) from error
        self._tokenizer = self._llm.get_tokenizer()
        self._eos_ids = eos_ids(self._tokenizer, self._llm.model_config)
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
        params = sampling_params(request.sampling, seed=request.seeds[ticket.position])
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
