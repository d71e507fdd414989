"""Walks through several datasets at once, by their shares: the cursor of a mixture.

Stands where `PromptCursor` stands when the training data has parts. Which part the next prompt comes from depends on
the shares and on what was taken before, never on chance, so that any stretch of prompts holds each part's share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from r1ray.config.data_sections import DatasetConfig, PartConfig
from r1ray.data.cursor import PromptCursor
from r1ray.data.prompts import PromptBuilder
from r1ray.data.sources import open_source
from r1ray.errors import DataError
from r1ray.types import Prompt


class Cursor(Protocol):
    """An endless stream of prompts with a place that can be saved."""

    def take(self, n: int, *, step: int = 0) -> list[Prompt]:
        """Return the next n prompts, to be trained on in an optimizer step."""

    def state(self) -> dict[str, Any]:
        """Return the place as JSON-able values."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go to a saved place; `DataError` where it was saved under other data."""


def open_cursor(config: DatasetConfig, builder: PromptBuilder, *, seed: int, shuffle: bool) -> Cursor:
    """Open a dataset, or the mixture of its parts, for training.

    Raises:
        DataError: as `open_source`.
    """
    if not config.parts:
        return PromptCursor(open_source(config), builder, seed, shuffle)
    cursors = [PromptCursor(open_source(part), builder, seed, shuffle) for part in config.parts]
    return MixtureCursor(config.parts, cursors)


class MixtureCursor:
    """Takes prompts from several cursors by their shares, each within the steps that it applies to."""

    def __init__(self, parts: Sequence[PartConfig], cursors: Sequence[PromptCursor]) -> None:
        """Stand at the beginning of every part."""
        self._parts = parts
        self._cursors = cursors
        self._credits = [0.0] * len(parts)

    def take(self, n: int, *, step: int = 0) -> list[Prompt]:
        """Return the next n prompts.

        Args:
            n: how many.
            step: optimizer step that they will be trained on in.

        Raises:
            DataError: no part applies to the step, or no prompt of a part is short enough.
        """
        active = [i for i, part in enumerate(self._parts) if _applies(part, step)]
        if not active:
            raise DataError(
                f"no part of data.train applies to step {step}: set from_step and until_step such that one does"
            )
        return [self._cursors[self._next_part(active)].take(1)[0] for _ in range(n)]

    def _next_part(self, active: Sequence[int]) -> int:
        """Credit every active part with its share; the one with the most credit pays for one prompt."""
        total = sum(self._parts[i].share for i in active)
        for i in active:
            self._credits[i] += self._parts[i].share / total
        chosen = max(active, key=lambda i: (self._credits[i], -i))
        self._credits[chosen] -= 1.0
        return chosen

    def state(self) -> dict[str, Any]:
        """Return the place of every part, and their credits."""
        return {"parts": [cursor.state() for cursor in self._cursors], "credits": list(self._credits)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go to a saved place.

        Raises:
            DataError: it was saved under other parts.
        """
        saved = state.get("parts", [])
        if len(saved) != len(self._cursors):
            raise DataError(
                f"the checkpoint's data has {len(saved) or 'no'} parts, the config's {len(self._cursors)}: resume with "
                "the data the run began with, or start a new run"
            )
        for cursor, place in zip(self._cursors, saved, strict=True):
            cursor.restore(place)
        self._credits = list(state["credits"])


def _applies(part: PartConfig, step: int) -> bool:
    return part.from_step <= step and (part.until_step is None or step < part.until_step)
