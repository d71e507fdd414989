"""What a reward is.

A reward looks at one prompt and one completion and returns a `RewardResult`. Rewards are named in config
by a short name or by `module:function`; `rewards/grader.py` runs all terms of a completion and weighs
them into one `Grade`.

Three kinds, told apart by what they offer: most are functions of one completion (`Reward`); those that wait for
others' machines or fill a GPU take many at a time (`BatchReward`); those that depend on how a completion was judged
see the verdict (`VerdictReward`). A class may also have `start()`, which starts what takes time without waiting for
it, and `close()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from r1ray.types import Completion, Prompt, Verdict


class Lane(StrEnum):
    """Which processes a reward runs in: each kind waits for something else."""

    RULES = "rules"  # CPU work in this process or its killable children
    JUDGE = "judge"  # answers of an HTTP endpoint
    INFERENCE = "inference"  # forward passes of a model, on a GPU where there is one


@dataclass(frozen=True, slots=True)
class RewardResult:
    """What one reward says about one completion.

    Attributes:
        value: raw value before the term's weight.
        verdict: None where the reward does not judge correctness (format, length, ...).
        detail: one line for people.
    """

    value: float
    verdict: Verdict | None = None
    detail: str = ""


class Reward(Protocol):
    """A reward function; user functions may also return a plain float."""

    def __call__(self, prompt: Prompt, completion: Completion) -> RewardResult | float:
        """Judge one completion."""


class BatchReward(Protocol):
    """A reward that judges many completions at a time."""

    def score(self, items: Sequence[tuple[Prompt, Completion]]) -> Sequence[RewardResult]:
        """Judge completions; one result each, in order. One that fails gets verdict `error`, the others do not."""


class VerdictReward(Protocol):
    """A reward that depends on the verdict of the judging rewards; cheap, as it runs in the driver."""

    def after(self, prompt: Prompt, completion: Completion, verdict: Verdict | None) -> RewardResult:
        """Judge one completion whose verdict is known; None where nothing judged it."""
