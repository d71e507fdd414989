r"""Multiple choice: letters, with or without the option's text, and texts where the options are known.

    B   (B)   \text{(B)}   B. Paris   option B   选B   Paris (the gold answer or the question says that is B)

An answer of several letters is right only if the gold answer has the same ones, in any order.
"""

from __future__ import annotations

import re
import unicodedata

from r1ray.rewards.extract import extract_answer, extract_gold
from r1ray.rewards.math_answer import shown, verdict_result
from r1ray.rewards.protocol import RewardResult
from r1ray.rewards.text_answer import normalise
from r1ray.template import answer_section
from r1ray.types import Verdict

_WRAPPERS = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|mathit|boldsymbol|bf|rm)\b\s*|[${}*`\"']|\\[,;! ()\[\]]")
_NAMED = re.compile(
    r"^(?:the\s+|my\s+)?(?:correct\s+)?(?:option|choice|correct|answer|answers|options|choices|选项|选择|故?选|答案)s?(?:\s+is)?\s*[:是为]?\s*",
    re.IGNORECASE,
)
_LETTERS = re.compile(r"^[A-Z](?:\s*(?:[,;、&/]|and|or|和|或)?\s*[A-Z])*$", re.IGNORECASE)
_LETTER_AND_TEXT = re.compile(
    r"^(?:[(\[【]\s*([A-Z])\s*[)\]】]|([A-Z])\s*[.):\u3001])\s*(.+)$", re.IGNORECASE | re.DOTALL
)
_DECLARED = re.compile(r"\b(?i:option|choice|answer)\s+\(?([A-Z])\)?\s+is\s+(?:the\s+)?(?i:correct|right|best)")
# The longest line that is an option and no reasoning.
_MAX_LINE_CHARS = 200
_OPTION = re.compile(
    r"(?:^|\n|(?<=\s))\s*[(\[]?([A-Z])\s*[).\]:\u3001]\s*(.+?)(?=\s+[(\[]?[A-Z]\s*[).\]:\u3001]\s|\n|$)"
)


def judge(completion: str, gold: str, question: str) -> RewardResult:
    """Compare the choice of a completion with the gold one.

    Args:
        completion: whole text.
        gold: letter or letters, letter with text, or an option's text.
        question: may list the options.
    """
    options = {letter: normalise(text) for letter, text in _OPTION.findall(unicodedata.normalize("NFKC", question))}
    wanted, wanted_text = _read(extract_gold(gold))
    if wanted is None:
        wanted = _letters_of_text(wanted_text, options)
    if wanted is None and not wanted_text:
        return verdict_result(
            Verdict.ERROR, f"gold answer {shown(gold)} is no choice: give a letter or an option's text"
        )
    answer = extract_answer(completion) or _declared(completion) or _bare_choice(completion, options)
    if answer is None:
        return verdict_result(Verdict.UNPARSEABLE, "no answer found")
    given, text = _read(answer)
    if given is None:
        given = _letters_of_text(text, options)
    if wanted is not None and given is not None:
        correct = wanted == given and not _contradicts(given, text, options)
    else:
        correct = bool(text) and text == wanted_text
    readable = given is not None or (text and (wanted is None or bool(wanted_text) or bool(options)))
    verdict = Verdict.CORRECT if correct else Verdict.WRONG if readable else Verdict.UNPARSEABLE
    return verdict_result(verdict, f"answer {shown(answer)}")


def _declared(completion: str) -> str | None:
    """Return D of "Option D is correct"."""
    found = _DECLARED.findall(answer_section(completion))
    return found[-1] if found else None


def _bare_choice(completion: str, options: dict[str, str]) -> str | None:
    """Return the one line that is a choice and nothing else, at the end or above its explanation."""
    lines = [line.strip() for line in answer_section(completion).splitlines() if line.strip()]
    found: dict[frozenset[str], str] = {}
    for line in lines:
        letters, text = _read(line) if len(line) <= _MAX_LINE_CHARS else (None, "")
        if letters is not None and (not text or len(lines) == 1 or (len(letters) == 1 and text in options.values())):
            found[letters] = line
        elif letters is None and (by_text := _letters_of_text(text, options)):
            found[by_text] = line
    if len(found) != 1:
        return None
    answer = next(iter(found.values()))
    return answer if answer in (lines[0], lines[-1]) else None


def _read(answer: str) -> tuple[frozenset[str] | None, str]:
    """Return the letters that an answer chooses, None where it chooses none by letter, and its text."""
    plain = _WRAPPERS.sub("", unicodedata.normalize("NFKC", answer)).strip().rstrip("。.,;").strip()
    plain = _NAMED.sub("", plain).strip()
    plain = re.sub(r"\s*(?:选?项|\s(?:option|choice))$", "", plain)
    flat = re.sub(r"[()\[\]【】]", " ", plain).strip()
    if _LETTERS.match(flat):
        found = re.findall("[A-Z]", re.sub(r"\b(?:and|or)\b|和|或", " ", flat), re.IGNORECASE)
        # Two lower-case letters or more are a word.
        if len(found) == 1 or plain == plain.upper() or re.search(r"\b(?:and|or)\b|[,;、]", plain):
            return frozenset(letter.upper() for letter in found), ""
    with_text = _LETTER_AND_TEXT.match(plain)
    if with_text:
        return frozenset((with_text[1] or with_text[2]).upper()), normalise(with_text[3])
    return None, normalise(plain)


def _letters_of_text(text: str, options: dict[str, str]) -> frozenset[str] | None:
    found = [letter for letter, option in options.items() if option == text and text]
    return frozenset(found) if len(found) == 1 else None


def _contradicts(letters: frozenset[str], text: str, options: dict[str, str]) -> bool:
    """Whether a letter comes with the text of another option."""
    other = _letters_of_text(text, options)
    return other is not None and other != letters
