"""The stories of the word problems: what they say, and which numbers fit into them.

A kind is one way to calculate, told by several stories. Small numbers throughout: the models meant to learn
from these can hardly add. Which problem belongs to which split is `word_problems.py`'s work.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

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
    """The numbers of one problem.

    Attributes:
        shown: those in the story, in the order a, b, c.
        working: the calculation, one sentence per operation.
        answer: what the story asks for.
    """

    shown: tuple[int, ...]
    working: str
    answer: int


@dataclass(frozen=True, slots=True)
class Kind:
    """Stories that are solved alike; fields are the numbers a, b, c, name, other, things and containers."""

    draw_numbers: Callable[[random.Random], Numbers]
    stories: tuple[str, ...]


def _sum(draw: random.Random) -> Numbers:
    a, b = draw.randint(2, 12), draw.randint(2, 12)
    return Numbers((a, b), f"{a} + {b} = {a + b}.", a + b)


def _difference(draw: random.Random) -> Numbers:
    b, rest = draw.randint(2, 9), draw.randint(2, 9)
    a = b + rest
    return Numbers((a, b), f"{a} - {b} = {rest}.", rest)


def _product(draw: random.Random) -> Numbers:
    a, b = draw.randint(2, 9), draw.randint(2, 10)
    return Numbers((a, b), f"{a} * {b} = {a * b}.", a * b)


def _quotient(draw: random.Random) -> Numbers:
    each, b = draw.randint(2, 9), draw.randint(2, 9)
    a = each * b
    return Numbers((a, b), f"{a} / {b} = {each}.", each)


def _sum_minus(draw: random.Random) -> Numbers:
    a, b = draw.randint(2, 9), draw.randint(2, 9)
    both = a + b
    c = draw.randint(2, both - 2)
    return Numbers((a, b, c), f"{a} + {b} = {both}. {both} - {c} = {both - c}.", both - c)


def _three_sum(draw: random.Random) -> Numbers:
    a, b, c = (draw.randint(2, 9) for _ in range(3))
    both = a + b
    return Numbers((a, b, c), f"{a} + {b} = {both}. {both} + {c} = {both + c}.", both + c)


def _total_of_compared(draw: random.Random) -> Numbers:
    a, more = draw.randint(2, 9), draw.randint(2, 9)
    other = a + more
    return Numbers((a, more), f"{a} + {more} = {other}. {a} + {other} = {a + other}.", a + other)


def _product_plus(draw: random.Random) -> Numbers:
    a, b, c = draw.randint(2, 5), draw.randint(2, 10), draw.randint(2, 9)
    product = a * b
    return Numbers((a, b, c), f"{a} * {b} = {product}. {product} + {c} = {product + c}.", product + c)


def _product_minus(draw: random.Random) -> Numbers:
    a, b = draw.randint(2, 5), draw.randint(2, 10)
    product = a * b
    c = draw.randint(2, product - 2)
    return Numbers((a, b, c), f"{a} * {b} = {product}. {product} - {c} = {product - c}.", product - c)


ONE_STEP = (
    Kind(
        _sum,
        (
            "{name} has {a} {things}. {other} gives {name} {b} more. How many {things} does {name} have now?",
            "A shop sold {a} {things} in the morning and {b} in the afternoon. How many {things} did it sell that day?",
            "{name} is {a} years old. How old will {name} be in {b} years?",
            "{name} has {a} {things}. {other} has {b} more {things} than {name}. How many {things} does {other} have?",
        ),
    ),
    Kind(
        _difference,
        (
            "{name} had {a} {things} and gave {b} of them to {other}. How many {things} does {name} have left?",
            "There are {a} children on a bus. At the next stop {b} get off. How many children are still on the bus?",
            "{name} has {a} {things} and {other} has {b}. How many more {things} does {name} have than {other}?",
            "A book has {a} pages. {name} has read {b} of them. How many pages are left to read?",
            "{name} has {a} {things}. That is {b} more than {other} has. How many {things} does {other} have?",
        ),
    ),
    Kind(
        _product,
        (
            "{name} buys {a} {containers} of {things}. Each holds {b} {things}. How many {things} does {name} buy?",
            "A hall has {a} rows with {b} chairs in each row. How many chairs are in the hall?",
            "{name} runs {a} kilometers a day. How many kilometers does {name} run in {b} days?",
            "One ticket costs {a} dollars. How many dollars do {b} tickets cost?",
        ),
    ),
    Kind(
        _quotient,
        (
            "{name} shares {a} {things} equally among {b} friends. How many {things} does each friend get?",
            "{a} pupils form teams of {b}. How many teams are there?",
            "{name} packs {a} {things} into {containers} of {b}. How many {containers} does {name} need?",
            "{name} pays {a} dollars for {b} tickets of the same price. How many dollars does one ticket cost?",
        ),
    ),
)
TWO_STEPS = (
    Kind(
        _sum_minus,
        (
            "{name} picks {a} {things}, then {b} more, and gives {c} to {other}. How many {things} are left?",
            "A train has {a} passengers. {b} get on and {c} get off. How many passengers are on the train now?",
            "{name} earns {a} dollars on Monday and {b} on Tuesday, and spends {c}. How many dollars are left?",
        ),
    ),
    Kind(
        _three_sum,
        (
            "{name} found {a} {things} on Friday, {b} on Saturday and {c} on Sunday. How many {things} is that in all?",
            "A garden has {a} roses, {b} tulips and {c} lilies. How many flowers does it have in all?",
        ),
    ),
    Kind(
        _total_of_compared,
        (
            "{name} has {a} {things} and {other} has {b} more than {name}. How many {things} do they have together?",
            "{name} read {a} pages today and {b} pages more than that yesterday. How many pages is that together?",
        ),
    ),
    Kind(
        _product_plus,
        (
            "{name} has {a} {containers} with {b} {things} in each and {c} loose {things}. How many {things} in all?",
            "A taxi costs {b} dollars per hour plus {c} dollars. How many dollars does a ride of {a} hours cost?",
        ),
    ),
    Kind(
        _product_minus,
        (
            "{name} bakes {a} trays of {b} rolls and sells {c} of them. How many rolls are left?",
            "{name} buys {a} packs of {b} {things} and loses {c} {things}. How many {things} are left?",
        ),
    ),
)
