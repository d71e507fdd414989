"""Decontamination by n-grams of words, on texts written by hand."""

# Chinese text:
# ruff: noqa: RUF001

import pytest

from r1ray.data.ngrams import NgramIndex, words

QUESTION = "A train leaves at noon with forty people and stops twice before the sea."


def test_words_are_runs_of_letters_and_digits_and_single_ideographs() -> None:
    assert words("What is 12+3, Ada's sum?") == ["what", "is", "12", "3", "ada", "s", "sum"]
    assert words("求12和3的和。") == ["求", "12", "和", "3", "的", "和"]


def test_ten_words_in_a_row_are_found_whatever_stands_around_them() -> None:
    index = NgramIndex([QUESTION], n=10)
    assert index.meets("Story: a TRAIN leaves -- at noon, with forty people and stops; then nothing")
    assert not index.meets("a train leaves at noon with forty people and waits twice before the sea")


def test_nine_words_in_a_row_are_not_enough() -> None:
    index = NgramIndex([QUESTION], n=10)
    assert not index.meets("once a train leaves at noon with forty people and rests")


def test_a_short_evaluation_text_is_compared_as_a_whole() -> None:
    index = NgramIndex(["What is 12 + 3?"], n=10)
    assert index.meets("what is 12 + 3")
    assert not index.meets("Tell me, what is 12 + 3?")


def test_chinese_is_compared_by_ideographs() -> None:
    index = NgramIndex(["一列火车在中午开出，车上有四十个人。"], n=10)
    assert index.meets("问题：一列火车在中午开出，车上没有人")
    assert not index.meets("一列火车在晚上开出，车上没有人")


def test_an_index_of_nothing_meets_nothing() -> None:
    index = NgramIndex([], n=10)
    assert len(index) == 0
    assert not index.meets(QUESTION)


@pytest.mark.parametrize("text", ["", "?!"])
def test_texts_without_words_never_meet(text: str) -> None:
    assert not NgramIndex([QUESTION, ""], n=10).meets(text)
