"""The embedded arithmetic task: right answers, a stable stream, and splits that never meet."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys

import pytest

from r1ray.data.embedded import TaskItem, arithmetic
from r1ray.data.embedded.arithmetic import split_of
from r1ray.errors import DataError


def operands_of(item: TaskItem) -> list[int]:
    match = re.fullmatch(r"What is (\d+) \+ (\d+) \+ (\d+)\?", item.question)
    assert match is not None, item.question
    return [int(number) for number in match.groups()]


@pytest.mark.parametrize("split", ["train", "eval"])
def test_answer_is_the_sum_of_three_three_digit_numbers(split: str) -> None:
    for index in range(500):
        item = arithmetic(index, seed=3, split=split)
        first, second, third = operands_of(item)
        assert all(100 <= operand <= 999 for operand in (first, second, third))
        assert int(item.answer) == first + second + third


def test_no_question_is_in_both_splits_whatever_the_seed() -> None:
    train = {arithmetic(index, seed=seed, split="train").question for seed in range(3) for index in range(2000)}
    held_out = {arithmetic(index, seed=seed, split="eval").question for seed in range(3) for index in range(2000)}
    assert len(train) > 5900
    assert len(held_out) > 5900
    assert train.isdisjoint(held_out)


def test_a_question_belongs_to_the_split_that_its_operands_decide() -> None:
    for split, index in itertools.product(("train", "eval"), range(500)):
        operands = operands_of(arithmetic(index, seed=11, split=split))
        assert {split_of(order) for order in itertools.permutations(operands)} == {split}


def test_about_a_tenth_of_all_questions_are_held_out() -> None:
    held_out = sum(split_of((a, b, 500)) == "eval" for a in range(100, 200) for b in range(300, 400))
    assert 800 < held_out < 1200


def test_the_stream_is_the_same_in_another_process() -> None:
    script = "from r1ray.data.embedded import arithmetic; print(arithmetic(7, seed=1, split='eval').question)"
    command = [sys.executable, "-c", script]
    other = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert other.stdout.strip() == arithmetic(7, seed=1, split="eval").question


def test_seeds_give_different_streams() -> None:
    assert arithmetic(0, seed=0, split="train") != arithmetic(0, seed=1, split="train")


def test_the_task_imports_without_torch() -> None:
    script = "import sys, r1ray.data.embedded; print('torch' in sys.modules)"
    command = [sys.executable, "-c", script]
    other = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert other.stdout.strip() == "False"


@pytest.mark.parametrize(("index", "split"), [(0, "test"), (-1, "train")])
def test_unknown_split_or_negative_index_is_refused(index: int, split: str) -> None:
    with pytest.raises(DataError, match="must be"):
        arithmetic(index, seed=0, split=split)
