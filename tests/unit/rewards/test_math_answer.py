import time

import pytest
from math_verify import parse, verify

from r1ray.rewards.extract import announced, extract_answer, extract_gold, last_boxed
from r1ray.rewards.math_answer import asks_percent, compare_plain_numbers


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<think>1</think> <answer>2</answer>", "2"),
        ("<answer>1</answer> then <answer> 2 </answer>", "2"),
        ("<think><answer>1</answer></think> I gave it before.", None),
        ("<think>1</think> 42", "42"),
        ("It is 42 or so in the end.", None),
        ("So\n\n$x = 5$", "x = 5"),
        ("\u6240\u4ee5\u7b54\u6848\u662f 5\u3002", "5"),
        (r"<think>\boxed{1}</think> so \boxed{2}", "2"),
        (r"\boxed{1} and \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"<answer>It is \boxed{7}.</answer>", "7"),
        (r"<answer>$\frac12$</answer>", r"\frac12"),
        (r"<answer>\(x+1\).</answer>", "x+1"),
        (r"<answer>$1$ or $2$</answer>", r"$1$ or $2$"),
        ("<answer>3", None),
        ("<answer></answer>", None),
        ("The answer is 3.5. Good.", "3.5"),
        ("the answer is 1. No, the answer is: **12**", "12"),
        ("Final Answer: $x^2$\nDone", "x^2"),
        ("I do not know", None),
        (r"\boxed{open", None),
        ("", None),
    ],
)
def test_the_last_answer_after_thinking_is_taken(completion, answer):
    assert extract_answer(completion) == answer


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"} \boxed{1} {", "1"),
        (r"\fbox{2} \boxed {3}", "3"),
        (r"{\boxed{a_{b_{c}}}}", "a_{b_{c}}"),
        (r"\boxed{1} \boxed{2", "1"),
    ],
)
def test_boxes_nest_and_need_their_closing_brace(text, content):
    assert last_boxed(text) == content


def test_extraction_is_linear_in_the_text():
    for piece in (r"\boxed{", "{", "the answer is ", "<answer>", "</think>", "answer: ", "answer =", " ", "*", "$"):
        text = piece * (1_000_000 // len(piece))
        started = time.monotonic()
        extract_answer(text)
        announced("the answer is" + text)
        assert time.monotonic() - started < 5, piece


def test_gold_answers_are_taken_out_of_solutions():
    assert extract_gold("72") == "72"
    assert extract_gold("48 / 2 = 24 clips\n#### 1,072") == "1,072"
    assert extract_gold(r"so $\boxed{\frac{1}{2}}$.") == r"\frac{1}{2}"


NUMBERS = [
    ("5", "5", True),
    ("05", "5", True),
    ("+5", "5", True),
    ("5.0", "5", True),
    (".5", "0.50", True),
    ("-5", "5", False),
    ("1,234", "1234", True),
    ("1,234,567.5", "1234567.50", True),
    ("12345678901234567890", "12345678901234567891", False),
    ("3.14", "3.15", False),
    ("-0.25", "-.25", True),
    ("0", "-0", True),
    ("100", "1", False),
]


@pytest.mark.parametrize(("answer", "gold", "equal"), NUMBERS)
def test_the_fast_path_agrees_with_math_verify(answer, gold, equal):
    assert compare_plain_numbers(answer, gold) is equal
    sides = [parse(rf"\boxed{{{text}}}", parsing_timeout=None) for text in (gold, answer)]
    assert verify(*sides, timeout_seconds=None) is equal


@pytest.mark.parametrize("text", ["1/2", "5.", "1,2", "12,34", "1e5", "5%", "x", "", "--5", "0x10", "1 000", "\u0665"])
def test_the_fast_path_leaves_other_texts_alone(text):
    assert compare_plain_numbers(text, "5") is None
    assert compare_plain_numbers("5", text) is None


def test_a_typographic_minus_is_a_minus():
    assert compare_plain_numbers("\N{MINUS SIGN}5", "-5") is True


@pytest.mark.parametrize(
    ("question", "gold", "asks"),
    [
        ("What percentage is red?", "5", True),
        ("Give 5% of it.", "5", True),
        ("\u767e\u5206\u4e4b\u51e0?", "5", True),
        ("How many?", "5", False),
        ("", "5", True),
        ("", "0.05", False),
        ("", "x", True),
    ],
)
def test_a_question_that_is_not_known_may_want_percent(question, gold, asks):
    assert asks_percent(question, gold) is asks
