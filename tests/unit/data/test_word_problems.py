from __future__ import annotations

import re
import string

import pytest

from r1ray.data.embedded.registry import TASKS
from r1ray.data.embedded.word_problems import STORIES, split_of, word_problems
from r1ray.errors import DataError


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


PATTERNS = {story: as_pattern(story) for story, _ in STORIES}


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
    assert len(set(questions)) > 950


@pytest.mark.parametrize("story", PATTERNS)
def test_story_shows_every_number_of_its_kind(story: str) -> None:
    import random

    draw_numbers = dict(STORIES)[story]
    for seed in range(50):
        numbers = draw_numbers(random.Random(seed))
        assert [name for name in dict.fromkeys(fields_of(story)) if name in "abc"] or numbers.shown
        assert {name for name in fields_of(story) if name in "abc"} == set("abc"[: len(numbers.shown)])
        assert min(*numbers.shown, numbers.answer) >= 1


def test_impossible_index_or_split_is_an_error() -> None:
    with pytest.raises(DataError, match="split must be one of train, eval, got 'test'"):
        word_problems(0, seed=0, split="test")
    with pytest.raises(DataError, match="index must be >= 0, got -1"):
        word_problems(-1, seed=0, split="train")


@pytest.mark.parametrize("name", TASKS)
def test_every_registered_task_has_both_splits(name: str) -> None:
    train, held_out = (TASKS[name](0, seed=0, split=split) for split in ("train", "eval"))
    assert train.question != held_out.question
    assert int(train.answer) >= 0
