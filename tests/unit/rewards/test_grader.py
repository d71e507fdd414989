import pytest

from r1ray.config.schema import RewardsConfig, RewardTerm
from r1ray.rewards.grader import Grader
from r1ray.rewards.protocol import RewardResult
from r1ray.types import Completion, Prompt, Verdict

PROMPT = Prompt("p", "q", "q", (), "2")
HERE = __name__


def completion(text: str) -> Completion:
    return Completion("0/p", "p", 0, text, (), (), (), "stop")


RIGHT = completion("<think>1+1</think> <answer>2</answer>")
WRONG = completion("<think>1+1</think> <answer>3</answer>")
BARE = completion("the answer is 2")


def minus_one(prompt, completion):
    return -1


def not_a_number(prompt, completion):
    return float("nan")


def infinite(prompt, completion):
    return RewardResult(float("inf"), Verdict.CORRECT)


def raising(prompt, completion):
    raise KeyError("column")


def returning_text(prompt, completion):
    return "good"


def grade(terms, one):
    grader = Grader(RewardsConfig(terms=terms))
    try:
        return grader.grade(PROMPT, one)
    finally:
        grader.close()


@pytest.mark.parametrize(
    ("one", "reward", "breakdown", "verdict"),
    [
        (RIGHT, 1.5, {"accuracy": 1.0, "format": 1.0}, Verdict.CORRECT),
        (WRONG, 0.5, {"accuracy": 0.0, "format": 1.0}, Verdict.WRONG),
        (BARE, 1.0, {"accuracy": 1.0, "format": 0.0}, Verdict.CORRECT),
        (completion("hm"), 0.0, {"accuracy": 0.0, "format": 0.0}, Verdict.UNPARSEABLE),
    ],
)
def test_a_grade_weighs_raw_values_and_takes_the_verdict_of_accuracy(one, reward, breakdown, verdict):
    result = grade([RewardTerm("format", 0.5), RewardTerm("accuracy", 1.0)], one)
    assert (result.reward, result.breakdown, result.verdict) == (reward, breakdown, verdict)


def test_accuracy_of_weight_zero_is_still_reported():
    result = grade([RewardTerm("random", options={"p": 0.0}), RewardTerm("accuracy", 0.0)], RIGHT)
    assert (result.reward, result.breakdown) == (0.0, {"random": 0.0, "accuracy": 1.0})
    assert result.verdict is Verdict.CORRECT


def test_without_a_judging_reward_a_positive_reward_counts_as_correct():
    assert grade([RewardTerm("format")], RIGHT).verdict is Verdict.CORRECT
    assert grade([RewardTerm("format")], BARE).verdict is Verdict.WRONG


def test_terms_of_the_same_name_are_told_apart():
    terms = [RewardTerm("format"), RewardTerm("format", 2.0, {"style": "r1"}), RewardTerm(f"{HERE}:minus_one", 0.5)]
    result = grade(terms, RIGHT)
    assert result.breakdown == {"format": 1.0, "format_2": 1.0, f"{HERE}:minus_one": -1.0}
    assert result.reward == 2.5


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("raising", "raised KeyError: 'column'"),
        ("not_a_number", "returned nan"),
        ("infinite", "returned inf"),
        ("returning_text", "raised ValueError"),
    ],
)
def test_a_reward_that_fails_is_an_error_and_never_a_wrong_answer(function, message):
    result = grade([RewardTerm("accuracy"), RewardTerm(f"{HERE}:{function}")], RIGHT)
    assert (result.reward, result.verdict) == (0.0, Verdict.ERROR)
    assert f"{HERE}:{function} {message}" in result.detail
    assert result.breakdown == {"accuracy": 1.0, f"{HERE}:{function}": 0.0}


def test_grades_keep_the_order_of_their_items():
    grader = Grader(RewardsConfig(terms=[RewardTerm("accuracy")]))
    grades = grader.grade_all([(PROMPT, one) for one in (RIGHT, WRONG, BARE)])
    assert [each.reward for each in grades] == [1.0, 0.0, 1.0]
    grader.close()
