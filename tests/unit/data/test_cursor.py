from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from r1ray.data.cursor import PromptCursor
from r1ray.data.records import Record
from r1ray.errors import DataError
from r1ray.types import Prompt


@dataclass
class Numbered:
    size: int | None

    def __getitem__(self, index: int) -> Record:
        return Record(str(index), f"question {index}", str(index))


class FittingBuilder:
    """Passes the records whose index is not in `too_long`."""

    max_prompt_tokens = 8

    def __init__(self, too_long: set[int] | None = None) -> None:
        self.too_long = too_long or set()

    def build(self, record: Record) -> Prompt | None:
        if int(record.prompt_id) in self.too_long:
            return None
        return Prompt(record.prompt_id, record.question, record.question, (1,))


def make_cursor(size: int | None, *, too_long: set[int] | None = None, seed: int = 0, shuffle: bool = True):
    return PromptCursor(Numbered(size), FittingBuilder(too_long), seed, shuffle)


def take_ids(cursor: PromptCursor, n: int) -> list[int]:
    return [int(prompt.prompt_id) for prompt in cursor.take(n)]


def test_each_epoch_visits_every_row_once():
    cursor = make_cursor(37)
    for epoch in range(3):
        assert cursor.epoch == epoch
        assert sorted(take_ids(cursor, 37)) == list(range(37))


def test_epochs_differ_in_order():
    cursor = make_cursor(37)
    assert take_ids(cursor, 37) != take_ids(cursor, 37)


def test_seed_decides_the_order():
    assert take_ids(make_cursor(50, seed=3), 50) == take_ids(make_cursor(50, seed=3), 50)
    assert take_ids(make_cursor(50, seed=3), 50) != take_ids(make_cursor(50, seed=4), 50)


def test_without_shuffle_rows_come_in_order_and_start_again():
    assert take_ids(make_cursor(3, shuffle=False), 7) == [0, 1, 2, 0, 1, 2, 0]


def test_a_take_may_span_epochs():
    cursor = make_cursor(5)
    ids = take_ids(cursor, 12)
    assert sorted(ids[:5]) == sorted(ids[5:10]) == [0, 1, 2, 3, 4]
    assert cursor.epoch == 2


def test_endless_source_counts_up_in_epoch_0():
    cursor = make_cursor(None)
    assert take_ids(cursor, 1000) == list(range(1000))
    assert cursor.epoch == 0


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("size", [7, 10, None])
@pytest.mark.parametrize("taken", [0, 1, 7, 10, 23])
def test_restored_cursor_goes_on_as_the_unbroken_one(size: int | None, shuffle: bool, taken: int):
    too_long = {2, 5}
    unbroken = make_cursor(size, too_long=too_long, shuffle=shuffle)
    unbroken.take(taken)
    saved = json.loads(json.dumps(unbroken.state()))
    expected = take_ids(unbroken, 40)

    resumed = make_cursor(size, too_long=too_long, shuffle=shuffle)
    resumed.restore(saved)
    assert take_ids(resumed, 40) == expected
    assert resumed.state() == unbroken.state()


@pytest.mark.parametrize(
    ("other", "key"),
    [(make_cursor(9), "size"), (make_cursor(10, seed=1), "seed"), (make_cursor(10, shuffle=False), "shuffle")],
)
def test_restoring_into_other_data_is_refused(other: PromptCursor, key: str):
    with pytest.raises(DataError, match=f"data {key} is"):
        other.restore(make_cursor(10).state())


def test_too_long_prompts_are_skipped_and_counted():
    cursor = make_cursor(10, too_long={1, 4})
    assert sorted(take_ids(cursor, 8)) == [0, 2, 3, 5, 6, 7, 8, 9]
    cursor.take(8)
    assert cursor.skipped == 4


@pytest.mark.parametrize("size", [1, 10, None])
def test_no_fitting_prompt_is_an_error_with_the_remedy(size: int | None):
    cursor = make_cursor(size, too_long=set(range(20_000)))
    with pytest.raises(DataError, match=r"data\.max_prompt_tokens = 8: raise it"):
        cursor.take(1)


@pytest.mark.parametrize("seed", range(20))
def test_a_single_fitting_prompt_is_found_in_every_epoch(seed: int):
    cursor = make_cursor(10, too_long=set(range(9)), seed=seed)
    assert take_ids(cursor, 5) == [9] * 5
