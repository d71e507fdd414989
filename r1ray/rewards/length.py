"""Rewards for length: overlong, length, cosine. Lengths are in tokens, of the whole completion.

    overlong   0 up to a soft limit, down to -1 at the hard one
    length     how near to a target number of tokens, or whether within it
    cosine     short right answers over long ones, long wrong ones over short

None of them judges the answer; cosine needs the verdict of one that does. A completion without token ids (graded from
a file) has no length in tokens: that is an error of the grading, never a short completion.
"""

from __future__ import annotations

import math

from r1ray.errors import ConfigError, DataError
from r1ray.rewards.protocol import RewardResult
from r1ray.types import Completion, Prompt, Verdict

_MODES = ("exact", "max")


class OverlongReward:
    """Punish completions that come near the length limit, in [-1, 0].

        0                              C <= L - L_cache
        ((L - L_cache) - C) / L_cache  in between
        -1                             C >= L

    Source: DAPO's soft overlong punishment, arXiv:2503.14476, eq. 13.
    """

    def __init__(self, *, max_completion_tokens: int, cache_tokens: int | None = None) -> None:
        """Set the limits.

        Args:
            max_completion_tokens: L.
            cache_tokens: L_cache, the length of the slope; None: a fifth of L, as in the paper.

        Raises:
            ConfigError: a limit is not positive, or the slope is longer than the limit.
        """
        _check_positive("overlong", "max_completion_tokens", max_completion_tokens)
        cache = max(1, max_completion_tokens // 5) if cache_tokens is None else cache_tokens
        if not 1 <= cache <= max_completion_tokens:
            raise ConfigError(
                f"reward overlong: option cache_tokens must be in [1, max_completion_tokens = {max_completion_tokens}],"
                f" got {cache}: the slope ends at the limit"
            )
        self._cache = cache
        self._soft_limit = max_completion_tokens - cache

    def __call__(self, prompt: Prompt, completion: Completion) -> RewardResult:
        """Return the punishment; `error` for a completion without token ids."""
        tokens = _length(completion)
        if tokens is None:
            return _no_length("overlong")
        return RewardResult(-min(1.0, max(0.0, (tokens - self._soft_limit) / self._cache)), detail=f"{tokens} tokens")


class LengthReward:
    """How well a completion keeps to a number of tokens.

        exact   -alpha * |n_target - n|, at most 0; for every completion
        max     clip(alpha * (n_target - n) + delta, 0, 1) for a correct one, 0 for any other

    The paper adds `exact` to the reward for a right answer and takes `max` in its place, times that reward: so weigh
    accuracy 0 beside `max`.

    Source: LCPO-exact and LCPO-max of L1, arXiv:2503.04697, section 3.
    """

    def __init__(
        self, *, target_tokens: int | None = None, mode: str = "exact", alpha: float = 0.0003, delta: float = 0.5
    ) -> None:
        """Set the target.

        Args:
            target_tokens: n_target; None: per prompt, from its metadata `target_tokens`.
            mode: `exact` or `max`.
            alpha: reward per token.
            delta: `max` at the target.

        Raises:
            ConfigError: unknown mode, or a number out of its range.
        """
        if mode not in _MODES:
            raise ConfigError(f"reward length: option mode must be one of {', '.join(_MODES)}, got {mode!r}")
        if target_tokens is not None:
            _check_positive("length", "target_tokens", target_tokens)
        _check_positive("length", "alpha", alpha)
        if not 0 <= delta <= 1:
            raise ConfigError(f"reward length: option delta must be in [0, 1], got {delta}")
        self._target = target_tokens
        self._mode = mode
        self._alpha = alpha
        self._delta = delta

    def after(self, prompt: Prompt, completion: Completion, verdict: Verdict | None) -> RewardResult:
        """Return the reward; `error` without token ids, and in mode `max` without a verdict.

        Raises:
            DataError: neither option nor metadata name a target.
        """
        tokens = _length(completion)
        if tokens is None:
            return _no_length("length")
        target = self._target if self._target is not None else _target_of(prompt)
        detail = f"{tokens} tokens, target {target}"
        if self._mode == "exact":
            return RewardResult(-self._alpha * abs(target - tokens), detail=detail)
        if verdict is None:
            return _no_verdict("length in mode max")
        if verdict is not Verdict.CORRECT:
            return RewardResult(0.0, detail=detail)
        return RewardResult(min(1.0, max(0.0, self._alpha * (target - tokens) + self._delta)), detail=detail)


class CosineReward:
    """Reward by correctness and length, between the values at length 0 and at the limit L.

        r_L + (r_0 - r_L) * (1 + cos(pi * C / L)) / 2    with r_0, r_L by correctness; `exceeded` where C >= L

    With the defaults right answers earn less the longer they are and wrong ones lose less, in [-10, 2]. The paper
    uses it in place of the reward for a right answer: so weigh accuracy 0 beside it.

    Source: arXiv:2502.03373, section 3.2; the defaults are those of its experiments.
    """

    def __init__(
        self,
        *,
        max_completion_tokens: int,
        correct_at_0: float = 2.0,
        correct_at_limit: float = 1.0,
        wrong_at_0: float = -10.0,
        wrong_at_limit: float = 0.0,
        exceeded: float = -10.0,
    ) -> None:
        """Set the ends of both curves.

        Args:
            max_completion_tokens: L.
            correct_at_0: a right answer at length 0.
            correct_at_limit: a right answer just below L.
            wrong_at_0: a wrong answer, or none, at length 0.
            wrong_at_limit: a wrong answer just below L.
            exceeded: any completion that reaches L.

        Raises:
            ConfigError: the limit is not positive, or a value is not finite.
        """
        _check_positive("cosine", "max_completion_tokens", max_completion_tokens)
        values = {
            "correct_at_0": correct_at_0,
            "correct_at_limit": correct_at_limit,
            "wrong_at_0": wrong_at_0,
            "wrong_at_limit": wrong_at_limit,
            "exceeded": exceeded,
        }
        for name, value in values.items():
            if not math.isfinite(value):
                raise ConfigError(f"reward cosine: option {name} must be finite, got {value}")
        self._limit = max_completion_tokens
        self._correct = (correct_at_0, correct_at_limit)
        self._wrong = (wrong_at_0, wrong_at_limit)
        self._exceeded = exceeded

    def after(self, prompt: Prompt, completion: Completion, verdict: Verdict | None) -> RewardResult:
        """Return the reward; `error` without token ids or without a verdict."""
        tokens = _length(completion)
        if tokens is None:
            return _no_length("cosine")
        if verdict is None:
            return _no_verdict("cosine")
        if tokens >= self._limit:
            return RewardResult(self._exceeded, detail=f"{tokens} tokens, at the limit")
        at_0, at_limit = self._correct if verdict is Verdict.CORRECT else self._wrong
        share = (1 + math.cos(math.pi * tokens / self._limit)) / 2
        return RewardResult(at_limit + (at_0 - at_limit) * share, detail=f"{tokens} tokens")


def _length(completion: Completion) -> int | None:
    """Return C; None where there is text but its token ids are not known."""
    return None if completion.text and not completion.completion_ids else len(completion.completion_ids)


def _target_of(prompt: Prompt) -> int:
    target = prompt.metadata.get("target_tokens")
    if not isinstance(target, int) or target < 1:
        raise DataError(
            f"reward length: metadata target_tokens of prompt {prompt.prompt_id!r} must be a positive integer, got "
            f"{target!r}: name the column in data.train.columns.metadata, or set option target_tokens for all prompts"
        )
    return target


def _no_length(name: str) -> RewardResult:
    detail = f"reward {name} measures tokens and the completion has no token ids: grade it where it was generated"
    return RewardResult(0.0, Verdict.ERROR, detail)


def _no_verdict(name: str) -> RewardResult:
    detail = f"reward {name} needs a verdict and no term gave one: add accuracy, at weight 0 if it is not to count"
    return RewardResult(0.0, Verdict.ERROR, detail)


def _check_positive(name: str, option: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ConfigError(f"reward {name}: option {option} must be positive and finite, got {value}")
