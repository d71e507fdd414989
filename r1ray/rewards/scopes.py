"""Which part of a completion a judge or a reward model sees."""

from __future__ import annotations

from r1ray.template import THINK_CLOSE, THINK_OPEN, answer_section


def summary(text: str) -> str:
    """Return what follows the thinking: nothing where it was not finished, all where there was none."""
    if THINK_OPEN in text and THINK_CLOSE not in text:
        return ""
    return answer_section(text).strip()
