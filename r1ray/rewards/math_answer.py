"""What a completion answers to a math question, and whether that matches the gold answer.

Extraction and the fast path (plain integers and decimals) run here, in time linear in the text; all else
goes to math-verify in a killable child (`math_child.py`). Does not import sympy.
"""

from __future__ import annotations

import re
from decimal import Decimal

from r1ray.rewards.protocol import RewardResult
from r1ray.sandbox.child import ChildProcess
from r1ray.sandbox.server import Outcome
from r1ray.template import answer_section, last_answer_tag
from r1ray.types import Verdict

# No answer a person would write is longer, and parsers are superlinear.
MAX_ANSWER_CHARS = 4000
_SHOWN_CHARS = 80

_BOXED = re.compile(r"\\f?boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_ANNOUNCED = re.compile(
    r"\b(?:final answer|the answer|answer)(?:\s+is|\s*[:=])+[\s*:=]*(?=\S)",
    re.IGNORECASE,
)
# "3.5 apples. Then" ends after "apples": a dot inside a number is not the end of the sentence.
_SENTENCE_END = re.compile(r"\n|\.(?=\s|$)|\*\*")
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_PLAIN_NUMBER = re.compile(r"[+-]?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)")
_GSM8K_MARK = "####"


def judge(completion: str, gold: str, *, child: ChildProcess, time_limit_s: float) -> RewardResult:
    """Compare the answer of a completion with the gold answer.

    Args:
        completion: whole text; only what follows `</think>` counts.
        gold: bare answer, or a solution that ends in a box or in GSM8K's `#### answer`.
        child: runs `math_child.py`.
        time_limit_s: processor time for math-verify; beyond it the verdict is `timeout`.

    Returns:
        Value 1 if correct, else 0, with the verdict.
    """
    answer = extract_answer(completion)
    if answer is None:
        return _result(Verdict.UNPARSEABLE, "no answer found")
    if len(answer) > MAX_ANSWER_CHARS:
        return _result(Verdict.UNPARSEABLE, f"answer of {len(answer)} characters, at most {MAX_ANSWER_CHARS} count")
    wanted = extract_gold(gold)
    if len(wanted) > MAX_ANSWER_CHARS:
        return _result(Verdict.ERROR, f"gold answer of {len(wanted)} characters, at most {MAX_ANSWER_CHARS} are read")
    equal = compare_plain_numbers(answer, wanted)
    if equal is not None:
        return _result(Verdict.CORRECT if equal else Verdict.WRONG, f"answer {_shown(answer)}")
    return _ask(answer, wanted, child, time_limit_s)


def _ask(answer: str, gold: str, child: ChildProcess, time_limit_s: float) -> RewardResult:
    reply = child.ask({"gold": gold, "answer": answer}, time_limit_s=time_limit_s)
    if reply.outcome is Outcome.OK:
        verdict = Verdict(reply.value)
        return _result(verdict, f"gold {_shown(gold)}" if verdict is Verdict.ERROR else f"answer {_shown(answer)}")
    limited = reply.outcome in (Outcome.TIMEOUT, Outcome.MEMORY)
    return _result(
        Verdict.TIMEOUT if limited else Verdict.ERROR,
        f"answer {_shown(answer)}, gold {_shown(gold)}: {reply.detail}",
    )


def _result(verdict: Verdict, detail: str) -> RewardResult:
    if verdict is Verdict.ERROR:
        detail = f"cannot grade: {detail}"
    return RewardResult(float(verdict is Verdict.CORRECT), verdict, detail)


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 2] + "..")


def extract_answer(completion: str) -> str | None:
    """Return the bare answer of a completion, or None where it gives none.

    After `</think>`: the last `<answer>` tag, else the last box, else what the last "the answer is" or
    "final answer:" announces. Inside a tag a box or an announcement is taken further apart.
    """
    section = answer_section(completion)
    tagged = last_answer_tag(section)
    text = section if tagged is None else tagged
    answer = last_boxed(text)
    if answer is None:
        answer = announced(text)
    if answer is None:
        answer = tagged
    return _bare(answer) or None if answer is not None else None


def extract_gold(gold: str) -> str:
    """Return the bare gold answer of a dataset's answer column."""
    boxed = last_boxed(gold)
    return _bare(gold.rpartition(_GSM8K_MARK)[2] if boxed is None else boxed)


def last_boxed(text: str) -> str | None:
    r"""Return the content of the closed `\boxed{}` that starts last, braces nested at will, or None."""
    starts = {match.end() for match in _BOXED.finditer(text)}
    last, content = -1, None
    # One pass over all braces keeps this linear for a thousand boxes left open.
    open_braces: list[int] = []
    for brace in _BRACE.finditer(text) if starts else ():
        if brace[0] == "{":
            open_braces.append(brace.end())
        elif brace[0] == "}" and open_braces:
            start = open_braces.pop()
            if start in starts and start > last:
                last, content = start, text[start : brace.start()]
    return content


def announced(text: str) -> str | None:
    """Return what follows the last "the answer is" or the like, up to the end of its sentence, or None."""
    end = max((match.end() for match in _ANNOUNCED.finditer(text)), default=None)
    if end is None:
        return None
    stop = _SENTENCE_END.search(text, end)
    return text[end : stop.start() if stop else len(text)]


def _bare(text: str) -> str:
    """Strip white space, the full stop, bold marks and math delimiters around an answer."""
    text = text.strip().strip("*").strip().removesuffix(".").rstrip()
    for opening, closing in _DELIMITERS:
        inner = text[len(opening) : -len(closing)]
        if len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing):
            # "$1$ or $2$" is not one formula.
            return text if opening in inner else inner.strip()
    return text


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
