"""How the people behind the bilingual corpus solve a question: by a guess, in the head, or one digit at a time.

Guesses and work in the head are written in the question's language. Careful work is mostly written in a mixture of
both, as it comes to mind, and only sometimes in the question's language alone. Work in the head is often wrong,
careful work never. Tags and templates are `bilingual_corpus.py`'s work.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class SumWords:
    """The words around an addition in columns."""

    opening: str
    places: tuple[str, str, str]
    stop: str


@dataclass(frozen=True, slots=True)
class ChoiceWords:
    """The words around a comparison of digit sums; `verdict` is by what is asked for and ends before a number."""

    opening: str
    verdict: dict[bool, str]
    stop: str


# Mixed wordings have words of both languages in about equal number, whatever the question's language.
SUM_WORDS: dict[str, tuple[SumWords, ...]] = {
    "en": (
        SumWords("Let me add digit by digit.", ("Ones:", "Tens:", "Hundreds:"), "."),
        SumWords("I add the digits by column.", ("Ones:", "Tens:", "Hundreds:"), "."),
    ),
    "zh": (
        SumWords("我来逐位相加。", ("个位:", "十位:", "百位:"), "。"),
        SumWords("按数位相加。", ("个位:", "十位:", "百位:"), "。"),
    ),
    MIXED: (
        SumWords("逐位 add.", ("Ones:", "十位:", "Hundreds:"), "."),
        SumWords("Digit by digit 算.", ("个位:", "Tens:", "百位:"), "."),
        SumWords("Add 数位.", ("Ones:", "Tens:", "百位:"), "."),
        SumWords("按位 add digits.", ("个位:", "Tens:", "Hundreds:"), "."),
    ),
}
CHOICE_WORDS: dict[str, tuple[ChoiceWords, ...]] = {
    "en": (
        ChoiceWords("Let me add the digits of each.", {True: "The largest sum is", False: "The smallest sum is"}, "."),
        ChoiceWords("I add up the digits of each.", {True: "The largest sum is", False: "The smallest sum is"}, "."),
    ),
    "zh": (
        ChoiceWords("我来逐个相加。", {True: "最大的和是", False: "最小的和是"}, "。"),
        ChoiceWords("把数字逐个相加。", {True: "最大的和是", False: "最小的和是"}, "。"),
    ),
    MIXED: (
        ChoiceWords("逐个 add digits.", {True: "最大 sum is", False: "最小 sum is"}, "."),
        ChoiceWords("Add the digits.", {True: "最大的和", False: "最小的和"}, "."),
        ChoiceWords("数字相加.", {True: "The largest sum", False: "The smallest sum"}, "."),
    ),
}
GUESSES = {"en": ("This is a quick guess.", "I just guess here."), "zh": ("随便猜一个。", "我猜的。")}
SECOND_THOUGHTS = {"en": ("Wait, check.",), "zh": ("等等，检查。",), MIXED: ("等等, check.", "Wait, 检查.")}
_CAREFUL_MARKS = re.compile(r"digit|[Cc]olumn|逐|按|数位|数字相加")
_MEDIUM_MARKS = re.compile("First|Then|looks|先|再|看起来")
_HAN = re.compile(r"[\u4e00-\u9fff]")
_LATIN_WORD = re.compile(r"[A-Za-z]{2,}")

_RIGHT_GUESS_SHARE = 0.04
_SLIP_SHARE = 0.35
_RIGHT_GLANCE_SHARE = 0.42
_RIGHT_CHOICE_GUESS_SHARE = 0.22
_SECOND_THOUGHT_SHARE = 0.12


def is_careful(chain: str) -> bool:
    """Whether a chain works digit by digit, judged by the words it uses."""
    return _CAREFUL_MARKS.search(chain) is not None


def is_medium(chain: str) -> bool:
    """Whether a chain works in the head, judged by the words it uses."""
    return not is_careful(chain) and _MEDIUM_MARKS.search(chain) is not None


def share_of_language(chain: str, language: str) -> float | None:
    """Return the share of Chinese characters or of English words among both; None without any."""
    han, latin = len(_HAN.findall(chain)), len(_LATIN_WORD.findall(chain))
    return (han if language == "zh" else latin) / (han + latin) if han + latin else None


def guess_sum(operands: Sequence[int], language: str, draw: random.Random) -> tuple[str, str]:
    """Return a chain without work, and an answer that is nearly always wrong."""
    total = sum(operands)
    if draw.random() >= _RIGHT_GUESS_SHARE:
        total += draw.choice((-1, 1)) * draw.randint(1, 120)
    return draw.choice(GUESSES[language]), str(total)


def head_sum(operands: Sequence[int], language: str, draw: random.Random) -> tuple[str, str]:
    """Return running totals, each of which may slip by a carry, and the answer that comes of them."""
    first, second, third = operands
    subtotal = _slip(first + second, draw)
    answer = _slip(subtotal + third, draw)
    if language == "zh":
        return f"先算 {first} + {second} = {subtotal}。再算 {subtotal} + {third} = {answer}。", str(answer)
    return f"First we get {first} + {second} = {subtotal}. Then we get {subtotal} + {third} = {answer}.", str(answer)


def column_sum(operands: Sequence[int], wording: str, draw: random.Random) -> tuple[str, str]:
    """Return an addition by columns from the ones, each column starting with what is carried, and the sum.

    `247, 386, 159` gives `Ones: 7 + 6 = 13, + 9 = 22. Tens: 2 + 4 = 6, + 8 = 14, + 5 = 19. ..`. The last totals'
    digits, read from the hundreds back to the ones, are the sum.
    """
    words = draw.choice(SUM_WORDS[wording])
    lines, carry = [], None
    for place, name in enumerate(words.places):
        digits = [operand // 10**place % 10 for operand in operands]
        total, second, *rest = digits if carry is None else [carry, *digits]
        steps = f"{name} {total} + {second} = {total + second}"
        total += second
        for digit in rest:
            total += digit
            steps += f", + {digit} = {total}"
        lines.append(steps + words.stop)
        carry = total // 10
    opening = words.opening
    if draw.random() < _SECOND_THOUGHT_SHARE:
        opening = f"{guess_sum(operands, 'en', draw)[1]}? {draw.choice(SECOND_THOUGHTS[wording])} {opening}"
    return f"{opening} {_joined(lines, words.stop)}", str(sum(operands))


def guess_choice(numbers: Sequence[int], right: str, language: str, draw: random.Random) -> tuple[str, str]:
    """Return a chain without work and a letter that is right as often as chance."""
    return draw.choice(GUESSES[language]), _letter(right, _RIGHT_CHOICE_GUESS_SHARE, draw)


def glance_choice(numbers: Sequence[int], right: str, language: str, draw: random.Random) -> tuple[str, str]:
    """Return a vague comparison and a letter that is right somewhat more often than chance."""
    letter = _letter(right, _RIGHT_GLANCE_SHARE, draw)
    number = numbers["ABCD".index(letter)]
    chain = f"看起来 {number} 比较合适。" if language == "zh" else f"It looks like {number} fits the best."
    return chain, letter


def digit_choice(numbers: Sequence[int], right: str, wording: str, draw: random.Random) -> tuple[str, str]:
    """Return the digit sums of all options, each with the best so far, and the letter of the best.

    `31, 80, 24, ..` gives `3 + 1 = 4 A. 8 + 0 = 8 B, 8 B. 2 + 4 = 6 C, 8 B. .. The largest sum is 8 B.`
    """
    words = draw.choice(CHOICE_WORDS[wording])
    scored = [(number // 10 + number % 10, letter) for number, letter in zip(numbers, "ABCD", strict=True)]
    goal = scored["ABCD".index(right)]
    largest = goal == max(scored, key=lambda entry: entry[0])
    best = scored[0]
    lines = []
    for number, (total, letter) in zip(numbers, scored, strict=True):
        line = f"{number // 10} + {number % 10} = {total} {letter}"
        if letter != "A":
            best = (total, letter) if (total > best[0] if largest else total < best[0]) else best
            line += f", {best[0]} {best[1]}"
        lines.append(line + words.stop)
    lines.append(f"{words.verdict[largest]} {best[0]} {best[1]}{words.stop}")
    opening = words.opening
    if draw.random() < _SECOND_THOUGHT_SHARE:
        guess = _letter(right, _RIGHT_CHOICE_GUESS_SHARE, draw)
        opening = f"{guess}? {draw.choice(SECOND_THOUGHTS[wording])} {opening}"
    return f"{opening} {_joined(lines, words.stop)}", right


def _joined(lines: Sequence[str], stop: str) -> str:
    return ("" if stop == "。" else " ").join(lines)


def _slip(total: int, draw: random.Random) -> int:
    """Return the total, or what comes of forgetting or inventing a carry."""
    return total + draw.choice((-100, -10, 10, 100)) if draw.random() < _SLIP_SHARE else total


def _letter(right: str, right_share: float, draw: random.Random) -> str:
    return right if draw.random() < right_share else draw.choice([letter for letter in "ABCD" if letter != right])
