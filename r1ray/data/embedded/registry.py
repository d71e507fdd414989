"""The embedded tasks by the names that `data.train.name` and `data.eval.name` use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from r1ray.data.embedded.arithmetic import arithmetic
from r1ray.data.embedded.item import TaskItem
from r1ray.data.embedded.word_problems import word_problems, word_problems_few_shot


class Task(Protocol):
    """A question as a function of its place, seed and split; the same on every machine."""

    def __call__(self, index: int, *, seed: int, split: str) -> TaskItem:
        """Return the question at `index` of the stream of `seed` and `split`."""


TASKS: Mapping[str, Task] = {
    "arithmetic": arithmetic,
    "word_problems": word_problems,
    "word_problems_few_shot": word_problems_few_shot,
}
