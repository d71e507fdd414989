"""The child that runs math-verify: `python -m r1ray.rewards.math_child`, started by `accuracy.py`.

Takes `{"gold", "answer"}`, bare texts, and returns a verdict. math-verify's own time limits are off, since
they need SIGALRM and an interruptible computation: the parent kills instead.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

from math_verify import parse, verify

from r1ray.sandbox.server import serve
from r1ray.types import Verdict

_DELIMITED = re.compile(r"\$.+\$|\\\(.+\\\)|\\\[.+\\\]", re.DOTALL)
# In LaTeX "the value" is a product of eight symbols.
_PROSE = re.compile(r"[A-Za-z]{2,}\s+[A-Za-z]{2,}")


def judge(request: dict[str, str]) -> str:
    """Return the verdict on one answer: `correct`, `wrong`, `unparseable`, or `error` for an unparseable gold.

    Raises:
        MemoryError: the comparison needs more than the limit.
    """
    gold = _parse_gold(request["gold"])
    if not gold:
        return Verdict.ERROR
    answer = _parse(request["answer"])
    if not answer:
        return Verdict.UNPARSEABLE
    return Verdict.CORRECT if _equal(gold[0], answer[0]) else Verdict.WRONG


def _equal(gold: Any, answer: Any) -> bool:
    try:
        return bool(verify(gold, answer, timeout_seconds=None, raise_on_error=True))
    except MemoryError:
        raise
    except Exception:  # sympy raises nearly anything on nonsense, and nonsense equals nothing
        return False


@lru_cache(maxsize=256)
def _parse_gold(text: str) -> tuple[Any, ...]:
    """Parse a gold answer; the completions of a group share it."""
    return _parse(text)


def _parse(text: str) -> tuple[Any, ...]:
    """Return the parsed expression, or nothing.

    A bare text goes into a box, which reads all of it as one formula; without one math-verify would read
    `2^{10}` as 2.
    """
    prose = "\\" not in text and _PROSE.search(text)
    source = text if prose or _DELIMITED.search(text) else rf"\boxed{{{text}}}"
    found = parse(source, parsing_timeout=None, fallback_mode="no_fallback")
    return tuple(found[:1])


if __name__ == "__main__":
    # math-verify warns once that its time limits are off.
    logging.disable(logging.CRITICAL)
    # The parsers are loaded at the first formula, which takes seconds that no answer should be charged for.
    judge({"gold": r"\frac{1}{2}", "answer": "0.5"})
    serve(judge)
