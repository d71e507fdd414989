"""The random reward: a control run's stand-in, known to carry no signal about the text.

With `accuracy` beside it at weight 0, a run still reports what the policy can do.
"""

from __future__ import annotations

import hashlib

from r1ray.errors import ConfigError
from r1ray.rewards.protocol import RewardResult
from r1ray.types import Completion, Prompt


class RandomReward:
    """1 with probability `p`, else 0, decided by the completion's place in the run and not by its text."""

    def __init__(self, *, p: float = 0.5, seed: int = 0) -> None:
        """Choose the odds.

        Raises:
            ConfigError: `p` is not a probability.
        """
        if not 0 <= p <= 1:
            raise ConfigError(f"reward random: option p must be in [0, 1], got {p}: it is a probability")
        self._p = p
        self._seed = seed

    def __call__(self, prompt: Prompt, completion: Completion) -> RewardResult:
        """Return 1.0 or 0.0; the same for the same seed, group and sample index."""
        key = f"{self._seed}/{completion.group_id}/{completion.sample_index}".encode()
        draw = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") / 2**64
        return RewardResult(float(draw < self._p))
