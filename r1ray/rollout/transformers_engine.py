"""Rollout with transformers: for machines where vLLM cannot be installed, and bit-for-bit repeatable on CPU.

One thread owns the model. It takes commands from a queue between forward passes, so nothing ever sees the model or the
batch in the middle of a step, and the asyncio side only waits for answers. `decode.py` decides what runs; this module
loads, translates and reports.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import AutoTokenizer

from r1ray.errors import ConfigError, RolloutError, WeightSyncError
from r1ray.rollout.decode import Decoder
from r1ray.rollout.detokenize import Detokenizer, make_completion
from r1ray.rollout.load import eos_token_ids_of, load_model
from r1ray.rollout.protocol import EngineOptions
from r1ray.rollout.sequence import DecodingSequence
from r1ray.types import Completion, GroupRequest

logger = logging.getLogger(__name__)

_JOIN_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class _Command:
    """A call for the decoding thread, and where its result goes."""

    run: Callable[[], Any]
    result: Future[Any]


class TransformersEngine:
    """A `RolloutEngine` on a transformers model.

    Args:
        options: `tensor_parallel` must be 1; memory limits and `enforce_eager` have no meaning here: the cache grows
            to `max_num_seqs` sequences of the length they reach.
    """

    def __init__(self, options: EngineOptions) -> None:
        if options.tensor_parallel != 1:
            raise ConfigError(
                f"rollout.tensor_parallel must be 1 with rollout.engine=transformers, got {options.tensor_parallel}: "
                "use rollout.engine=vllm for models that need several GPUs"
            )
        self._options = options
        self._commands: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._paused = False
        self._failure: BaseException | None = None
        self._finished: list[Completion] = []
        self._news: asyncio.Event = asyncio.Event()

    async def start(self) -> None:
        """Load the model and start the decoding thread; the policy version is 0 until the first update finishes.

        Raises:
            ModelError: the model cannot be loaded, or this engine cannot decode it.
        """
        if self._options.cores:
            # Threads started from here on inherit it.
            os.sched_setaffinity(0, self._options.cores)
            torch.set_num_threads(len(self._options.cores))
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._load)
        self._thread = threading.Thread(target=self._decode_forever, name="decode", daemon=True)
        self._thread.start()

    def submit(self, requests: Sequence[GroupRequest]) -> None:
        """Queue every completion of `requests` in the given order and return at once.

        Raises:
            RolloutError: a prompt leaves too little room for its completion.
        """
        for request in requests:
            self._check_length(request)
        self._send(lambda: self._decoder.add(requests))

    async def next_completions(self, max_wait_s: float) -> list[Completion]:
        """Return what has finished since the last call, waiting up to `max_wait_s` for the first.

        Raises:
            RolloutError: the decoding thread failed; completions from before come first.
        """
        if not self._finished and self._failure is None:
            try:
                await asyncio.wait_for(self._news.wait(), max_wait_s)
            except TimeoutError:
                return []
        self._news.clear()
        finished, self._finished = self._finished, []
        if not finished and self._failure is not None:
            raise self._failed() from self._failure
        return finished

    async def abort(self, group_ids: Sequence[str] | None = None) -> None:
        """Drop the named groups (None: all); their completions come back with `finish_reason` `abort`."""
        named = None if group_ids is None else frozenset(group_ids)
        await self._ask(lambda: self._publish(self._decoder.abort(named)))

    async def score(self, token_ids: Sequence[int]) -> list[float]:
        """Return [T-1] log-probabilities of `token_ids[1:]` under the current weights, at temperature 1."""
        logprobs: list[float] = await self._ask(lambda: self._decoder.score(token_ids))
        return logprobs

    async def pause(self) -> None:
        """Freeze generation with all keys and values; returns once no forward pass is running."""
        await self._ask(lambda: setattr(self, "_paused", True))

    async def resume(self) -> None:
        """Go on with what was frozen."""
        await self._ask(lambda: setattr(self, "_paused", False))

    async def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Join the weight-transfer group; generation goes on until every member has joined."""
        await asyncio.to_thread(self._receiver.init_weight_transfer_engine, init_info)

    async def start_weight_update(self) -> None:
        """Prepare to receive weights; the engine must be paused."""
        if not self._paused:
            raise WeightSyncError("weights can be replaced only while generation is frozen: call pause() first")
        await self._ask(self._receiver.start_weight_update)

    async def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Receive the weights that `update_info` describes; blocks until they are loaded."""
        # A list has one entry per worker rank, and this engine is a single one.
        own = update_info[0] if isinstance(update_info, list) else update_info
        await self._ask(lambda: self._receiver.update_weights(own))

    async def finish_weight_update(self, policy_version: int) -> None:
        """Make the received weights current; running sequences keep their keys and values, new ones share none."""

        def finish() -> None:
            self._receiver.finish_weight_update()
            self._decoder.set_policy_version(policy_version)

        await self._ask(finish)

    async def policy_version(self) -> int:
        """Return the version that `finish_weight_update` last stamped."""
        return self._decoder.policy_version

    async def shutdown(self) -> None:
        """Stop the decoding thread and free the model; safe to call twice."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stopping = True
        self._commands.put(_Command(lambda: None, Future()))
        await asyncio.to_thread(thread.join, _JOIN_TIMEOUT_S)
        if thread.is_alive():
            raise RolloutError(f"the decoding thread did not stop within {_JOIN_TIMEOUT_S:g} s")
        del self._model, self._decoder
        self.__dict__.pop("_receiver", None)

    @cached_property
    def _receiver(self) -> Any:
        from r1ray.weights.module_receiver import ModuleWeightReceiver

        return ModuleWeightReceiver(self._model, self._model.device)

    def _load(self) -> None:
        self._model = load_model(self._options)
        tokenizer = AutoTokenizer.from_pretrained(
            self._options.model_path,
            revision=self._options.revision,
            trust_remote_code=self._options.trust_remote_code,
        )
        eos_token_ids = eos_token_ids_of(self._model, tokenizer)
        self._detokenizer = Detokenizer(tokenizer, eos_token_ids)
        self._decoder = Decoder(
            self._model,
            max_num_seqs=self._options.max_num_seqs,
            eos_token_ids=eos_token_ids,
            is_stopped=self._detokenizer.is_stopped,
        )

    def _check_length(self, request: GroupRequest) -> None:
        limit, completion = self._options.max_model_tokens, request.sampling.max_completion_tokens
        if not 0 < len(request.prompt.prompt_ids) <= limit - completion:
            raise RolloutError(
                f"prompt {request.prompt.prompt_id} has {len(request.prompt.prompt_ids)} tokens; allowed are 1 to "
                f"max_model_tokens - max_completion_tokens = {limit} - {completion}: lower data.max_prompt_tokens or "
                "rollout.max_completion_tokens"
            )

    def _send(self, run: Callable[[], Any]) -> Future[Any]:
        """Queue a call for the decoding thread."""
        if self._failure is not None:
            raise self._failed() from self._failure
        if self._thread is None:
            raise RolloutError(
                f"rollout engine {self._options.worker} is not running: it was not started or is shut down"
            )
        command = _Command(run, Future())
        self._commands.put(command)
        return command.result

    async def _ask(self, run: Callable[[], Any]) -> Any:
        return await asyncio.wrap_future(self._send(run))

    def _failed(self) -> RolloutError:
        return RolloutError(f"rollout engine {self._options.worker} failed: {self._failure!r}")

    def _decode_forever(self) -> None:
        """Alternate commands and steps; the body of the decoding thread."""
        if self._options.cores:
            torch.set_num_threads(len(self._options.cores))
        while True:
            while not self._stopping and (self._is_idle() or not self._commands.empty()):
                self._answer(self._commands.get())
            if self._stopping:
                return
            try:
                self._publish(self._decoder.step())
            except Exception as error:
                logger.exception("rollout engine %s failed", self._options.worker)
                self._failure = error
                self._loop.call_soon_threadsafe(self._news.set)

    def _is_idle(self) -> bool:
        return self._paused or self._failure is not None or not self._decoder.has_work

    def _answer(self, command: _Command) -> None:
        if self._failure is not None:
            command.result.set_exception(self._failed())
            return
        try:
            command.result.set_result(command.run())
        except Exception as error:
            command.result.set_exception(error)

    def _publish(self, sequences: Sequence[DecodingSequence]) -> None:
        """Hand finished sequences to the asyncio side."""
        if sequences:
            worker = self._options.worker
            completions = [make_completion(sequence, self._detokenizer, worker=worker) for sequence in sequences]
            self._loop.call_soon_threadsafe(self._receive, completions)

    def _receive(self, completions: list[Completion]) -> None:
        self._finished.extend(completions)
        self._news.set()
