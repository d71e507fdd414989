"""The format reward: 1 if the completion has the template's form, else 0. Does not judge the answer."""

from __future__ import annotations

from r1ray.errors import ConfigError
from r1ray.rewards.protocol import RewardResult
from r1ray.template import parse_r1, parse_r1_zero
from r1ray.types import Completion, Prompt

_PARSERS = {"r1_zero": parse_r1_zero, "r1": parse_r1}


class FormatReward:
    """Checks the tags."""

    def __init__(self, *, style: str = "r1_zero") -> None:
        """Choose the form.

        Args:
            style: `r1_zero` wants thinking and answer in their tags, `r1` thinking and then a summary.

        Raises:
            ConfigError: unknown style.
        """
        if style not in _PARSERS:
            raise ConfigError(f"reward format: option style must be one of {', '.join(_PARSERS)}, got {style!r}")
        self._parse = _PARSERS[style]

    def __call__(self, prompt: Prompt, completion: Completion) -> RewardResult:
        """Return 1.0 if the completion has the form, else 0.0."""
        return RewardResult(float(self._parse(completion.text) is not None))
