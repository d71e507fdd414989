"""Text of completions, and stop strings found in it token by token."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from r1ray.rollout.sequence import DecodingSequence
from r1ray.types import Completion

# A character split over tokens decodes to this until its last byte has come.
_PARTIAL = "\N{REPLACEMENT CHARACTER}"
# Tokens decoded before those that may hold the stop string: some tokenizers treat the first one differently.
_WINDOW_MARGIN_TOKENS = 4


class Detokenizer:
    """Decodes completions of one tokenizer.

    Args:
        tokenizer: a transformers tokenizer.
        eos_token_ids: tokens that end a completion and are left out of its text.
    """

    def __init__(self, tokenizer: Any, eos_token_ids: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._eos_token_ids = frozenset(eos_token_ids)
        self._token_texts: dict[int, str] = {}

    def text(self, completion_ids: Sequence[int], stop: Sequence[str]) -> str:
        """Decode a completion without its EOS, up to the end of the stop string where one ended it."""
        if completion_ids and completion_ids[-1] in self._eos_token_ids:
            return self._decode(completion_ids[:-1])
        text = self._decode(completion_ids)
        if stop and completion_ids and self.is_stopped(completion_ids, stop):
            return text[: min(found + len(string) for string in stop if (found := text.find(string)) >= 0)]
        return text

    def is_stopped(self, completion_ids: Sequence[int], stop: Sequence[str]) -> bool:
        """Tell whether the last token completed a stop string; the tokens before it must not have."""
        last = self._token_text(completion_ids[-1])
        candidates = [string for string in stop if _may_complete(last, string)]
        if not candidates:
            return False
        # A token holds at least one byte, so so many tokens cover the longest string.
        window = max(len(string.encode()) for string in candidates) + _WINDOW_MARGIN_TOKENS
        tail = self._decode(completion_ids[-window:])
        return any(string in tail for string in candidates)

    def _token_text(self, token_id: int) -> str:
        text = self._token_texts.get(token_id)
        if text is None:
            text = self._token_texts[token_id] = self._decode([token_id])
        return text

    def _decode(self, token_ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def make_completion(sequence: DecodingSequence, detokenizer: Detokenizer, *, worker: str) -> Completion:
    """Return the record of a finished or aborted sequence."""
    assert sequence.finish_reason is not None
    request = sequence.request
    return Completion(
        group_id=request.group_id,
        prompt_id=request.prompt.prompt_id,
        sample_index=sequence.sample_index,
        text=detokenizer.text(sequence.completion_ids, request.sampling.stop),
        completion_ids=tuple(sequence.completion_ids),
        rollout_logprobs=tuple(sequence.logprobs),
        policy_versions=tuple(sequence.policy_versions),
        finish_reason=sequence.finish_reason,
        worker=worker,
    )


def _may_complete(token_text: str, string: str) -> bool:
    """Tell cheaply whether a token can hold the end of a string; decoding one token alone may strip white space."""
    return string[-1] in token_text or string[-1].isspace() or _PARTIAL in token_text
