"""Free-form answers: equal after normalisation. Paraphrases are a matter for an LLM judge (`llm_judge.py`)."""

from __future__ import annotations

import re
import unicodedata

from r1ray.rewards.extract import extract_answer, extract_gold
from r1ray.rewards.math_answer import compare, shown, verdict_result
from r1ray.rewards.protocol import RewardResult
from r1ray.sandbox.child import ChildProcess
from r1ray.template import answer_section
from r1ray.types import Verdict

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_COMMANDS = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\b")


def normalise(text: str) -> str:
    """Return a text without case, punctuation, articles and extra white space.

    Source: the answer normalisation of SQuAD, arXiv:1606.05250.
    """
    text = _COMMANDS.sub(" ", unicodedata.normalize("NFKC", text)).casefold()
    return " ".join(_ARTICLES.sub(" ", re.sub(r"[^\w\s]|_", " ", text)).split())


def judge(completion: str, gold: str, *, child: ChildProcess, time_limit_s: float) -> RewardResult:
    """Compare a free-form answer with the gold one; without an announced answer the whole reply is it."""
    wanted = extract_gold(gold)
    if not wanted:
        return verdict_result(Verdict.ERROR, "the gold answer is empty")
    answer = extract_answer(completion)
    if answer is None:
        answer = answer_section(completion).strip()
    if not answer:
        return verdict_result(Verdict.UNPARSEABLE, "no answer found")
    if normalise(answer) == normalise(wanted) and normalise(wanted):
        return verdict_result(Verdict.CORRECT, f"answer {shown(answer)}")
    if any(character.isdigit() for character in wanted) and len(answer) < len(wanted) + 40:
        result = compare(answer, wanted, child=child, time_limit_s=time_limit_s, bare_percent=True)
        if result.verdict is Verdict.CORRECT:
            return result
    return verdict_result(Verdict.WRONG, f"answer {shown(answer)}")
