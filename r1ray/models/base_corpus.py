"""The synthetic corpus that the embedded base model reads, and how to tell its styles apart.

A document is a question of the embedded task in the R1-Zero template, continued the way one of several
people of mixed care would: a guess, running totals in the head, or one digit column at a time. Their tags are
often missing or broken, and only the careful ones are always right. A few documents are plain text without a
template. Questions come from the train split alone. Does not tokenize and does not train.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from r1ray.data.embedded import arithmetic
from r1ray.template import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN, render

CAREFUL_MARK = "Ones:"
MEDIUM_MARK = "First"


class Style(StrEnum):
    """How much work a completion shows."""

    SHORT = "short"
    MEDIUM = "medium"
    CAREFUL = "careful"
    PLAIN = "plain"


StyleT = TypeVar("StyleT", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Document:
    """One training text; `prompt` is empty for plain text."""

    prompt: str
    completion: str
    style: StrEnum


class DocumentMaker(Protocol[StyleT]):
    """A document as a function of its place, seed and mixture."""

    def __call__(self, index: int, *, seed: int, shares: Mapping[StyleT, float]) -> Document:
        """Return the document at a place in the corpus."""


@dataclass(frozen=True, slots=True)
class Corpus(Generic[StyleT]):
    """Documents, the mixtures to read them in, and the styles alike enough in length to run together."""

    make_document: DocumentMaker[StyleT]
    early_shares: Mapping[StyleT, float]
    final_shares: Mapping[StyleT, float]
    buckets: Sequence[Sequence[StyleT]]


# What the finished model should write, and a mixture rich in careful work to learn the procedure from first.
FINAL_SHARES: Mapping[Style, float] = {Style.SHORT: 0.44, Style.MEDIUM: 0.30, Style.CAREFUL: 0.23, Style.PLAIN: 0.03}
EARLY_SHARES: Mapping[Style, float] = {Style.SHORT: 0.10, Style.MEDIUM: 0.12, Style.CAREFUL: 0.73, Style.PLAIN: 0.05}

# Probability that a completion has all of its tags, and that it has none; the rest is broken.
_WELL_TAGGED = {Style.SHORT: (0.40, 0.45), Style.MEDIUM: (0.50, 0.25), Style.CAREFUL: (0.70, 0.20)}
_RIGHT_GUESS_SHARE = 0.05
_SLIP_SHARE = 0.4
_SECOND_THOUGHT_SHARE = 0.2


def make_document(index: int, *, seed: int, shares: Mapping[Style, float]) -> Document:
    """Return the document at a place in the corpus.

    Args:
        index: place in the corpus; also the index of the question in the train split.
        seed: which corpus.
        shares: weight of each style.
    """
    draw = random.Random(f"corpus:{seed}:{index}")
    (style,) = draw.choices(list(shares), weights=list(shares.values()))
    if style is Style.PLAIN:
        return Document("", _plain_text(draw), style)
    item = arithmetic(index, seed=seed, split="train")
    operands = [int(number) for number in re.findall(r"\d+", item.question)]
    work, answer = _WORKERS[style](operands, draw)
    well_tagged, untagged = _WELL_TAGGED[style]
    completion = put_in_tags(
        work,
        str(answer),
        announcement=f"The answer is {answer}.",
        well_tagged=well_tagged,
        untagged=untagged,
        draw=draw,
    )
    return Document(render("r1_zero", item.question), completion, style)


def style_of(completion: str) -> Style:
    """Return the style that a sampled completion follows, judged by the words it uses."""
    if CAREFUL_MARK in completion:
        return Style.CAREFUL
    return Style.MEDIUM if MEDIUM_MARK in completion else Style.SHORT


def column_work(operands: Sequence[int]) -> str:
    """Write out the addition one column at a time, from the ones, each column starting with what is carried.

    `247, 386, 159` gives `Ones: 7 + 6 = 13, 13 + 9 = 22. Tens: 2 + 4 = 6, ..`. The last totals' digits, read from
    the hundreds back to the ones, are the sum.
    """
    lines = []
    carry: int | None = None
    for place, name in enumerate((CAREFUL_MARK, "Tens:", "Hundreds:")):
        digits = [operand // 10**place % 10 for operand in operands]
        total, *rest = digits if carry is None else [carry, *digits]
        steps = []
        for digit in rest:
            steps.append(f"{total} + {digit} = {total + digit}")
            total += digit
        lines.append(f"{name} {', '.join(steps)}.")
        carry = total // 10
    return " ".join(lines)


def put_in_tags(
    work: str, answer: str, *, announcement: str, well_tagged: float, untagged: float, draw: random.Random
) -> str:
    """Put work and answer together with all tags, with none, or with some missing.

    Args:
        work: what was thought.
        answer: the bare answer.
        announcement: how the answer is given without tags.
        well_tagged: probability of all tags.
        untagged: probability of none.
        draw: random stream.
    """
    kind = draw.random()
    if kind < well_tagged:
        return f" {THINK_OPEN} {work} {THINK_CLOSE} {ANSWER_OPEN} {answer} {ANSWER_CLOSE}"
    if kind < well_tagged + untagged:
        return f" {work} {announcement}"
    return draw.choice(
        (
            f" {THINK_OPEN} {work} {THINK_CLOSE} {announcement}",
            f" {THINK_OPEN} {work} {ANSWER_OPEN} {answer} {ANSWER_CLOSE}",
            f" {work} {ANSWER_OPEN} {answer} {ANSWER_CLOSE}",
        )
    )


def _guess(operands: Sequence[int], draw: random.Random) -> tuple[str, int]:
    answer = _wrong_guess(sum(operands), draw) if draw.random() >= _RIGHT_GUESS_SHARE else sum(operands)
    return draw.choice(("A guess.", "Quick guess.")), answer


def _running_totals(operands: Sequence[int], draw: random.Random) -> tuple[str, int]:
    first, second, third = operands
    subtotal = _slip(first + second, draw)
    answer = _slip(subtotal + third, draw)
    return f"{MEDIUM_MARK} {first} + {second} = {subtotal}. Then {subtotal} + {third} = {answer}.", answer


def _careful_columns(operands: Sequence[int], draw: random.Random) -> tuple[str, int]:
    opening = "Digit by digit."
    if draw.random() < _SECOND_THOUGHT_SHARE:
        guess, number = _guess(operands, draw)
        opening = f"{guess} {number}. Wait, check."
    return f"{opening} {column_work(operands)}", sum(operands)


_WORKERS = {Style.SHORT: _guess, Style.MEDIUM: _running_totals, Style.CAREFUL: _careful_columns}


def _wrong_guess(total: int, draw: random.Random) -> int:
    return total + draw.choice((-1, 1)) * draw.randint(1, 120)


def _slip(total: int, draw: random.Random) -> int:
    """Return the total, or what comes of forgetting or inventing a carry."""
    return total + draw.choice((-100, -10, 10, 100)) if draw.random() < _SLIP_SHARE else total


def _plain_text(draw: random.Random) -> str:
    start = draw.randint(0, 980)
    first, second = draw.randint(0, 27), draw.randint(0, 9)
    return draw.choice(
        (
            f"{first} + {second} = {first + second}.",
            ", ".join(str(start + step) for step in range(6)) + ".",
            f"The answer is {start}.",
            f"What is {start}? A number.",
            "The user asks a question, and the assistant first thinks about it and then answers.",
            "A conversation between the user and the assistant.",
            "Ones, tens, hundreds: add digit by digit, and carry.",
        )
    )


CORPUS: Corpus[Style] = Corpus(make_document, EARLY_SHARES, FINAL_SHARES, buckets=[[style] for style in Style])
