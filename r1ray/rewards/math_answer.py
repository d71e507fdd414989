"""Whether a completion's answer to a math question matches the gold answer.

Plain integers and decimals are compared here; all else goes to a killable child (`math_child.py`). Does not import
sympy.
"""

from __future__ import annotations

import re
from decimal import Decimal

from r1ray.rewards.extract import extract_answer, extract_gold
from r1ray.rewards.protocol import RewardResult
from r1ray.sandbox.child import ChildProcess
from r1ray.sandbox.server import Outcome
from r1ray.types import Verdict

# No answer a person would write is longer, and parsers are superlinear.
MAX_ANSWER_CHARS = 4000
_SHOWN_CHARS = 80
_HARMLESS = "5x+1"

_PLAIN_NUMBER = re.compile(r"[+-]?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)")
_ASKS_PERCENT = re.compile(r"percent|%|百分", re.IGNORECASE)


def judge(
    completion: str, gold: str, *, child: ChildProcess, time_limit_s: float, bare_percent: bool = True
) -> RewardResult:
    """Compare the answer of a completion with the gold answer.

    Args:
        completion: whole text; only what follows `</think>` counts.
        gold: bare answer, or a solution that ends in a box or in GSM8K's `#### answer`.
        child: runs `math_child.py`.
        time_limit_s: processor time for math-verify; beyond it the verdict is `timeout`.
        bare_percent: whether 5% also matches a gold answer of 5.

    Returns:
        Value 1 if correct, else 0, with the verdict.
    """
    wanted = extract_gold(gold)
    if not wanted or len(wanted) > MAX_ANSWER_CHARS:
        return verdict_result(Verdict.ERROR, f"gold answer {shown(gold)} of {len(wanted)} characters: give the answer")
    answer = extract_answer(completion)
    if answer is None:
        return verdict_result(Verdict.UNPARSEABLE, "no answer found")
    if len(answer) > MAX_ANSWER_CHARS:
        return verdict_result(
            Verdict.UNPARSEABLE, f"answer of {len(answer)} characters, at most {MAX_ANSWER_CHARS} count"
        )
    return compare(answer, wanted, child=child, time_limit_s=time_limit_s, bare_percent=bare_percent)


def compare(answer: str, gold: str, *, child: ChildProcess, time_limit_s: float, bare_percent: bool) -> RewardResult:
    """Compare two bare answers."""
    equal = compare_plain_numbers(answer, gold)
    if equal is not None:
        return verdict_result(Verdict.CORRECT if equal else Verdict.WRONG, f"answer {shown(answer)}")
    request = {"gold": gold, "answer": answer, "bare_percent": bare_percent}
    reply = child.ask(request, time_limit_s=time_limit_s)
    if reply.outcome is Outcome.OK:
        verdict = Verdict(reply.value)
        return verdict_result(verdict, f"gold {shown(gold)}" if verdict is Verdict.ERROR else f"answer {shown(answer)}")
    detail = f"answer {shown(answer)}, gold {shown(gold)}: {reply.detail}"
    if reply.outcome not in (Outcome.TIMEOUT, Outcome.MEMORY):
        return verdict_result(Verdict.ERROR, detail)
    # A gold answer that takes too long beside any other answer is the dataset's fault.
    other = child.ask({**request, "answer": _HARMLESS}, time_limit_s=time_limit_s)
    readable = other.outcome is Outcome.OK and other.value != Verdict.ERROR
    return verdict_result(Verdict.TIMEOUT if readable else Verdict.ERROR, detail)


def verdict_result(verdict: Verdict, detail: str) -> RewardResult:
    """Return 1 for a correct answer, else 0."""
    if verdict is Verdict.ERROR:
        detail = f"cannot grade: {detail}"
    return RewardResult(float(verdict is Verdict.CORRECT), verdict, detail)


def shown(text: str) -> str:
    """Return a text as messages show it."""
    return repr(text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 2] + "..")


def asks_percent(question: str, gold: str) -> bool:
    """Whether a question wants its answer in percent; one that is not known may, if the answer is not below 1."""
    if question:
        return _ASKS_PERCENT.search(question) is not None
    number = _plain_number(extract_gold(gold))
    return number is None or abs(number) >= 1


def compare_plain_numbers(answer: str, gold: str) -> bool | None:
    """Compare two plain decimal numbers exactly; None if one of them is anything else.

    A sign, thousands commas, leading and trailing zeros make no difference. math-verify rounds decimals to
    six places; here 0.3333333 and 0.3333334 differ.
    """
    left, right = _plain_number(answer), _plain_number(gold)
    return None if left is None or right is None else left == right


def _plain_number(text: str) -> Decimal | None:
    text = text.replace("\N{MINUS SIGN}", "-")
    return Decimal(text.replace(",", "")) if _PLAIN_NUMBER.fullmatch(text) else None
