"""Turns records into prompts: the template around the question, and its token ids.

Stands between `sources.py` and `cursor.py`. Knows how a template and a tokenizer share the special tokens;
what the templates say is `template.py`'s work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from r1ray.config.schema import TemplateConfig
from r1ray.data.records import Record
from r1ray.data.sources import PromptSource
from r1ray.errors import DataError
from r1ray.template import chat_renderer, render
from r1ray.types import DOMAIN_OF_TASK, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PromptBuilder:
    """Templates and tokenizes records.

    Attributes:
        max_prompt_tokens: a record whose prompt is longer is skipped.
        skipped: records skipped so far.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: TemplateConfig, max_prompt_tokens: int) -> None:
        """Keep the tokenizer and check that it has what the template needs.

        Raises:
            ConfigError: unknown template, or `chat` for a tokenizer without a chat template.
        """
        self.max_prompt_tokens = max_prompt_tokens
        self.skipped = 0
        self._tokenizer = tokenizer
        self._template = template
        self._chat = chat_renderer(tokenizer)
        self._render("question")

    def build(self, record: Record) -> Prompt | None:
        """Return the record's prompt, or None where it is longer than `max_prompt_tokens`."""
        text, prompt_ids = self.encode(record.question)
        if len(prompt_ids) > self.max_prompt_tokens:
            self.skipped += 1
            return None
        return Prompt(
            prompt_id=record.prompt_id,
            question=record.question,
            text=text,
            prompt_ids=prompt_ids,
            answer=record.answer,
            task=record.task,
            domain=record.domain or DOMAIN_OF_TASK.get(record.task, record.task),
            metadata=record.metadata,
        )

    def encode(self, question: str) -> tuple[str, tuple[int, ...]]:
        """Return a question in the template, as text and as token ids."""
        text = self._render(question)
        return text, self._tokenize(text)

    def encode_completion(self, completion: str) -> tuple[int, ...]:
        """Return the token ids of a completion, which ends in EOS, as a sampled one does."""
        ids = self._tokenizer(completion, add_special_tokens=False, verbose=False)["input_ids"]
        return (*ids, self._tokenizer.eos_token_id)

    def build_all(self, source: PromptSource) -> list[Prompt]:
        """Return the prompts of a whole source in its order, as evaluation wants them.

        Raises:
            DataError: the source never ends, or all its prompts are too long.
        """
        if source.size is None:
            raise DataError("evaluation needs an end: set data.eval.size, got null")
        prompts = [prompt for index in range(source.size) if (prompt := self.build(source[index])) is not None]
        if not prompts:
            raise DataError(all_too_long(self.max_prompt_tokens))
        return prompts

    def _render(self, question: str) -> str:
        return render(self._template.name, question, system=self._template.system, apply_chat_template=self._chat)

    def _tokenize(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a templated text, with BOS where the model was trained with one."""
        # A chat template writes its special tokens itself; a second BOS would be one the model never saw.
        add_special = self._template.name != "chat"
        ids = list(self._tokenizer(text, add_special_tokens=add_special)["input_ids"])
        # Some tokenizers close every text with EOS, after which a model has nothing to continue.
        if add_special and ids and ids[-1] == self._tokenizer.eos_token_id:
            ids.pop()
        return tuple(ids)


def all_too_long(max_prompt_tokens: int) -> str:
    """Return what to tell a user none of whose prompts fits."""
    return f"every prompt is longer than data.max_prompt_tokens = {max_prompt_tokens}: raise it"
