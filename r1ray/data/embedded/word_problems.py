"""The embedded tasks `word_problems` and `word_problems_few_shot`: short arithmetic stories with an integer answer.

One or two operations each: sums, differences, comparisons, products, even divisions. The first asks the bare
question, for chat models; the second puts worked examples before it, which even a base model of 135M
parameters goes on from. Train and held-out questions never meet: a hash of the story and its numbers decides
the split, so that not even the names can make the difference.
"""

from __future__ import annotations

import random
import zlib

from r1ray.data.embedded.item import TaskItem
from r1ray.data.embedded.word_stories import CONTAINERS, NAMES, ONE_STEP, THINGS, TWO_STEPS, Kind, Numbers
from r1ray.errors import DataError

SPLITS = ("train", "eval")
_EVAL_ONE_IN = 5
_TWO_STEPS_ONE_IN = 4
# How many worked examples tell other stories of the question's kind, and how many its own with other numbers.
_EXAMPLES_OF_KIND = 2
_EXAMPLES_OF_STORY = 2


def word_problems(index: int, *, seed: int, split: str) -> TaskItem:
    """Return the question at a place in a split's endless stream.

    Args:
        index: place in the stream, at least 0. Different indices may, rarely, give the same question.
        seed: which stream.
        split: `train` or `eval`; no question is in both, whatever the seeds.

    Returns:
        A question such as `Maya has 4 shells. Ben gives Maya 9 more. How many shells does Maya have now?`
        with the answer `13`.

    Raises:
        DataError: unknown split or negative index.
    """
    draw, _, story, numbers = _draw_at(index, seed=seed, split=split)
    return TaskItem(_tell(story, numbers, draw), str(numbers.answer))


def word_problems_few_shot(index: int, *, seed: int, split: str) -> TaskItem:
    r"""Return the same question after worked examples of its kind, none of which is the question itself.

    For the template `plain`: the model goes on after the last `A:`. Its answer is one line, so stop at "\n".

    Args:
        index: as in `word_problems`.
        seed: as in `word_problems`.
        split: as in `word_problems`; the examples are always problems of `train`.

    Returns:
        A question such as `Q: ..\nA: 3 + 4 = 7. The answer is 7.\n\nQ: ..\nA:`.

    Raises:
        DataError: unknown split or negative index.
    """
    draw, kind, story, numbers = _draw_at(index, seed=seed, split=split)
    question = _tell(story, numbers, draw)
    used = {(story, numbers.shown)}
    examples = ""
    for told in [draw.choice(kind.stories) for _ in range(_EXAMPLES_OF_KIND)] + [story] * _EXAMPLES_OF_STORY:
        example = _draw_numbers(kind, told, draw, split="train")
        while (told, example.shown) in used:
            example = _draw_numbers(kind, told, draw, split="train")
        used.add((told, example.shown))
        examples += f"Q: {_tell(told, example, draw)}\nA: {example.working} The answer is {example.answer}.\n\n"
    return TaskItem(f"{examples}Q: {question}\nA:", str(numbers.answer))


def split_of(story: str, shown: tuple[int, ...]) -> str:
    """Return the one split that this story with these numbers belongs to, whoever it is about."""
    key = f"{story}|{','.join(map(str, shown))}"
    return "eval" if zlib.crc32(key.encode()) % _EVAL_ONE_IN == 0 else "train"


def _draw_at(index: int, *, seed: int, split: str) -> tuple[random.Random, Kind, str, Numbers]:
    """Return the problem at a place, and the random stream that goes on to tell it."""
    if split not in SPLITS:
        raise DataError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if index < 0:
        raise DataError(f"index must be >= 0, got {index}")
    # Seeding with text, unlike hash(), gives the same stream in every process and Python release.
    draw = random.Random(f"word_problems:{split}:{seed}:{index}")
    kind = draw.choice(TWO_STEPS if draw.randrange(_TWO_STEPS_ONE_IN) == 0 else ONE_STEP)
    story = draw.choice(kind.stories)
    return draw, kind, story, _draw_numbers(kind, story, draw, split=split)


def _draw_numbers(kind: Kind, story: str, draw: random.Random, *, split: str) -> Numbers:
    numbers = kind.draw_numbers(draw)
    while split_of(story, numbers.shown) != split:
        numbers = kind.draw_numbers(draw)
    return numbers


def _tell(story: str, numbers: Numbers, draw: random.Random) -> str:
    name, other = draw.sample(NAMES, 2)
    shown = dict(zip("abc", numbers.shown, strict=False))
    return story.format(**shown, name=name, other=other, things=draw.choice(THINGS), containers=draw.choice(CONTAINERS))
