from __future__ import annotations

import operator
import random
import re
import string

import pytest

from r1ray.data.embedded.registry import TASKS
from r1ray.data.embedded.word_problems import split_of, word_problems, word_problems_few_shot
from r1ray.data.embedded.word_stories import ONE_STEP, TWO_STEPS, Kind
from r1ray.errors import DataError
from r1ray.types import DOMAIN_OF_TASK

SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def fields_of(story: str) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(story) if name is not None]


def as_pattern(story: str) -> re.Pattern[str]:
    """A regular expression that takes a question of this story apart again."""
    seen: set[str] = set()
    parts = []
    for literal, name, _, _ in string.Formatter().parse(story):
        parts.append(re.escape(literal))
        if name is not None:
            kind = r"\d+" if name in "abc" else r"\w+"
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{kind})")
            seen.add(name)
    return re.compile("".join(parts))


KIND_OF: dict[str, Kind] = {story: kind for kind in ONE_STEP + TWO_STEPS for story in kind.stories}
PATTERNS = {story: as_pattern(story) for story in KIND_OF}


def take_apart(question: str) -> tuple[str, tuple[int, ...]]:
    """Return the story of a question and its numbers a, b, c; there must be exactly one such story."""
    found = [(story, match) for story, pattern in PATTERNS.items() if (match := pattern.fullmatch(question))]
    assert len(found) == 1, question
    story, match = found[0]
    return story, tuple(int(match[name]) for name in "abc" if name in match.groupdict())


@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_question_belongs_to_its_split_by_its_text_alone(split: str) -> None:
    # split_of is a function of story and numbers, and both can be read off the question: so no question,
    # under any seed, names or things, can be in both splits.
    for seed in range(3):
        for index in range(400):
            story, numbers = take_apart(word_problems(index, seed=seed, split=split).question)
            assert split_of(story, numbers) == split


def test_train_and_eval_questions_do_not_meet() -> None:
    def problems(split: str) -> set[tuple[str, tuple[int, ...]]]:
        return {take_apart(word_problems(index, seed=0, split=split).question) for index in range(1500)}

    assert problems("train").isdisjoint(problems("eval"))


def test_every_story_occurs_and_they_are_varied() -> None:
    stories = {take_apart(word_problems(index, seed=1, split="train").question)[0] for index in range(1000)}
    assert stories == set(PATTERNS)
    assert len(stories) >= 12


def test_stream_is_stable() -> None:
    items = [word_problems(index, seed=5, split="train") for index in range(50)]
    assert items == [word_problems(index, seed=5, split="train") for index in range(50)]
    assert items != [word_problems(index, seed=6, split="train") for index in range(50)]


def test_questions_seldom_repeat() -> None:
    questions = [word_problems(index, seed=0, split="train").question for index in range(1000)]
    assert len(set(questions)) > 900


@pytest.mark.parametrize("story", PATTERNS)
def test_story_shows_every_number_of_its_kind(story: str) -> None:
    for seed in range(50):
        numbers = KIND_OF[story].draw_numbers(random.Random(seed))
        assert {name for name in fields_of(story) if name in "abc"} == set("abc"[: len(numbers.shown)])
        assert min(*numbers.shown, numbers.answer) >= 2


@pytest.mark.parametrize("kind", ONE_STEP + TWO_STEPS, ids=lambda kind: kind.draw_numbers.__name__)
def test_working_is_right_and_ends_with_the_answer(kind: Kind) -> None:
    for seed in range(100):
        numbers = kind.draw_numbers(random.Random(seed))
        steps = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)\.", numbers.working)
        assert len(steps) == (1 if kind in ONE_STEP else 2)
        for left, sign, right, result in steps:
            assert SIGNS[sign](int(left), int(right)) == int(result)
        assert int(steps[-1][3]) == numbers.answer


@pytest.mark.parametrize(
    ("name", "shown", "answer"),
    [
        ("_sum", 2, lambda a, b: a + b),
        ("_difference", 2, lambda a, b: a - b),
        ("_product", 2, lambda a, b: a * b),
        ("_quotient", 2, lambda a, b: a / b),
        ("_sum_minus", 3, lambda a, b, c: a + b - c),
        ("_three_sum", 3, lambda a, b, c: a + b + c),
        ("_total_of_compared", 2, lambda a, b: 2 * a + b),
        ("_product_plus", 3, lambda a, b, c: a * b + c),
        ("_product_minus", 3, lambda a, b, c: a * b - c),
    ],
)
def test_answer_is_what_the_kind_says(name: str, shown: int, answer) -> None:
    kind = next(kind for kind in ONE_STEP + TWO_STEPS if kind.draw_numbers.__name__ == name)
    for seed in range(100):
        numbers = kind.draw_numbers(random.Random(seed))
        assert len(numbers.shown) == shown
        assert answer(*numbers.shown) == numbers.answer


@pytest.mark.parametrize("split", ["train", "eval"])
def test_few_shot_asks_the_same_question_after_four_examples_of_its_kind(split: str) -> None:
    for index in range(300):
        item, bare = (task(index, seed=2, split=split) for task in (word_problems_few_shot, word_problems))
        *examples, last = item.question.split("\n\n")
        assert (last, item.answer) == (f"Q: {bare.question}\nA:", bare.answer)
        asked = take_apart(bare.question)
        told = [take_apart(example.removeprefix("Q: ").partition("\nA: ")[0]) for example in examples]
        assert len({asked, *told}) == 5
        assert {KIND_OF[story] for story, _ in told} == {KIND_OF[asked[0]]}
        assert all(split_of(*problem) == "train" for problem in told)


def test_examples_are_solved_right() -> None:
    for index in range(200):
        for example in word_problems_few_shot(index, seed=0, split="train").question.split("\n\n")[:-1]:
            left, sign, right, result = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)\.", example)[-1]
            assert SIGNS[sign](int(left), int(right)) == int(result)
            assert example.endswith(f"The answer is {result}.")


def test_impossible_index_or_split_is_an_error() -> None:
    with pytest.raises(DataError, match="split must be one of train, eval, got 'test'"):
        word_problems(0, seed=0, split="test")
    with pytest.raises(DataError, match="index must be >= 0, got -1"):
        word_problems(-1, seed=0, split="train")


@pytest.mark.parametrize("name", TASKS)
def test_every_registered_task_has_both_splits(name: str) -> None:
    train, held_out = (TASKS[name](0, seed=0, split=split) for split in ("train", "eval"))
    assert train.question != held_out.question
    assert train.task in DOMAIN_OF_TASK
    assert (train.answer is None) == (train.task == "text")
