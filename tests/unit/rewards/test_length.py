import math

import pytest

from r1ray.errors import ConfigError, DataError
from r1ray.rewards.length import CosineReward, LengthReward, OverlongReward
from r1ray.types import Completion, Prompt, Verdict

PROMPT = Prompt("p", "q", "q", (), "1")


def completion(tokens: int, text: str = "a") -> Completion:
    return Completion("0/p", "p", 0, text, (7,) * tokens, (), (), "stop")


@pytest.mark.parametrize(
    ("tokens", "value"), [(0, 0.0), (80, 0.0), (81, -0.05), (90, -0.5), (99, -0.95), (100, -1.0), (1000, -1.0)]
)
def test_overlong_falls_from_the_soft_limit_to_the_hard_one(tokens, value):
    # text "" so that no tokens are a length and not a missing one.
    result = OverlongReward(max_completion_tokens=100)(PROMPT, completion(tokens, "a" if tokens else ""))
    assert (result.value, result.verdict) == (pytest.approx(value), None)


def test_overlong_takes_the_papers_sizes():
    reward = OverlongReward(max_completion_tokens=20480, cache_tokens=4096)
    assert [reward(PROMPT, completion(n)).value for n in (16384, 18432, 20480)] == [0.0, -0.5, -1.0]


@pytest.mark.parametrize(("tokens", "value"), [(1000, 0.0), (900, -0.03), (1100, -0.03), (3000, -0.6)])
def test_exact_length_costs_every_token_off_the_target(tokens, value):
    reward = LengthReward(target_tokens=1000)
    for verdict in (Verdict.CORRECT, Verdict.WRONG, None):
        assert reward.after(PROMPT, completion(tokens), verdict).value == pytest.approx(value)


@pytest.mark.parametrize(("tokens", "value"), [(1, 1.0), (75, 0.75), (100, 0.5), (140, 0.1), (150, 0.0), (900, 0.0)])
def test_max_length_pays_right_answers_for_staying_within_the_target(tokens, value):
    reward = LengthReward(target_tokens=100, mode="max", alpha=0.01)
    assert reward.after(PROMPT, completion(tokens), Verdict.CORRECT).value == pytest.approx(value)
    assert reward.after(PROMPT, completion(tokens), Verdict.WRONG).value == 0.0
    assert reward.after(PROMPT, completion(tokens), Verdict.TIMEOUT).value == 0.0


def test_the_target_may_come_with_the_prompt():
    asked = Prompt("p", "q", "q", (), "1", metadata={"target_tokens": 10})
    assert LengthReward(alpha=1.0).after(asked, completion(12), None).value == -2.0
    with pytest.raises(DataError, match=r"metadata target_tokens of prompt 'p' must be a positive integer, got None"):
        LengthReward().after(PROMPT, completion(12), None)


@pytest.mark.parametrize(
    ("tokens", "verdict", "value"),
    [
        (1, Verdict.CORRECT, 1.0 + (1 + math.cos(math.pi / 100)) / 2),
        (50, Verdict.CORRECT, 1.5),
        (25, Verdict.CORRECT, 1.0 + (1 + math.sqrt(0.5)) / 2),
        (50, Verdict.WRONG, -5.0),
        (75, Verdict.WRONG, -10 * (1 - math.sqrt(0.5)) / 2),
        (50, Verdict.UNPARSEABLE, -5.0),
        (100, Verdict.CORRECT, -10.0),
        (101, Verdict.WRONG, -10.0),
    ],
)
def test_cosine_falls_for_right_answers_and_rises_for_wrong_ones(tokens, verdict, value):
    result = CosineReward(max_completion_tokens=100).after(PROMPT, completion(tokens), verdict)
    assert (result.value, result.verdict) == (pytest.approx(value), None)


def test_an_empty_completion_stands_at_the_start_of_the_curve():
    reward = CosineReward(max_completion_tokens=100, wrong_at_0=-3.0)
    assert reward.after(PROMPT, completion(0, ""), Verdict.WRONG).value == -3.0


def test_a_length_that_is_not_known_is_an_error():
    late = [CosineReward(max_completion_tokens=9), LengthReward(target_tokens=9)]
    results = [reward.after(PROMPT, completion(0), Verdict.CORRECT) for reward in late]
    for result in [*results, OverlongReward(max_completion_tokens=9)(PROMPT, completion(0))]:
        assert result.verdict is Verdict.ERROR
        assert "has no token ids" in result.detail


def test_what_needs_a_verdict_and_has_none_is_an_error():
    for reward in (CosineReward(max_completion_tokens=9), LengthReward(target_tokens=9, mode="max")):
        result = reward.after(PROMPT, completion(5), None)
        assert result.verdict is Verdict.ERROR
        assert "no term gave one: add accuracy" in result.detail


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OverlongReward(max_completion_tokens=0), "overlong: option max_completion_tokens must be positive"),
        (lambda: OverlongReward(max_completion_tokens=9, cache_tokens=10), r"cache_tokens must be in \[1, .* got 10"),
        (lambda: LengthReward(mode="min"), "mode must be one of exact, max, got 'min'"),
        (lambda: LengthReward(target_tokens=-1), "target_tokens must be positive and finite, got -1"),
        (lambda: LengthReward(alpha=0.0), "alpha must be positive"),
        (lambda: LengthReward(delta=2.0), r"delta must be in \[0, 1\], got 2"),
        (lambda: CosineReward(max_completion_tokens=9, exceeded=math.nan), "exceeded must be finite, got nan"),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
