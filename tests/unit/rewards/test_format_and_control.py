import pytest

from r1ray.errors import ConfigError
from r1ray.rewards.control import RandomReward
from r1ray.rewards.format import FormatReward
from r1ray.types import Completion, Prompt

PROMPT = Prompt("p", "q", "q", (), "1")


def completion(text: str = "", group_id: str = "0/p", sample_index: int = 0) -> Completion:
    return Completion(group_id, "p", sample_index, text, (), (), (), "stop")


@pytest.mark.parametrize(
    ("style", "text", "value"),
    [
        ("r1_zero", "<think>a</think> <answer>b</answer>", 1.0),
        ("r1_zero", "<think>a</think> b", 0.0),
        ("r1_zero", "<think>a</think> <answer>b</answer> c", 0.0),
        ("r1", "<think>\na\n</think>\n\nb", 1.0),
        ("r1", "a", 0.0),
    ],
)
def test_format_checks_the_tags_and_gives_no_verdict(style, text, value):
    result = FormatReward(style=style)(PROMPT, completion(text))
    assert (result.value, result.verdict) == (value, None)


def test_an_unknown_format_style_is_refused():
    with pytest.raises(ConfigError, match="style must be one of r1_zero, r1, got 'r2'"):
        FormatReward(style="r2")


def test_the_random_reward_depends_on_place_and_seed_but_not_on_text():
    def draws(seed: int, text: str) -> list[float]:
        reward = RandomReward(seed=seed)
        return [reward(PROMPT, completion(text, f"{g}/p", s)).value for g in range(50) for s in range(4)]

    assert draws(0, "a") == draws(0, "b")
    assert draws(0, "a") != draws(1, "a")
    assert RandomReward()(PROMPT, completion()).verdict is None


def test_the_random_reward_keeps_its_odds():
    reward = RandomReward(p=0.3)
    values = [reward(PROMPT, completion(group_id=str(g))).value for g in range(10_000)]
    assert set(values) == {0.0, 1.0}
    # Standard deviation of the mean: sqrt(0.3 * 0.7 / 10000) = 0.0046.
    assert abs(sum(values) / len(values) - 0.3) < 0.02
    assert RandomReward(p=0.0)(PROMPT, completion()).value == 0.0
    assert RandomReward(p=1.0)(PROMPT, completion()).value == 1.0


def test_odds_that_are_no_probability_are_refused():
    with pytest.raises(ConfigError, match=r"p must be in \[0, 1\], got 1.5"):
        RandomReward(p=1.5)
