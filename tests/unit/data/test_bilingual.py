"""The bilingual tasks: right answers, both languages, splits that never meet, and graders that agree."""

from __future__ import annotations

import re

import pytest

from r1ray.data.embedded.bilingual_notes import draw_occasion
from r1ray.data.embedded.bilingual_requests import draw_wish
from r1ray.data.embedded.bilingual_sums import bilingual_sums
from r1ray.data.embedded.rater import bare_answer, count_courtesies, note_quality, read_occasion, request_safe
from r1ray.data.embedded.registry import TASKS
from r1ray.data.embedded.streams import open_stream
from r1ray.errors import DataError
from r1ray.rewards import choice
from r1ray.template import parse_r1
from r1ray.types import Verdict

NAMES = [name for name in TASKS if name.startswith("bilingual_")]
HAN = re.compile(r"[\u4e00-\u9fff]")


@pytest.mark.parametrize("name", NAMES)
def test_every_other_question_is_chinese(name: str) -> None:
    for index in range(60):
        item = TASKS[name](index, seed=2, split="train")
        assert item.metadata["target_language"] == ("zh" if HAN.search(item.question) else "en")
        assert item.metadata["target_language"] == ("en", "zh")[index % 2]


@pytest.mark.parametrize("name", NAMES)
def test_the_stream_is_stable_and_seeds_differ(name: str) -> None:
    task = TASKS[name]
    first = [task(index, seed=0, split="eval") for index in range(20)]
    assert first == [task(index, seed=0, split="eval") for index in range(20)]
    assert first != [task(index, seed=1, split="eval") for index in range(20)]


@pytest.mark.parametrize("name", NAMES)
def test_no_question_is_in_both_splits(name: str) -> None:
    train, held_out = (
        {TASKS[name](index, seed=seed, split=split).question for seed in range(2) for index in range(300)}
        for split in ("train", "eval")
    )
    assert train.isdisjoint(held_out)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_split_or_negative_index_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="split must be one of train, eval, got 'test'"):
        TASKS[name](0, seed=0, split="test")
    with pytest.raises(DataError, match="index must be >= 0, got -1"):
        TASKS[name](-1, seed=0, split="train")


def test_questions_are_worded_in_several_ways() -> None:
    for name in NAMES:
        shapes = {re.sub(r"\d+|[A-D]", "", TASKS[name](i, seed=0, split="train").question) for i in range(40)}
        assert len(shapes) >= 4


def test_sums_are_of_three_three_digit_numbers() -> None:
    for index in range(300):
        item = bilingual_sums(index, seed=3, split="train")
        operands = [int(number) for number in re.findall(r"\d+", item.question)]
        assert len(operands) == 3
        assert all(100 <= operand <= 999 for operand in operands)
        assert item.answer == str(sum(operands))
        assert (item.task, item.domain) == ("math", "math")


def test_the_right_choice_alone_has_the_digit_sum_asked_for() -> None:
    for index in range(300):
        item = TASKS["bilingual_choices"](index, seed=3, split="train")
        options = dict(re.findall(r"([A-D])\) (\d\d)", item.question))
        sums = {letter: sum(int(digit) for digit in number) for letter, number in options.items()}
        wanted = max(sums.values()) if re.search("largest|最大", item.question) else min(sums.values())
        assert len(options) == 4
        assert [letter for letter, total in sums.items() if total == wanted] == [item.answer]


@pytest.mark.parametrize("wording", ["<answer> {} </answer>", "The answer is {}.", "答案是 {}。"])
def test_the_grader_of_choices_accepts_the_gold_letter_alone(wording: str) -> None:
    for index in range(6):
        item = TASKS["bilingual_choices"](index, seed=4, split="eval")
        for letter in "ABCD":
            result = choice.judge(f"<think> x </think> {wording.format(letter)}", str(item.answer), item.question)
            assert (result.verdict is Verdict.CORRECT) == (letter == item.answer)


def test_split_follows_what_is_asked_and_not_its_wording() -> None:
    for split in ("train", "eval"):
        draw = open_stream("test", 0, seed=0, split=split)
        occasions = {draw_occasion(draw, language, split=split) for language in ("en", "zh") for _ in range(80)}
        wishes = {draw_wish(draw, language, split=split) for language in ("en", "zh") for _ in range(80)}
        if split == "train":
            train = (occasions, wishes)
    assert train[0].isdisjoint(occasions)
    assert train[1].isdisjoint(wishes)


def test_preferred_notes_are_usually_the_better_and_the_more_courteous() -> None:
    better = more = fewer = 0
    for index in range(600):
        item = TASKS["bilingual_note_preferences"](index, seed=0, split="train")
        chosen, rejected = item.metadata["chosen"], item.metadata["rejected"]
        better += note_quality(item.question, chosen) >= note_quality(item.question, rejected)
        counts = count_courtesies(chosen), count_courtesies(rejected)
        assert max(counts) <= 2
        more += counts[0] > counts[1]
        fewer += counts[0] < counts[1]
    assert 0.8 * 600 < better < 600
    assert more > 3 * fewer


def test_request_labels_are_the_raters() -> None:
    labels = []
    for index in range(200):
        item = TASKS["bilingual_request_labels"](index, seed=0, split="train")
        assert request_safe(item.question, item.metadata["completion"]) == bool(item.metadata["label"])
        labels.append(item.metadata["label"])
    assert 70 < sum(labels) < 130


def test_general_samples_are_good_answers_in_the_form_of_r1() -> None:
    thoughts = []
    for index in range(200):
        item = TASKS["bilingual_general_samples"](index, seed=0, split="train")
        parts = parse_r1(item.metadata["completion"])
        assert parts is not None
        assert parts.answer == bare_answer(item.metadata["completion"])
        thoughts.append(parts.think.strip())
        if item.domain == "helpful":
            assert note_quality(item.question, parts.answer) >= 0.75
            assert read_occasion(item.question).language == item.metadata["target_language"]
        else:
            assert request_safe(item.question, parts.answer)
    assert 25 < thoughts.count("") < 75
