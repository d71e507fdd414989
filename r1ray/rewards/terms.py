"""Which reward terms apply to a completion, and how their results become one grade.

Pure bookkeeping over the config; the rewards themselves run in `grader.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from r1ray.config.schema import RewardTerm
from r1ray.errors import ConfigError
from r1ray.rewards.protocol import RewardResult
from r1ray.types import Grade, Verdict


@dataclass(frozen=True, slots=True)
class Term:
    """A reward term and its key in `Grade.breakdown`."""

    key: str
    config: RewardTerm

    def in_domain(self, domain: str) -> bool:
        """Whether the term is for prompts of a domain."""
        return not self.config.domains or domain in self.config.domains

    def applies(self, *, domain: str, step: int) -> bool:
        """Whether the term counts for prompts of a domain in an optimizer step."""
        first, end = self.config.from_step, self.config.until_step
        return self.in_domain(domain) and first <= step and (end is None or step < end)


def name_terms(terms: Sequence[RewardTerm]) -> list[Term]:
    """Give each term its key: `accuracy`, `format`, and `format_2` for another that may meet the first.

    Terms of one name that never apply to the same completion, having other domains or other steps, share a key.
    """
    named: list[Term] = []
    for term in terms:
        number = 1
        while any(other.key == _key(term, number) and _may_meet(other.config, term) for other in named):
            number += 1
        named.append(Term(_key(term, number), term))
    return named


def _key(term: RewardTerm, number: int) -> str:
    return term.name if number == 1 else f"{term.name}_{number}"


def _may_meet(one: RewardTerm, other: RewardTerm) -> bool:
    share_domain = not one.domains or not other.domains or bool({*one.domains} & {*other.domains})
    ends = [math.inf if term.until_step is None else term.until_step for term in (one, other)]
    return share_domain and max(one.from_step, other.from_step) < min(ends)


def reward_weights(terms: Sequence[RewardTerm]) -> dict[str, float]:
    """Return the weight of every key of the breakdown.

    Raises:
        ConfigError: terms that share a key, being for other domains or steps, differ in weight.
    """
    weights: dict[str, float] = {}
    for term in name_terms(terms):
        if weights.setdefault(term.key, term.config.weight) != term.config.weight:
            raise ConfigError(
                f"rewards.terms: {term.key!r} must have one weight in all domains and steps where "
                f"algorithm.advantage=per_reward_zscore adds rewards up, got {weights[term.key]:g} and "
                f"{term.config.weight:g}"
            )
    return weights


def first_verdict(terms: Sequence[Term], results: Mapping[str, RewardResult]) -> Verdict | None:
    """Return what the first judging term says, None where none judges."""
    verdicts = (results[term.key].verdict for term in terms if term.key in results)
    return next((verdict for verdict in verdicts if verdict is not None), None)


def weigh(terms: Sequence[Term], results: Mapping[str, RewardResult]) -> Grade:
    """Make one grade of the results of the terms that apply.

    Args:
        terms: those that apply, in the config's order.
        results: by key.

    Returns:
        The weighted sum and every raw value; terms of weight 0 are reported too. The verdict is that of the first
        term that gives one, `error` if any term failed; without any, `correct` stands for a positive reward. An
        `error` grade has reward 0 and 0 for each term that failed.
    """
    breakdown = {term.key: results[term.key].value for term in terms}
    failed = next((results[term.key] for term in terms if results[term.key].verdict is Verdict.ERROR), None)
    if failed is not None:
        return Grade(0.0, breakdown, Verdict.ERROR, failed.detail)
    total = math.fsum(term.config.weight * results[term.key].value for term in terms)
    judging = next((results[term.key] for term in terms if results[term.key].verdict is not None), None)
    if judging is None or judging.verdict is None:
        detail = next((results[term.key].detail for term in terms if results[term.key].detail), "")
        return Grade(total, breakdown, Verdict.CORRECT if total > 0 else Verdict.WRONG, detail)
    return Grade(total, breakdown, judging.verdict, judging.detail)
