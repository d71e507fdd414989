"""Pairs of completions for a reward model: which are compared, which are kept.

    candidates of a prompt -> pairs -> mean verdict -> margin -> like lengths

Source: arXiv:2501.12948 v2, section 3.1: pairs judged four times with the order swapped at random, scores averaged,
pairs kept above a margin of 1, lengths of chosen and rejected completions comparable.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from r1ray.rewards.scopes import summary as summary_of
from r1ray.types import Completion, Group, Prompt, Verdict

# A verdict of 1 is much better, 0.5 a tie; margins are on the paper's scale, on which much better is 2.
_SCALE = 4.0


@dataclass(frozen=True, slots=True)
class Pair:
    """Two completions of a prompt, to be compared."""

    prompt: Prompt
    one: Completion
    other: Completion


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """A pair and what the judge said of it.

    Attributes:
        chosen: the better completion.
        margin: mean verdict for it, from 0 (as good) to 2 (much better).
        judgements: each for the first of the pair, from -2 to 2.
    """

    prompt: Prompt
    chosen: Completion
    rejected: Completion
    margin: float
    judgements: tuple[float, ...]


def make_pairs(group: Group, *, at_most: int, seed: int) -> list[Pair]:
    """Return pairs of finished completions whose summaries, which the judge sees, differ; drawn by the seed."""
    usable = [
        (summary, g.completion)
        for g in group.graded
        if g.completion.finish_reason != "length"
        and g.grade.verdict is not Verdict.ERROR
        and (summary := summary_of(g.completion.text))
    ]
    pairs = [Pair(group.prompt, a, b) for (of_a, a), (of_b, b) in itertools.combinations(usable, 2) if of_a != of_b]
    random.Random(f"{seed}/pairs/{group.prompt.prompt_id}").shuffle(pairs)
    return pairs[:at_most]


def decide(pair: Pair, values: Sequence[float]) -> JudgedPair:
    """Return a pair in the order of the mean verdict; each value is the first one's, in [0, 1]."""
    judgements = tuple(_SCALE * (value - 0.5) for value in values)
    mean = sum(judgements) / len(judgements)
    chosen, rejected = (pair.one, pair.other) if mean >= 0 else (pair.other, pair.one)
    return JudgedPair(pair.prompt, chosen, rejected, abs(mean), judgements)


def agrees_with_itself(judgements: Sequence[float]) -> bool:
    """Whether the judge says the same of a pair in both orders, in which it is shown in turn."""
    one, other = sum(judgements[::2]), sum(judgements[1::2])
    return one * other > 0 or one == other == 0


def length_bias(pairs: Sequence[JudgedPair]) -> float:
    """Return how much longer chosen completions are than rejected ones in the mean, as a share of both's mean."""
    chosen = sum(len(pair.chosen.completion_ids) for pair in pairs)
    rejected = sum(len(pair.rejected.completion_ids) for pair in pairs)
    return 2 * (chosen - rejected) / (chosen + rejected) if chosen + rejected else 0.0


def match_lengths(pairs: Sequence[JudgedPair], *, max_bias: float) -> list[JudgedPair]:
    """Leave out pairs, those that tilt the lengths most first, until the bias is at most `max_bias`.

    A pair whose loss would tilt them further the other way stays; so does the bias, if nothing else brings it down.
    """
    sizes = [(len(pair.chosen.completion_ids), len(pair.rejected.completion_ids)) for pair in pairs]
    chosen, rejected = sum(c for c, _ in sizes), sum(r for _, r in sizes)
    longer = 1 if chosen > rejected else -1
    dropped: set[int] = set()
    for i in sorted(range(len(pairs)), key=lambda i: longer * (sizes[i][1] - sizes[i][0])):
        if 2 * abs(chosen - rejected) <= max_bias * (chosen + rejected):
            break
        c, r = chosen - sizes[i][0], rejected - sizes[i][1]
        if c + r and abs(c - r) * (chosen + rejected) < abs(chosen - rejected) * (c + r):
            chosen, rejected = c, r
            dropped.add(i)
    return [pair for i, pair in enumerate(pairs) if i not in dropped]
