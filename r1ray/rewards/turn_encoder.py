"""Question and completion as the token ids that a reward model scores; the same in its training and in its use."""

from __future__ import annotations

import re
from typing import Any

_QUESTION = "r1ray-question-slot"
_COMPLETION = "r1ray-completion-slot"
_SLOTS = re.compile(f"{_QUESTION}|{_COMPLETION}")


class TurnEncoder:
    """Encodes with one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        """Look at the tokenizer's chat template and special tokens."""
        self._tokenizer = tokenizer
        self._frame = _chat_frame(tokenizer)
        special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._special = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or r"(?!)")

    def __call__(self, question: str, text: str) -> list[int]:
        """Return [T] token ids: in the tokenizer's chat template, else the question, an empty line, and the text.

        Special tokens that a text spells out become spaces, so that it cannot open another turn; the texts are put
        into the finished template, so that one that drops old reasoning drops none.
        """
        texts = {_QUESTION: self._special.sub(" ", question), _COMPLETION: self._special.sub(" ", text)}
        if self._frame is None:
            whole = f"{texts[_QUESTION]}\n\n{texts[_COMPLETION]}"
        else:
            whole = _SLOTS.sub(lambda match: texts[match[0]], self._frame)
        encoded = self._tokenizer(whole, add_special_tokens=self._frame is None, truncation=False, verbose=False)
        return list(encoded["input_ids"])


def _chat_frame(tokenizer: Any) -> str | None:
    """Return the chat template with slots for both texts; None where the tokenizer has none."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    messages = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _COMPLETION}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False))
