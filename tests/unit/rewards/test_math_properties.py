"""Equality of answers is reflexive, symmetric and indifferent to how LaTeX is spelled."""

import re

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from r1ray.rewards import math_child
from r1ray.types import Verdict

# The same examples every time, and no clock: the machine may be busy.
check = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

integers = st.integers(-9999, 9999).map(str)
decimals = st.decimals(-999, 999, places=2).map(str)
fractions = st.tuples(st.integers(-99, 99), st.integers(2, 99)).map(lambda p: rf"\frac{{{p[0]}}}{{{p[1]}}}")
surds = st.tuples(st.integers(2, 9), st.sampled_from([2, 3, 5, 7])).map(lambda p: rf"{p[0]}\sqrt{{{p[1]}}}")
numbers = st.one_of(integers, decimals, fractions, surds)
polynomials = st.tuples(st.integers(2, 9), st.integers(2, 5), st.integers(1, 99)).map(
    lambda p: f"{p[0]}x^{{{p[1]}}}+{p[2]}"
)
pairs = st.tuples(numbers, numbers).map(lambda p: f"({p[0]},{p[1]})")
sets = st.lists(integers, min_size=2, max_size=4, unique=True).map(lambda xs: r"\{" + ",".join(xs) + r"\}")
intervals = st.tuples(st.sampled_from("[("), st.integers(-99, 0), st.integers(1, 99), st.sampled_from("])")).map(
    lambda p: f"{p[0]}{p[1]},{p[2]}{p[3]}"
)
matrices = st.lists(st.lists(integers, min_size=2, max_size=2), min_size=2, max_size=2).map(
    lambda rows: r"\begin{pmatrix}" + r"\\".join("&".join(row) for row in rows) + r"\end{pmatrix}"
)
answers = st.one_of(numbers, polynomials, pairs, sets, intervals, matrices)

RESPELLINGS = {
    "dfrac": lambda text: text.replace(r"\frac", r"\dfrac"),
    "left and right": lambda text: re.sub(r"^([(\[])(.*)([)\]])$", r"\\left\1\2\\right\3", text),
    "dollars": lambda text: f"${text}$",
    "spaces": lambda text: re.sub(r"([+,&=])", r" \1 ", text),
    "thin spaces": lambda text: text.replace(",", r",\ "),
    "brackets of matrices": lambda text: text.replace("pmatrix", "bmatrix"),
    "thousands": lambda text: re.sub(r"^(-?)(\d)(\d{3})$", r"\1\2,\3", text),
    "braced thousands": lambda text: re.sub(r"^(-?)(\d)(\d{3})$", r"\1\2{,}\3", text),
    "typographic minus": lambda text: text.replace("-", "\N{MINUS SIGN}"),
    "unbraced powers": lambda text: re.sub(r"\^\{(\d)\}", r"^\1", text),
    "product sign": lambda text: re.sub(r"(?<=\d)(?=x|\\sqrt)", r"\\cdot ", text),
    "full stop": lambda text: f"{text} ",
    "unit": lambda text: rf"{text}\text{{ cm}}" if re.fullmatch(r"-?[\d.]+", text) else text,
    "assignment": lambda text: f"z={text}" if re.fullmatch(r"-?[\d.]+", text) else text,
}


def judge(gold: str, answer: str) -> str:
    return math_child.judge({"gold": gold, "answer": answer, "bare_percent": False})


@check
@given(answers)
def test_an_answer_equals_itself(answer):
    assert judge(answer, answer) == Verdict.CORRECT


@check
@given(answers, answers)
def test_equality_has_no_direction(one, other):
    assert (judge(one, other) == Verdict.CORRECT) == (judge(other, one) == Verdict.CORRECT)


@pytest.mark.parametrize("name", RESPELLINGS)
@settings(check, max_examples=40)
@given(answer=answers)
def test_spelling_makes_no_difference(name, answer):
    respelled = RESPELLINGS[name](answer)
    assert judge(answer, respelled) == Verdict.CORRECT
    assert judge(respelled, answer) == Verdict.CORRECT


@check
@given(st.integers(-9999, 9999), st.integers(1, 999))
def test_another_number_is_another_answer(number, difference):
    assert judge(str(number), rf"\frac{{{2 * (number + difference)}}}{{2}}") == Verdict.WRONG


@check
@given(intervals)
def test_the_ends_of_an_interval_count(interval):
    turned = {"[": "(", "(": "["}[interval[0]] + interval[1:]
    assert judge(interval, turned) == Verdict.WRONG


@check
@given(st.tuples(numbers, numbers))
def test_pairs_are_ordered(pair):
    assume(judge(pair[0], pair[1]) != Verdict.CORRECT)
    assert judge(f"({pair[0]},{pair[1]})", f"({pair[1]},{pair[0]})") == Verdict.WRONG


@check
@given(st.lists(integers, min_size=2, max_size=5, unique=True), st.randoms(use_true_random=False))
def test_sets_have_no_order_and_need_every_element(items, shuffle):
    shuffled = shuffle.sample(items, len(items))
    assert judge(rf"\{{{','.join(items)}\}}", rf"\{{{','.join(shuffled)}\}}") == Verdict.CORRECT
    assert judge(rf"\{{{','.join(items)}\}}", rf"\{{{','.join(shuffled[1:])}\}}") == Verdict.WRONG
