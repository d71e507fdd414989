"""The repetition reward: how much of a completion says again what it said before. Does not judge the answer."""

from __future__ import annotations

import math

import regex

from r1ray.errors import ConfigError
from r1ray.rewards.protocol import RewardResult
from r1ray.types import Completion, Prompt

# Scripts written without spaces are split into letters; everything else at what is neither letter nor digit.
_UNIT = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
    r"|[[\p{L}\p{M}\p{N}]--[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]]++",
    regex.V1,
)


class RepetitionReward:
    """`penalty` times the share of n-grams that occurred before in the completion, between `penalty` and 0.

    N-grams are of words, numbers included, in lower case; of single letters in Chinese, Japanese and other scripts
    written without spaces. A completion of fewer than `n` words repeats nothing. Takes time and memory linear in the
    text's length.

    Source: the n-gram repetition penalty of arXiv:2502.03373, section 4.2 and appendix. There it falls on the
    repeated tokens themselves; here, where a completion has one reward, on the completion by their share.
    """

    def __init__(self, *, n: int = 20, penalty: float = -1.0) -> None:
        """Set size and price.

        Args:
            n: words of an n-gram; 20 and more leaves the repetition alone that formulas and lists need.
            penalty: value where all n-grams but the first repeat it, at most 0.

        Raises:
            ConfigError: `n` is less than 1, or the penalty a prize.
        """
        if n < 1:
            raise ConfigError(f"reward repetition: option n must be at least 1, got {n}")
        if not (penalty <= 0 and math.isfinite(penalty)):
            raise ConfigError(f"reward repetition: option penalty must be finite and at most 0, got {penalty}")
        self._n = n
        self._penalty = penalty

    def __call__(self, prompt: Prompt, completion: Completion) -> RewardResult:
        """Return the penalty that the text has earned."""
        repeated, total = count_repeated(completion.text, n=self._n)
        share = repeated / total if total else 0.0
        return RewardResult(self._penalty * share + 0.0, detail=f"{repeated} of {total} {self._n}-grams repeat")


def count_repeated(text: str, *, n: int) -> tuple[int, int]:
    """Count the n-grams of a text that occurred before in it, and all of them."""
    numbers: dict[str, int] = {}
    units = [numbers.setdefault(unit.lower(), len(numbers)) for unit in _UNIT.findall(text)]
    total = max(0, len(units) - n + 1)
    # A rolling hash keeps the time linear in `n` too; modulo a prime this large nothing meets by chance.
    modulus, base = (1 << 61) - 1, 1_000_003
    highest = pow(base, n - 1, modulus)
    seen: set[int] = set()
    rolling = 0
    for i, unit in enumerate(units):
        if i >= n:
            rolling -= (units[i - n] + 1) * highest
        rolling = (rolling * base + unit + 1) % modulus
        if i >= n - 1:
            seen.add(rolling)
    return total - len(seen), total
