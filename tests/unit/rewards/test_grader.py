from dataclasses import replace

import pytest

from r1ray.config.schema import RewardsConfig, RewardTerm
from r1ray.rewards.grader import Grader
from r1ray.rewards.protocol import RewardResult
from r1ray.rewards.terms import name_terms
from r1ray.types import Completion, GradeRequest, Prompt, Verdict

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


def grade(terms, one, *, prompt=PROMPT, step=0):
    grader = Grader(RewardsConfig(terms=terms))
    try:
        return grader.grade(prompt, one, step=step)
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


def test_results_keep_the_order_of_their_items():
    grader = Grader(RewardsConfig(terms=[RewardTerm("accuracy")]))
    results = grader.run([GradeRequest(PROMPT, one) for one in (RIGHT, WRONG, BARE)])
    assert [each["accuracy"].value for each in results] == [1.0, 0.0, 1.0]
    grader.close()


class ByVerdict:
    """1 for a right answer, -1 for a wrong one, 0 where nothing judged."""

    def after(self, prompt, completion, verdict):
        return {Verdict.CORRECT: 1.0, Verdict.WRONG: -1.0, None: 0.0}[verdict]


class Lengths:
    """Judges many at a time."""

    lane = "inference"

    def score(self, items):
        return [RewardResult(float(len(completion.text))) for _, completion in items]


class TooFew(Lengths):
    """Loses one."""

    def score(self, items):
        return super().score(items)[1:]


@pytest.mark.parametrize(("one", "value"), [(RIGHT, 1.0), (WRONG, -1.0)])
def test_a_reward_may_depend_on_the_verdict_wherever_it_stands(one, value):
    result = grade([RewardTerm(f"{HERE}:ByVerdict"), RewardTerm("accuracy", 0.0)], one)
    assert result.breakdown[f"{HERE}:ByVerdict"] == result.reward == value


def test_a_reward_that_depends_on_the_verdict_is_told_when_nothing_judged():
    assert grade([RewardTerm(f"{HERE}:ByVerdict"), RewardTerm("format")], RIGHT).reward == 1.0


def test_a_batch_reward_sees_only_the_completions_it_is_for():
    grader = Grader(RewardsConfig(terms=[RewardTerm(f"{HERE}:Lengths", domains=["general"])]))
    general = replace(PROMPT, domain="general")
    results = grader.run([GradeRequest(p, completion("x" * n)) for p, n in ((general, 3), (PROMPT, 4), (general, 5))])
    assert [{key: result.value for key, result in each.items()} for each in results] == [
        {f"{HERE}:Lengths": 3.0},
        {},
        {f"{HERE}:Lengths": 5.0},
    ]


def test_a_batch_reward_that_loses_completions_is_an_error():
    result = grade([RewardTerm(f"{HERE}:TooFew")], RIGHT)
    assert result.verdict is Verdict.ERROR
    assert "0 results for 1 completions" in result.detail


def test_terms_apply_by_domain_and_step():
    terms = [
        RewardTerm("accuracy", domains=["math", "stem"]),
        RewardTerm("format", 0.5),
        RewardTerm(f"{HERE}:minus_one", domains=["math"], from_step=400, until_step=500),
    ]
    mine = f"{HERE}:minus_one"
    assert grade(terms, RIGHT).breakdown == {"accuracy": 1.0, "format": 1.0}
    assert grade(terms, RIGHT, step=399).reward == 1.5
    assert grade(terms, RIGHT, step=400).breakdown == {"accuracy": 1.0, "format": 1.0, mine: -1.0}
    assert grade(terms, RIGHT, step=400).reward == 0.5
    assert grade(terms, RIGHT, step=500).breakdown == {"accuracy": 1.0, "format": 1.0}
    assert grade(terms, RIGHT, prompt=replace(PROMPT, domain="general"), step=450).breakdown == {"format": 1.0}


def test_a_completion_that_no_term_is_for_cannot_be_graded():
    result = grade([RewardTerm("format", domains=["general"])], RIGHT)
    assert result.verdict is Verdict.ERROR
    assert "no term of rewards.terms is for domain 'math'" in result.detail


def test_before_its_rewards_enter_a_completion_earns_nothing():
    result = grade([RewardTerm("format", from_step=400)], RIGHT, step=399)
    assert (result.reward, result.breakdown, result.verdict) == (0.0, {}, Verdict.WRONG)
    assert "no term for domain 'math' applies in step 399" in result.detail


def test_terms_that_never_meet_share_a_name():
    terms = [
        RewardTerm("format", domains=["math"]),
        RewardTerm("format", domains=["code"], options={"style": "r1"}),
        RewardTerm("format", domains=["code"], from_step=5),
        RewardTerm("accuracy", until_step=5),
        RewardTerm("accuracy", from_step=5),
    ]
    assert [term.key for term in name_terms(terms)] == ["format", "format", "format_2", "accuracy", "accuracy"]
