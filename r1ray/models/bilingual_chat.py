"""The bilingual models' chat form: turn tokens and the chat template that their tokenizer carries.

    <|User|>question<|Assistant|>answer<|endoftext|><|User|>..

Earlier answers appear without their thinking, as in DeepSeek-R1's released template. Turn tokens are ordinary tokens
and not special ones: a model that runs on into the next speaker's turn shows it in its decoded text.
"""

from __future__ import annotations

from r1ray.models.base_tokenizer import EOS
from r1ray.template import THINK_CLOSE

USER = "<|User|>"
ASSISTANT = "<|Assistant|>"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.role == 'user' -%}{{ '" + USER + "' + message.content }}"
    "{%- elif message.role == 'assistant' -%}"
    "{%- set content = message.content if loop.last else message.content.split('" + THINK_CLOSE + "')[-1].lstrip() -%}"
    "{{ '" + ASSISTANT + "' + content + '" + EOS + "' }}"
    "{%- else -%}{{ message.content }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '" + ASSISTANT + "' }}{%- endif -%}"
)


def open_turn(question: str) -> str:
    """Return what stands before an answer: a user's turn, and the beginning of the assistant's."""
    return f"{USER}{question}{ASSISTANT}"


def close_turn(answer: str) -> str:
    """Return an answer that another turn follows."""
    return f"{answer}{EOS}"
