"""Prompt templates and their tags: the one home of every tag string.

Turns a question into the text the model continues, and takes a completion apart into thinking and
answer. Does not tokenize and does not judge answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from r1ray.errors import ConfigError

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
ANSWER_OPEN = "<answer>"
ANSWER_CLOSE = "</answer>"

# Source: arXiv:2501.12948 v1, Table 1.
R1_ZERO_TEMPLATE = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the answer. "
    "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, "
    "respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>. "
    "User: {prompt}. Assistant:"
)

# R1's turns. Source: the tokenizer configuration released with DeepSeek-R1.
R1_USER = "<｜User｜>"
R1_ASSISTANT = "<｜Assistant｜>"
# The same for chat interfaces: the reasoning of earlier turns is dropped, as R1's released template does.
R1_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}{{ '" + R1_USER + "' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '" + R1_ASSISTANT + "' + message['content'].split('" + THINK_CLOSE + "')[-1].lstrip() + eos_token }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + R1_ASSISTANT + "' }}{% endif %}"
)

_R1_ZERO_FORMAT = re.compile(
    rf"\s*{THINK_OPEN}(?P<think>.+?){THINK_CLOSE}\s*{ANSWER_OPEN}(?P<answer>.+?){ANSWER_CLOSE}\s*",
    re.DOTALL,
)
_R1_FORMAT = re.compile(rf"\s*{THINK_OPEN}(?P<think>.+?){THINK_CLOSE}\s*(?P<answer>\S.*)", re.DOTALL)
_TAGS = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)

ChatTemplate = Callable[[list[dict[str, str]]], str]


@dataclass(frozen=True, slots=True)
class Parts:
    """A completion taken apart by a format: what was thought, what was answered."""

    think: str
    answer: str


def render(
    name: str, question: str, *, system: str | None = None, apply_chat_template: ChatTemplate | None = None
) -> str:
    """Put a question into the named template.

    Args:
        name: `r1_zero` (the paper's), `chat` (the model's own chat template), `r1` (R1's turns) or `plain` (the
            question).
        question: the bare question.
        system: system message; `chat` and `r1` only.
        apply_chat_template: renders messages with the generation prompt appended; needed for `chat`.

    Returns:
        The text that the model continues.

    Raises:
        ConfigError: unknown template, or `chat` for a tokenizer without a chat template.
    """
    if name == "r1_zero":
        return R1_ZERO_TEMPLATE.format(prompt=question.rstrip(" ."))
    if name == "plain":
        return question
    if name == "r1":
        return f"{system or ''}{R1_USER}{question}{R1_ASSISTANT}"
    if name != "chat":
        raise ConfigError(f"template.name must be one of r1_zero, chat, r1, plain, got {name!r}")
    if apply_chat_template is None:
        raise ConfigError(
            "template.name=chat needs a tokenizer with a chat template: use r1_zero or plain for this model"
        )
    messages = [{"role": "system", "content": system}] if system else []
    return apply_chat_template([*messages, {"role": "user", "content": question}])


def chat_renderer(tokenizer: Any) -> ChatTemplate | None:
    """Return the tokenizer's chat template as a function, or None where it has none."""
    if not getattr(tokenizer, "chat_template", None):
        return None

    def apply(messages: list[dict[str, str]]) -> str:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    return apply


def parse_r1_zero(completion: str) -> Parts | None:
    """Take apart `<think> .. </think> <answer> .. </answer>`; None if the completion is anything else.

    Each tag must stand exactly once and nothing but white space may stand outside.
    """
    match = _R1_ZERO_FORMAT.fullmatch(completion)
    if match is None or any(completion.count(tag) != 1 for tag in _TAGS):
        return None
    return Parts(match["think"], match["answer"])


def parse_r1(completion: str) -> Parts | None:
    r"""Take apart `<think>\n .. \n</think>\n\n summary`; None if the completion is anything else."""
    match = _R1_FORMAT.fullmatch(completion)
    if match is None or completion.count(THINK_OPEN) != 1 or completion.count(THINK_CLOSE) != 1:
        return None
    return Parts(match["think"], match["answer"])


def answer_section(completion: str) -> str:
    """Return the text that counts as the answer: after the last `</think>`, and all of it where nothing was thought.

    A chain of thought that is opened and never closed has no answer.
    """
    _, closed, answer = completion.rpartition(THINK_CLOSE)
    return "" if not closed and THINK_OPEN in completion else answer


def last_answer_tag(text: str) -> str | None:
    """Return the content of the last closed `<answer>` tag of `text`, or None."""
    head, closed, _ = text.rpartition(ANSWER_CLOSE)
    if not closed:
        return None
    _, opened, content = head.rpartition(ANSWER_OPEN)
    return content.strip() if opened else None
