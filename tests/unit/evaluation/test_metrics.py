"""Figures of an evaluation, by hand."""

import math

import pytest

from r1ray.evaluation.metrics import evaluation_metrics
from r1ray.types import Completion, Grade, GradedCompletion, Group, Prompt, Verdict

RIGHT, WRONG = Verdict.CORRECT, Verdict.WRONG


def group(name: str, domain: str, *grades: Grade, tokens: int = 4, reason: str = "stop") -> Group:
    prompt = Prompt(name, "q", "q", (1,), domain=domain)
    completions = [
        GradedCompletion(Completion(name, name, i, "", (0,) * tokens, (), (), reason), grade)
        for i, grade in enumerate(grades)
    ]
    return Group(name, prompt, tuple(completions))


def graded(verdict: Verdict, **breakdown: float) -> Grade:
    return Grade(sum(breakdown.values()), breakdown, verdict)


GROUPS = [
    group("m1", "math", graded(RIGHT, accuracy=1, format=1), graded(WRONG, accuracy=0, format=0), tokens=2),
    group("m2", "math", graded(RIGHT, accuracy=1, format=1), graded(RIGHT, accuracy=1, format=1), tokens=4),
    group("h1", "helpful", graded(RIGHT, format=1, reward_model=0.5), graded(RIGHT, format=0, reward_model=-1.5)),
]


def test_prompts_without_a_right_answer_do_not_count_in_pass_at_1() -> None:
    metrics = evaluation_metrics(GROUPS, expected_completions=8)
    assert metrics["eval/pass_at_1"] == 0.75
    # Rates 0.5 and 1: standard deviation sqrt(0.125), over the square root of two prompts.
    assert metrics["eval/pass_at_1_stderr"] == pytest.approx(math.sqrt(0.125 / 2))
    assert "eval/helpful/pass_at_1" not in metrics
    assert metrics["eval/math/pass_at_1"] == 0.75


def test_every_reward_is_averaged_over_the_completions_that_it_judged() -> None:
    metrics = evaluation_metrics(GROUPS, expected_completions=8)
    assert metrics["eval/format_rate"] == pytest.approx(4 / 6)
    assert metrics["eval/math/format_rate"] == 0.75
    assert metrics["eval/reward_model_mean"] == metrics["eval/helpful/reward_model_mean"] == -0.5
    assert metrics["eval/completion_tokens_mean"] == pytest.approx((2 * 2 + 2 * 4 + 2 * 4) / 6)
    assert metrics["eval/ungraded_fraction"] == 0.25


def test_a_reward_of_ones_own_is_called_by_its_function() -> None:
    grade = Grade(0.5, {"my_rewards:brevity": 0.5}, RIGHT)
    metrics = evaluation_metrics([group("p", "own", grade)], expected_completions=1)
    assert metrics["eval/brevity_mean"] == 0.5


def test_where_nothing_measures_accuracy_the_verdict_counts() -> None:
    metrics = evaluation_metrics(
        [group("p", "own", graded(RIGHT, own=1), graded(WRONG, own=0))], expected_completions=2
    )
    assert metrics["eval/pass_at_1"] == 0.5


def test_one_domain_is_not_reported_twice() -> None:
    metrics = evaluation_metrics(GROUPS[:2], expected_completions=4)
    assert not [name for name in metrics if name.startswith("eval/math/")]


def test_nothing_graded_is_said_and_not_divided_by() -> None:
    assert evaluation_metrics([group("p", "math")], expected_completions=2) == {"eval/ungraded_fraction": 1.0}
