"""Runs every reward on one completion and weighs the results into a grade.

Works alone in any process; `pool.py` spreads graders over actors. Does not decide what an overlong
completion earns: that is the driver's.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence

from r1ray.config.schema import RewardsConfig
from r1ray.rewards.protocol import Reward, RewardResult
from r1ray.rewards.registry import resolve
from r1ray.types import Completion, Grade, Prompt, Verdict

logger = logging.getLogger(__name__)


class Grader:
    """The rewards of one config, ready to judge."""

    def __init__(self, rewards: RewardsConfig) -> None:
        """Resolve the reward terms.

        Raises:
            ConfigError: a term cannot be resolved.
        """
        self._rewards = [resolve(term, rewards) for term in rewards.terms]
        self._weights = [term.weight for term in rewards.terms]
        self._names = breakdown_names([term.name for term in rewards.terms])

    def grade(self, prompt: Prompt, completion: Completion) -> Grade:
        """Grade one completion.

        Returns:
            The weighted sum and every raw value; terms of weight 0 are run and reported too. The verdict is that
            of the first reward that gives one, `error` if any reward failed; without any, `correct` stands for a
            positive reward. An `error` grade has reward 0 and 0 for each reward that failed.
        """
        results = [
            _run(name, reward, prompt, completion) for name, reward in zip(self._names, self._rewards, strict=True)
        ]
        breakdown = {name: result.value for name, result in zip(self._names, results, strict=True)}
        failed = next((result for result in results if result.verdict is Verdict.ERROR), None)
        if failed is not None:
            return Grade(0.0, breakdown, Verdict.ERROR, failed.detail)
        total = math.fsum(weight * result.value for weight, result in zip(self._weights, results, strict=True))
        judging = next((result for result in results if result.verdict is not None), None)
        if judging is None or judging.verdict is None:
            detail = next((result.detail for result in results if result.detail), "")
            return Grade(total, breakdown, Verdict.CORRECT if total > 0 else Verdict.WRONG, detail)
        return Grade(total, breakdown, judging.verdict, judging.detail)

    def grade_all(self, items: Sequence[tuple[Prompt, Completion]]) -> list[Grade]:
        """Grade completions in order."""
        return [self.grade(prompt, completion) for prompt, completion in items]

    def start(self) -> None:
        """Let the rewards start what takes time, such as child processes, without waiting for it."""
        self._call_all("start")

    def close(self) -> None:
        """Free what the rewards hold."""
        self._call_all("close")

    def _call_all(self, method: str) -> None:
        for reward in self._rewards:
            call = getattr(reward, method, None)
            if callable(call):
                call()


def breakdown_names(names: Sequence[str]) -> list[str]:
    """Return the key of each reward term in `Grade.breakdown`: `accuracy`, `format`, `format_2`, ..."""
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return unique


def _run(name: str, reward: Reward, prompt: Prompt, completion: Completion) -> RewardResult:
    """Run one reward; whatever goes wrong becomes verdict `error`, never a wrong answer."""
    try:
        result = reward(prompt, completion)
        if not isinstance(result, RewardResult):
            result = RewardResult(float(result))
    except Exception as error:  # the worker boundary: a user's reward may raise anything
        logger.warning("reward %s failed on %s", name, completion.group_id, exc_info=True)
        return RewardResult(0.0, Verdict.ERROR, f"reward {name} raised {type(error).__name__}: {error}")
    if not math.isfinite(result.value):
        logger.warning("reward %s returned %s on %s", name, result.value, completion.group_id)
        return RewardResult(0.0, Verdict.ERROR, f"reward {name} returned {result.value}, which is not finite")
    return result
