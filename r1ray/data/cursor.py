"""Walks through a dataset for ever, epoch after epoch, and can go on exactly where it stopped.

Last station of the data: the driver takes prompts from here and puts `state()` into every checkpoint.
"""

from __future__ import annotations

import random
from typing import Any

from r1ray.data.prompts import PromptBuilder, all_too_long
from r1ray.data.sources import PromptSource
from r1ray.errors import DataError
from r1ray.types import Prompt

# An endless source has no epoch to tell that no prompt ever fits.
_ENDLESS_TRIES = 10_000
_IDENTITY = ("seed", "shuffle", "size")


class PromptCursor:
    """An endless stream of prompts with a place that can be saved.

    Each epoch visits every record once, in an order that depends on the seed and the epoch alone. A source
    that never ends is read in its own order and stays in epoch 0.

    Attributes:
        epoch: the epoch of the next record, from 0.
        skipped: records passed over because their prompts were too long, since the start of the run.
    """

    def __init__(self, source: PromptSource, builder: PromptBuilder, seed: int, shuffle: bool) -> None:
        """Stand at the beginning of epoch 0."""
        self.epoch = 0
        self.skipped = 0
        self._source = source
        self._builder = builder
        self._seed = seed
        self._shuffle = shuffle
        self._position = 0
        self._order = self._epoch_order()

    def take(self, n: int, *, step: int = 0) -> list[Prompt]:
        """Return the next n prompts, whatever the step; more than an epoch holds repeats records.

        Raises:
            DataError: no prompt of the dataset is short enough.
        """
        return [self._next() for _ in range(n)]

    def state(self) -> dict[str, Any]:
        """Return the place as JSON-able values, from which `restore` goes on."""
        return {
            "epoch": self.epoch,
            "position": self._position,
            "skipped": self.skipped,
            "seed": self._seed,
            "shuffle": self._shuffle,
            "size": self._source.size,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go to a saved place.

        Raises:
            DataError: the place was saved under another seed, order or dataset size, where it means
                something else.
        """
        here = self.state()
        for key in _IDENTITY:
            if state.get(key) != here[key]:
                raise DataError(
                    f"the checkpoint's data {key} is {state.get(key)}, the config's {here[key]}: "
                    "resume with the data the run began with, or start a new run"
                )
        self.epoch = state["epoch"]
        self.skipped = state["skipped"]
        self._position = state["position"]
        self._order = self._epoch_order()

    def _next(self) -> Prompt:
        # Any window of two epochs' length holds one epoch whole, so a fitting prompt cannot be missed.
        tries = _ENDLESS_TRIES if self._source.size is None else 2 * self._source.size
        for _ in range(tries):
            prompt = self._builder.build(self._source[self._advance()])
            if prompt is not None:
                return prompt
            self.skipped += 1
        raise DataError(all_too_long(self._builder.max_prompt_tokens))

    def _advance(self) -> int:
        """Return the index of the next record and step past it."""
        place = self._position
        index = place if self._order is None else self._order[place]
        self._position += 1
        if self._position == self._source.size:
            self.epoch += 1
            self._position = 0
            self._order = self._epoch_order()
        return index

    def _epoch_order(self) -> list[int] | None:
        """Return the indices of the epoch in order; None where they are the positions themselves."""
        if self._source.size is None or not self._shuffle:
            return None
        order = list(range(self._source.size))
        random.Random(f"{self._seed}/{self.epoch}").shuffle(order)
        return order
