"""Continuous batching: which completions run, one token of each per forward pass.

Waiting sequences start in submission order as soon as there is room; a prompt that no running sequence shares is
computed in the same forward pass as the others' next tokens. What runs depends only on the order of calls and on the
sampled tokens, never on time, so the same calls give the same bits. Knows nothing of threads; `transformers_engine.py`
calls it from one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from r1ray.errors import RolloutError
from r1ray.rollout.cascade import CascadeBatch, RunningRows, arrange_rows
from r1ray.rollout.key_values import KeyValueStore
from r1ray.rollout.sampling import sample_tokens
from r1ray.rollout.sequence import DecodingSequence, SharedPrompt, sequences_of
from r1ray.types import FinishReason, GroupRequest

# New prompts computed in one forward pass hold at most so many tokens, or are one prompt.
_PREFILL_TOKENS = 8192


class Decoder:
    """Decodes with one causal language model loaded with `CASCADE_ATTENTION`.

    Args:
        model: a transformers causal language model in eval mode.
        max_num_seqs: sequences that run at the same time.
        eos_token_ids: tokens that end a completion.
        is_stopped: tells from its ids whether a completion ends at a stop string.
    """

    def __init__(
        self,
        model: Any,
        *,
        max_num_seqs: int,
        eos_token_ids: Collection[int],
        is_stopped: Callable[[Sequence[int], Sequence[str]], bool],
    ) -> None:
        self.policy_version = 0
        self._model = model
        self._max_num_seqs = max_num_seqs
        self._eos_token_ids = frozenset(eos_token_ids)
        self._is_stopped = is_stopped
        self._waiting: deque[DecodingSequence] = deque()
        # Row i of the batch is slot i of `_completion_store`; `_prompts` the same for `_prompt_store`.
        self._running: list[DecodingSequence] = []
        self._prompts: list[SharedPrompt] = []
        self._prompt_store = KeyValueStore()
        self._completion_store = KeyValueStore()
        # Prompts computed with the current weights, which new sequences may share.
        self._current_prompts: dict[tuple[int, ...], SharedPrompt] = {}

    @property
    def has_work(self) -> bool:
        """Whether a call of `step` would do anything."""
        return bool(self._waiting or self._running)

    def add(self, requests: Iterable[GroupRequest]) -> None:
        """Queue every completion of `requests`."""
        for request in requests:
            self._waiting.extend(sequences_of(request))

    @torch.inference_mode()
    def abort(self, group_ids: Collection[str] | None) -> list[DecodingSequence]:
        """Remove the named groups (None: all) and return their sequences as far as they have come."""

        def is_meant(sequence: DecodingSequence) -> bool:
            return group_ids is None or sequence.request.group_id in group_ids

        running = [row for row, sequence in enumerate(self._running) if is_meant(sequence)]
        aborted = [self._running[row] for row in running] + [s for s in self._waiting if is_meant(s)]
        self._waiting = deque(s for s in self._waiting if not is_meant(s))
        self._remove(running)
        for sequence in aborted:
            sequence.finish_reason = "abort"
        return aborted

    def set_policy_version(self, policy_version: int) -> None:
        """Stamp new weights: sequences that start from now on do not share prompts computed before."""
        self.policy_version = policy_version
        self._current_prompts.clear()

    @torch.inference_mode()
    def score(self, token_ids: Sequence[int]) -> list[float]:
        """Return [T-1] log-probabilities of `token_ids[1:]` at temperature 1."""
        if len(token_ids) < 2:
            return []
        batch = CascadeBatch(None, [(0, len(token_ids))])
        logits = self._forward(token_ids, range(len(token_ids)), range(len(token_ids) - 1), batch)
        targets = torch.tensor(token_ids[1:], device=self._model.device)
        logprobs: list[float] = logits.float().log_softmax(-1).gather(1, targets[:, None]).squeeze(1).tolist()
        return logprobs

    @torch.inference_mode()
    def step(self) -> list[DecodingSequence]:
        """Start waiting sequences, give every running one its next token, and return those that finished."""
        decoding = list(self._running)
        new_prompts = self._admit()
        logits = self._compute_logits(decoding, new_prompts)
        token_ids, logprobs = self._sample(logits)
        finished = []
        for row, (token_id, logprob) in enumerate(zip(token_ids, logprobs, strict=True)):
            sequence = self._running[row]
            sequence.completion_ids.append(token_id)
            sequence.logprobs.append(logprob)
            sequence.policy_versions.append(self.policy_version)
            sequence.finish_reason = self._finish_reason(sequence)
            if sequence.finish_reason is not None:
                finished.append(row)
        done = [self._running[row] for row in finished]
        self._remove(finished)
        return done

    def _admit(self) -> list[SharedPrompt]:
        """Move waiting sequences to the end of the running ones; return the prompts that must be computed."""
        new_prompts: list[SharedPrompt] = []
        new_tokens = 0
        while self._waiting and len(self._running) < self._max_num_seqs:
            sequence = self._waiting[0]
            prompt = self._current_prompts.get(sequence.prompt.prompt_ids)
            if prompt is None:
                prompt = sequence.prompt
                new_tokens += len(prompt.prompt_ids)
                if new_prompts and new_tokens > _PREFILL_TOKENS:
                    break
                prompt.slot = len(self._prompts)
                self._current_prompts[prompt.prompt_ids] = prompt
                self._prompts.append(prompt)
                new_prompts.append(prompt)
            sequence.prompt = prompt
            self._running.append(self._waiting.popleft())
        return new_prompts

    def _compute_logits(self, decoding: list[DecodingSequence], new_prompts: list[SharedPrompt]) -> Tensor:
        """Run the model on last tokens and new prompts; return logits [running, V]."""
        parts = []
        if decoding or new_prompts:
            logits = self._forward_batch(decoding, new_prompts)
            parts.append(logits[: len(decoding)])
            for prompt, prompt_logits in zip(new_prompts, logits[len(decoding) :], strict=True):
                prompt.logits = prompt_logits.clone()
        starting = [sequence.prompt.logits for sequence in self._running[len(decoding) :]]
        if starting:
            parts.append(torch.stack(starting))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _forward_batch(self, decoding: list[DecodingSequence], new_prompts: list[SharedPrompt]) -> Tensor:
        """Return logits [D + new prompts, V] after the last token of each."""
        input_ids = [sequence.completion_ids[-1] for sequence in decoding]
        position_ids = [s.last_position for s in decoding]
        keep = list(range(len(decoding)))
        for prompt in new_prompts:
            input_ids.extend(prompt.prompt_ids)
            position_ids.extend(range(len(prompt.prompt_ids)))
            keep.append(len(input_ids) - 1)
        spans = [(prompt.slot, len(prompt.prompt_ids)) for prompt in new_prompts]
        batch = CascadeBatch(self._arrange(decoding), spans, self._prompt_store, self._completion_store)
        return self._forward(input_ids, position_ids, keep, batch)

    def _arrange(self, decoding: list[DecodingSequence]) -> RunningRows | None:
        """Make room in both stores and say where each running sequence stands in them."""
        prompt_tokens = [len(prompt.prompt_ids) for prompt in self._prompts]
        self._prompt_store.reserve(len(prompt_tokens), max(prompt_tokens))
        completion_tokens = [len(sequence.completion_ids) for sequence in decoding]
        self._completion_store.reserve(len(self._running), max(completion_tokens, default=1))
        if not decoding:
            return None
        slots = [sequence.prompt.slot for sequence in decoding]
        return arrange_rows(slots, prompt_tokens, completion_tokens, next(self._model.parameters()))

    def _forward(
        self, input_ids: Sequence[int], position_ids: Sequence[int], keep: Sequence[int], batch: CascadeBatch
    ) -> Tensor:
        """Run the model on one packed row and return logits [kept, V] at the positions `keep`."""
        tokens, positions, kept = (
            torch.tensor(numbers, device=self._model.device) for numbers in (input_ids, position_ids, keep)
        )
        output = self._model(
            tokens[None], position_ids=positions[None], use_cache=False, logits_to_keep=kept, cascade=batch
        )
        logits: Tensor = output.logits[0]
        return logits

    def _sample(self, logits: Tensor) -> tuple[list[int], list[float]]:
        """Sample the next token of every running sequence."""
        device = logits.device
        sampling = [sequence.request.sampling for sequence in self._running]
        token_ids, logprobs = sample_tokens(
            logits,
            temperatures=torch.tensor([params.temperature for params in sampling], device=device),
            top_ps=torch.tensor([params.top_p for params in sampling], device=device),
            seeds=torch.tensor([sequence.seed for sequence in self._running], device=device),
            positions=torch.tensor([len(sequence.completion_ids) for sequence in self._running], device=device),
        )
        if not bool(logprobs.isfinite().all()):
            raise RolloutError(
                f"policy version {self.policy_version} gives logprobs that are not finite: its weights are broken"
            )
        return token_ids.tolist(), logprobs.tolist()

    def _finish_reason(self, sequence: DecodingSequence) -> FinishReason | None:
        """Tell whether the last token of a sequence ends it."""
        completion_ids, params = sequence.completion_ids, sequence.request.sampling
        if completion_ids[-1] in self._eos_token_ids or (params.stop and self._is_stopped(completion_ids, params.stop)):
            return "stop"
        return "length" if len(completion_ids) >= params.max_completion_tokens else None

    def _remove(self, rows: list[int]) -> None:
        """Take sequences (ascending rows) out of the batch, with prompts that nothing needs any more."""
        self._completion_store.remove(self._running, rows)
        needed = {id(sequence.prompt) for sequence in self._running}
        if self._waiting:
            # The rest of a group that did not fit starts next.
            needed.add(id(self._current_prompts.get(self._waiting[0].prompt.prompt_ids)))
        unused = [prompt for prompt in self._prompts if id(prompt) not in needed]
        self._prompt_store.remove(self._prompts, [prompt.slot for prompt in unused])
        for slot, prompt in enumerate(self._prompts):
            prompt.slot = slot
        for prompt in unused:
            if self._current_prompts.get(prompt.prompt_ids) is prompt:
                del self._current_prompts[prompt.prompt_ids]
        if not self.has_work:
            self._prompt_store.clear()
            self._completion_store.clear()
