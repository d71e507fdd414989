"""The embedded task `word_problems`: short arithmetic stories with an integer answer.

For small chat models, which solve a part of them and can learn to solve more. One or two operations each:
sums, differences, comparisons, products, even divisions. Train and held-out questions never meet: a hash of
the story and its numbers decides the split, so that not even the names in it can tell two questions apart.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from r1ray.data.embedded.item import TaskItem
from r1ray.errors import DataError

SPLITS = ("train", "eval")
_EVAL_ONE_IN = 10

NAMES = (
    "Ada", "Ben", "Carla", "David", "Elena", "Felix", "Grace", "Hassan", "Ines", "Jonas", "Keiko", "Liam",
    "Maya", "Noah", "Olga", "Priya", "Quinn", "Rosa", "Sam", "Tara", "Umar", "Vera", "Wei", "Yusuf",
)  # fmt: skip
THINGS = (
    "apples", "books", "buttons", "cards", "coins", "cookies", "eggs", "flowers", "marbles", "oranges",
    "pencils", "photos", "shells", "stamps", "stickers", "tickets",
)  # fmt: skip
CONTAINERS = ("bags", "baskets", "boxes", "jars", "packs", "trays")


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers a story shows, in the order a, b, c, and the answer to its question."""

    shown: tuple[int, ...]
    answer: int


def word_problems(index: int, *, seed: int, split: str) -> TaskItem:
    """Return the question at a place in a split's endless stream.

    Args:
        index: place in the stream, at least 0. Different indices may, rarely, give the same question.
        seed: which stream.
        split: `train` or `eval`; no question is in both, whatever the seeds.

    Returns:
        A question such as `Maya has 14 shells. Ben gives Maya 23 more. How many shells does Maya have now?`
        with the answer `37`.

    Raises:
        DataError: unknown split or negative index.
    """
    if split not in SPLITS:
        raise DataError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if index < 0:
        raise DataError(f"index must be >= 0, got {index}")
    # Seeding with text, unlike hash(), gives the same stream in every process and Python release.
    draw = random.Random(f"word_problems:{split}:{seed}:{index}")
    story, numbers = _draw_problem(draw)
    while split_of(story, numbers.shown) != split:
        story, numbers = _draw_problem(draw)
    name, other = draw.sample(NAMES, 2)
    question = story.format(
        **dict(zip("abc", numbers.shown, strict=False)),
        name=name,
        other=other,
        things=draw.choice(THINGS),
        containers=draw.choice(CONTAINERS),
    )
    return TaskItem(question=question, answer=str(numbers.answer))


def split_of(story: str, shown: tuple[int, ...]) -> str:
    """Return the one split that this story with these numbers belongs to, whoever it is about."""
    key = f"{story}|{','.join(map(str, shown))}"
    return "eval" if zlib.crc32(key.encode()) % _EVAL_ONE_IN == 0 else "train"


def _draw_problem(draw: random.Random) -> tuple[str, Numbers]:
    story, draw_numbers = draw.choice(STORIES)
    return story, draw_numbers(draw)


def _sum(draw: random.Random) -> Numbers:
    a, b = draw.randint(2, 12), draw.randint(2, 12)
    return Numbers((a, b), a + b)


def _difference(draw: random.Random) -> Numbers:
    b, rest = draw.randint(2, 9), draw.randint(2, 9)
    return Numbers((b + rest, b), rest)


def _product(draw: random.Random) -> Numbers:
    a, b = draw.randint(2, 9), draw.randint(2, 10)
    return Numbers((a, b), a * b)


def _quotient(draw: random.Random) -> Numbers:
    each, parts = draw.randint(2, 9), draw.randint(2, 9)
    return Numbers((each * parts, parts), each)


def _sum_minus(draw: random.Random) -> Numbers:
    a, b = draw.randint(2, 9), draw.randint(2, 9)
    c = draw.randint(2, a + b - 2)
    return Numbers((a, b, c), a + b - c)


def _three_sum(draw: random.Random) -> Numbers:
    shown = tuple(draw.randint(2, 9) for _ in range(3))
    return Numbers(shown, sum(shown))


