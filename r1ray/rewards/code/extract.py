"""Finds the program in a completion."""

from __future__ import annotations

import re

from r1ray.rewards.code.languages import canonical, known
from r1ray.template import answer_section, last_answer_tag

# A block that the completion never closes runs to its end.
_BLOCK = re.compile(
    r"^[ \t]*(`{3,}|~{3,})[ \t]*([^\s`]*)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE
)
_LOOKS_LIKE_CODE = re.compile(r"^\s*(?:def |class |import |from |#include|int main|public class|print\()", re.MULTILINE)


def extract_program(completion: str, *, language: str) -> tuple[str, str] | None:
    """Return the program a completion gives and its language, or None where it gives none.

    Only what follows `</think>` counts; of several code blocks the last. Without a block, the whole answer counts if
    it reads like code.

    Args:
        completion: whole text.
        language: what the problem asks for; `any` takes the block's own label.
    """
    section = answer_section(completion)
    tagged = last_answer_tag(section)
    for text in (section,) if tagged is None else (tagged, section):
        blocks = [match for match in _BLOCK.finditer(text) if match[3].strip()]
        if blocks:
            label = blocks[-1][2]
            return blocks[-1][3], _language(label, language)
    text = section if tagged is None else tagged
    return (text, _language("", language)) if _LOOKS_LIKE_CODE.search(text) else None


def _language(label: str, wanted: str) -> str:
    if wanted != "any":
        return canonical(wanted)
    return canonical(label) if label and known(label) else "python"
