"""Pairs of completions: verdicts, margins, lengths, by hand."""

import pytest

from r1ray.stages.pairs import (
    JudgedPair,
    Pair,
    agrees_with_itself,
    decide,
    length_bias,
    make_pairs,
    match_lengths,
)
from r1ray.types import Completion, Grade, GradedCompletion, Group, Prompt, Verdict

PROMPT = Prompt("p", "q", "", ())


def completion(text: str, *, tokens: int = 3, reason: str = "stop") -> Completion:
    return Completion("g", "p", 0, text, (0,) * tokens, (), (), reason)


def judged(chosen_tokens: int, rejected_tokens: int) -> JudgedPair:
    one, other = completion("a", tokens=chosen_tokens), completion("b", tokens=rejected_tokens)
    return JudgedPair(PROMPT, one, other, 2.0, (2.0,))


def test_pairs_are_of_different_finished_texts() -> None:
    texts = [completion("a"), completion("a"), completion("b"), completion("c", reason="length"), completion("  ")]
    grades = [Grade(0.0, {}, Verdict.WRONG)] * 5
    group = Group("g", PROMPT, tuple(map(GradedCompletion, texts, grades)))
    pairs = make_pairs(group, at_most=9, seed=0)
    assert sorted((pair.one.text, pair.other.text) for pair in pairs) == [("a", "b"), ("a", "b")]
    assert len(make_pairs(group, at_most=1, seed=0)) == 1


def test_completions_are_compared_by_their_summaries() -> None:
    thoughts = ("<think>\nx\n</think>\n\nA", "<think>\ny\n</think>\n\nA", "<think>\nx\n</think>\n\nB", "<think>\nz")
    graded = [GradedCompletion(completion(text), Grade(0.0, {}, Verdict.WRONG)) for text in thoughts]
    pairs = make_pairs(Group("g", PROMPT, tuple(graded)), at_most=9, seed=0)
    assert sorted((pair.one.text[-1], pair.other.text[-1]) for pair in pairs) == [("A", "B"), ("A", "B")]


@pytest.mark.parametrize(
    ("values", "chosen", "margin"),
    [
        ([1.0, 1.0, 1.0, 1.0], "a", 2.0),
        ([0.0, 0.25, 0.0, 0.25], "b", 1.5),
        # Whoever is shown first wins: that is no preference.
        ([1.0, 0.0, 1.0, 0.0], "a", 0.0),
        ([0.75, 0.75], "a", 1.0),
    ],
)
def test_the_mean_verdict_decides_and_its_distance_from_a_tie_is_the_margin(values, chosen, margin) -> None:
    pair = decide(Pair(PROMPT, completion("a"), completion("b")), values)
    assert (pair.chosen.text, pair.margin) == (chosen, margin)
    assert {pair.chosen.text, pair.rejected.text} == {"a", "b"}


def test_a_judge_agrees_with_itself_where_the_order_does_not_matter() -> None:
    assert agrees_with_itself([2.0, 1.0, 1.0, 1.0])
    assert agrees_with_itself([0.0, 0.0])
    assert not agrees_with_itself([2.0, -2.0])
    assert not agrees_with_itself([1.0, 0.0])


def test_length_bias_is_relative_to_the_mean_length() -> None:
    assert length_bias([judged(30, 10), judged(10, 10)]) == pytest.approx(2 * 20 / 60)
    assert length_bias([judged(10, 30)]) == pytest.approx(-1.0)
    assert length_bias([]) == 0.0


def test_the_pairs_that_tilt_most_are_left_out_until_lengths_are_alike() -> None:
    pairs = [judged(10, 10), judged(100, 10), judged(12, 10), judged(40, 10)]
    kept = match_lengths(pairs, max_bias=0.1)
    assert kept == [pairs[0], pairs[2]]
    assert abs(length_bias(kept)) <= 0.1
    shorter = [judged(10, 10), judged(10, 90)]
    assert match_lengths(shorter, max_bias=0.1) == shorter[:1]
    assert match_lengths(pairs, max_bias=10.0) == pairs


def test_a_pair_whose_loss_would_tilt_lengths_the_other_way_stays() -> None:
    # Without the first the rejected ones are twice as long: worse than a bias of 0.18.
    pairs = [judged(1100, 100)] + [judged(100, 200)] * 7
    assert match_lengths(pairs, max_bias=0.1) == pairs