def _total_of_compared(draw: random.Random) -> Numbers:
    a, more = draw.randint(2, 9), draw.randint(2, 9)
    return Numbers((a, more), a + a + more)


def _product_plus(draw: random.Random) -> Numbers:
    a, b, c = draw.randint(2, 5), draw.randint(2, 10), draw.randint(2, 9)
    return Numbers((a, b, c), a * b + c)


def _product_minus(draw: random.Random) -> Numbers:
    a, b = draw.randint(2, 5), draw.randint(2, 10)
    c = draw.randint(2, a * b - 2)
    return Numbers((a, b, c), a * b - c)


_Draw = Callable[[random.Random], Numbers]
_STORIES: tuple[tuple[_Draw, tuple[str, ...]], ...] = (
    (
        _sum,
        (
            "{name} has {a} {things}. {other} gives {name} {b} more. How many {things} does {name} have now?",
            "A shop sold {a} {things} in the morning and {b} in the afternoon. How many {things} did it sell that day?",
            "{name} is {a} years old. How old will {name} be in {b} years?",
            "{name} has {a} {things}. {other} has {b} more {things} than {name}. How many {things} does {other} have?",
        ),
    ),
    (
        _difference,
        (
            "{name} had {a} {things} and gave {b} of them to {other}. How many {things} does {name} have left?",
            "There are {a} children on a bus. At the next stop {b} get off. How many children are still on the bus?",
            "{name} has {a} {things} and {other} has {b}. How many more {things} does {name} have than {other}?",
            "A book has {a} pages. {name} has read {b} of them. How many pages are left to read?",
            "{name} has {a} {things}. That is {b} more than {other} has. How many {things} does {other} have?",
        ),
    ),
    (
        _product,
        (
            "{name} buys {a} {containers} of {things}. Each holds {b} {things}. How many {things} does {name} buy?",
            "A hall has {a} rows with {b} chairs in each row. How many chairs are in the hall?",
            "{name} runs {a} kilometers a day. How many kilometers does {name} run in {b} days?",
            "One ticket costs {a} dollars. How many dollars do {b} tickets cost?",
        ),
    ),
    (
        _quotient,
        (
            "{name} shares {a} {things} equally among {b} friends. How many {things} does each friend get?",
            "{a} pupils form teams of {b}. How many teams are there?",
            "{name} packs {a} {things} into {containers} of {b}. How many {containers} does {name} need?",
            "{name} pays {a} dollars for {b} tickets of the same price. How many dollars does one ticket cost?",
        ),
    ),
    (
        _sum_minus,
        (
            "{name} picks {a} {things}, then {b} more, and gives {c} to {other}. How many {things} are left?",
            "A train has {a} passengers. {b} get on and {c} get off. How many passengers are on the train now?",
            "{name} earns {a} dollars on Monday and {b} on Tuesday, and spends {c}. How many dollars are left?",
        ),
    ),
    (
        _three_sum,
        (
            "{name} found {a} {things} on Friday, {b} on Saturday and {c} on Sunday. How many {things} is that in all?",
            "A garden has {a} roses, {b} tulips and {c} lilies. How many flowers does it have in all?",
        ),
    ),
    (
        _total_of_compared,
        (
            "{name} has {a} {things} and {other} has {b} more than {name}. How many {things} do they have together?",
            "{name} read {a} pages today and {b} pages more than that yesterday. How many pages is that together?",
        ),
    ),
    (
        _product_plus,
        (
            "{name} has {a} {containers} with {b} {things} in each and {c} loose {things}. How many {things} in all?",
            "A taxi costs {b} dollars per hour plus {c} dollars. How many dollars does a ride of {a} hours cost?",
        ),
    ),
    (
        _product_minus,
        (
            "{name} bakes {a} trays of {b} rolls and sells {c} of them. How many rolls are left?",
            "{name} buys {a} packs of {b} {things} and loses {c} {things}. How many {things} are left?",
        ),
    ),
)
STORIES = tuple((story, draw_numbers) for draw_numbers, stories in _STORIES for story in stories)
