"""The embedded task `bilingual_choices`: which of four numbers has the largest or smallest sum of digits.

A glance at the leading digits often misleads; adding up every number's digits settles it. All digit sums have one
digit. A hash of the numbers and of what is asked decides the split.
"""

from __future__ import annotations

import random

from r1ray.data.embedded.item import TaskItem
from r1ray.data.embedded.streams import language_at, open_stream, split_of

LETTERS = "ABCD"
_LARGEST_DIGIT_SUM = 9
LARGEST, SMALLEST = "largest", "smallest"
_PHRASINGS = {
    ("en", LARGEST): ("Which number has the largest digit sum?", "Choose the number with the largest sum of digits:"),
    ("en", SMALLEST): (
        "Which number has the smallest digit sum?",
        "Choose the number with the smallest sum of digits:",
    ),
    ("zh", LARGEST): ("哪个数的数字之和最大？", "请选出数字之和最大的数："),
    ("zh", SMALLEST): ("哪个数的数字之和最小？", "请选出数字之和最小的数："),
}


def bilingual_choices(index: int, *, seed: int, split: str) -> TaskItem:
    """Return the question at a place in a split's endless stream; even places are English, odd ones Chinese.

    Args:
        index: place in the stream, at least 0.
        seed: which stream.
        split: `train` or `eval`; no four numbers are in both with the same wish, whatever the seeds.

    Returns:
        A question that lists options A to D; the answer is a letter.

    Raises:
        DataError: unknown split or negative index.
    """
    draw = open_stream("bilingual_choices", index, seed=seed, split=split)
    language = language_at(index)
    wish = draw.choice((LARGEST, SMALLEST))
    numbers = _draw_numbers(draw, wish)
    while split_of((wish, sorted(numbers))) != split:
        numbers = _draw_numbers(draw, wish)
    options = " ".join(f"{letter}) {number}" for letter, number in zip(LETTERS, numbers, strict=True))
    question = f"{draw.choice(_PHRASINGS[language, wish])} {options}"
    answer = LETTERS[numbers.index(_best(numbers, wish))]
    return TaskItem(question, answer, task="choice", domain="stem", metadata={"target_language": language})


def digit_sum(number: int) -> int:
    """Return the sum of a number's decimal digits."""
    return sum(map(int, str(number)))


def _best(numbers: list[int], wish: str) -> int:
    return (max if wish == LARGEST else min)(numbers, key=digit_sum)


def _draw_numbers(draw: random.Random, wish: str) -> list[int]:
    """Draw four different numbers of which exactly one is what is asked for."""
    allowed = [number for number in range(10, 100) if digit_sum(number) <= _LARGEST_DIGIT_SUM]
    while True:
        numbers = draw.sample(allowed, len(LETTERS))
        sums = [digit_sum(number) for number in numbers]
        if sums.count(digit_sum(_best(numbers, wish))) == 1:
            return numbers
