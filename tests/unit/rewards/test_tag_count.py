import pytest

from r1ray.errors import ConfigError
from r1ray.rewards.format import FormatReward, TagCountReward
from r1ray.types import Completion, Prompt

PROMPT = Prompt("p", "q", "q", (), "1")


def completion(text: str) -> Completion:
    return Completion("0/p", "p", 0, text, (), (), (), "stop")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<think>a</think> <answer>b</answer>", 1.0),
        ("so <think>a</think> and <answer>b</answer> end", 1.0),
        ("<think>a</think> b", 0.5),
        ("<think>a <answer>b</answer>", 0.75),
        ("", 0.0),
        # Twice is not once.
        ("<think>a</think></think> <answer>b</answer>", 0.75),
        # The answer's two tags stand before those of thinking: one pair is out of place.
        ("<answer>b</answer><think>a</think>", 0.5),
        ("</answer><answer></think><think>", 0.25),
        ("<think></think><answer></answer>" * 9, 0.0),
    ],
)
def test_tags_of_r1_zero_count_where_they_stand_once_and_in_order(text, value):
    result = TagCountReward()(PROMPT, completion(text))
    assert (result.value, result.verdict) == (value, None)


@pytest.mark.parametrize(
    ("text", "value"), [("<think>a</think>b", 1.0), ("<think>a", 0.5), ("</think><think>", 0.5), ("a", 0.0)]
)
def test_r1_has_two_tags(text, value):
    assert TagCountReward(style="r1")(PROMPT, completion(text)).value == value


@pytest.mark.parametrize(
    ("style", "text", "share", "form"),
    [
        ("r1", "a</think>\n\nb", 1.0, 1.0),
        ("r1", "<think>a</think>\n\nb", 0.0, 0.0),
        ("r1", "b", 0.0, 0.0),
        ("r1_zero", "a</think> <answer>b</answer>", 1.0, 1.0),
        ("r1_zero", "<think>a</think> <answer>b</answer>", 2 / 3, 0.0),
        ("r1_zero", "a</think> b", 1 / 3, 0.0),
    ],
)
def test_a_think_block_that_the_prompt_opened_need_not_be_opened_again(style, text, share, form):
    options = {"style": style, "think_opened": True}
    assert TagCountReward(**options)(PROMPT, completion(text)).value == share
    assert FormatReward(**options)(PROMPT, completion(text)).value == form


def test_the_detail_names_what_is_missing():
    assert TagCountReward()(PROMPT, completion("<think>a</think> b")).detail == "not in place: <answer> </answer>"


def test_an_unknown_style_is_refused():
    with pytest.raises(ConfigError, match="reward tag_count: option style must be one of r1_zero, r1, got 'r2'"):
        TagCountReward(style="r2")
