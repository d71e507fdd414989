import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1ray.errors import ConfigError
from r1ray.rewards.repetition import RepetitionReward, count_repeated
from r1ray.types import Completion, Prompt

PROMPT = Prompt("p", "q", "q", (), "1")


def value(text: str, **options: float) -> float:
    return RepetitionReward(**options)(PROMPT, Completion("0/p", "p", 0, text, (), (), (), "stop")).value


@pytest.mark.parametrize(
    ("text", "n", "repeated", "total"),
    [
        ("a b c a b c", 3, 1, 4),
        ("a b c a b c", 2, 2, 5),
        ("A b, c! a B c.", 3, 1, 4),
        ("wait wait wait wait", 2, 2, 3),
        ("a b", 3, 0, 0),
        ("", 1, 0, 0),
        ("我们先算 我们先算", 4, 1, 5),
        ("ですです", 2, 1, 3),
        ("x1 + 2 = 3; x1 + 2 = 3", 3, 1, 4),
    ],
)
def test_repeated_n_grams_are_counted(text, n, repeated, total):
    assert count_repeated(text, n=n) == (repeated, total)


def test_the_penalty_is_its_share():
    assert value("a b c a b c", n=3) == -0.25
    assert value("a b c a b c", n=3, penalty=-2.0) == -0.5
    assert value("one two three", n=2) == 0.0


@given(st.lists(st.sampled_from("abc"), max_size=40), st.integers(1, 5))
def test_counts_agree_with_a_list_of_all_n_grams(units, n):
    grams = [tuple(units[i : i + n]) for i in range(len(units) - n + 1)]
    assert count_repeated(" ".join(units), n=n) == (len(grams) - len(set(grams)), len(grams))


def test_a_loop_costs_nearly_all_and_fresh_text_nothing():
    numbers = random.Random(0)
    fresh = " ".join(str(numbers.randrange(10**9)) for _ in range(500))
    assert value(fresh) == 0.0
    assert value("so it is four. " * 500) < -0.99
    assert value("所以答案是四。" * 500) < -0.99


@pytest.mark.parametrize("unit", ["ab ", "中", "a", "-", "a\u0301", "9 "])
def test_megabytes_take_linear_time_whatever_n(unit):
    started = time.process_time()
    for n in (2, 5000):
        count_repeated(unit * (1_000_000 // len(unit)), n=n)
    # Quadratic time would be minutes.
    assert time.process_time() - started < 20


def test_options_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="n must be at least 1, got 0"):
        RepetitionReward(n=0)
    with pytest.raises(ConfigError, match="penalty must be finite and at most 0, got 1"):
        RepetitionReward(penalty=1.0)
