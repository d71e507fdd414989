"""Rewards for the template's form: all tags in their places, or the share of them. Do not judge the answer."""

from __future__ import annotations

from itertools import pairwise

from r1ray.errors import ConfigError
from r1ray.rewards.protocol import RewardResult
from r1ray.template import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN, parse_r1, parse_r1_zero
from r1ray.types import Completion, Prompt

_PARSERS = {"r1_zero": parse_r1_zero, "r1": parse_r1}
_TAGS = {
    "r1_zero": (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE),
    "r1": (THINK_OPEN, THINK_CLOSE),
}


class FormatReward:
    """1 if the completion has the template's form, else 0.

    Source: arXiv:2501.12948, section 2.2.2.
    """

    def __init__(self, *, style: str = "r1_zero", think_opened: bool = False) -> None:
        """Choose the form.

        Args:
            style: `r1_zero` wants thinking and answer in their tags, `r1` thinking and then a summary.
            think_opened: the prompt ends in the opening think tag, so that completions begin inside the block.

        Raises:
            ConfigError: unknown style.
        """
        _check_style("format", style)
        self._parse = _PARSERS[style]
        self._think_opened = think_opened

    def __call__(self, prompt: Prompt, completion: Completion) -> RewardResult:
        """Return 1.0 if the completion has the form, else 0.0."""
        return RewardResult(float(self._parse(_whole(completion.text, self._think_opened)) is not None))


class TagCountReward:
    """The share of the template's tags that stand exactly once and in their order, in [0, 1].

    A gentler slope to the form than `format`: of the longest run of tags in the template's order, each counts that
    stands exactly once in the completion. White space and text outside the tags do not matter.

    Source: the tags are those of arXiv:2501.12948, section 2.2.2; counting them is customary in reproductions.
    """

    def __init__(self, *, style: str = "r1_zero", think_opened: bool = False) -> None:
        """Choose the tags.

        Args:
            style: `r1_zero` has four tags, `r1` the two of the think block.
            think_opened: the prompt ends in the opening think tag. It then is no merit of the completion, and does
                not count: three tags or one are left, and the opening tag in the completion costs the closing one.

        Raises:
            ConfigError: unknown style.
        """
        _check_style("tag_count", style)
        self._tags = _TAGS[style]
        self._think_opened = think_opened

    def __call__(self, prompt: Prompt, completion: Completion) -> RewardResult:
        """Return the share of tags in place; the detail names the others."""
        text = completion.text
        counted = self._tags[1:] if self._think_opened else self._tags
        once = [tag for tag in counted if text.count(tag) == 1]
        if self._think_opened and THINK_OPEN in text:
            once = [tag for tag in once if tag != THINK_CLOSE]
        placed = _longest_in_order([(text.index(tag), tag) for tag in once])
        missing = [tag for tag in counted if tag not in placed]
        return RewardResult(len(placed) / len(counted), detail=f"not in place: {' '.join(missing)}" if missing else "")


def _longest_in_order(placed: list[tuple[int, str]]) -> set[str]:
    """Return the largest subset whose places rise; of at most four tags, so every subset is tried."""
    best: list[tuple[int, str]] = []
    for chosen in range(1 << len(placed)):
        subset = [item for i, item in enumerate(placed) if chosen >> i & 1]
        if len(subset) > len(best) and all(one[0] < other[0] for one, other in pairwise(subset)):
            best = subset
    return {tag for _, tag in best}


def _whole(text: str, think_opened: bool) -> str:
    return THINK_OPEN + text if think_opened else text


def _check_style(name: str, style: str) -> None:
    if style not in _PARSERS:
        raise ConfigError(f"reward {name}: option style must be one of {', '.join(_PARSERS)}, got {style!r}")
