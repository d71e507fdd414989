"""What a reward is.

A reward looks at one prompt and one completion and returns a `RewardResult`. Rewards are named in config
by a short name or by `module:function`; `rewards/grader.py` runs all terms of a completion and weighs
them into one `Grade`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from r1ray.types import Completion, Prompt, Verdict


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
