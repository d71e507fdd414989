"""The embedded tasks by the names that `data.train.name` and `data.eval.name` use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from r1ray.data.embedded.arithmetic import arithmetic
from r1ray.data.embedded.bilingual_choices import bilingual_choices
from r1ray.data.embedded.bilingual_notes import bilingual_notes
from r1ray.data.embedded.bilingual_preferences import (
    bilingual_general_samples,
    bilingual_note_preferences,
    bilingual_request_labels,
)
from r1ray.data.embedded.bilingual_requests import bilingual_requests
from r1ray.data.embedded.bilingual_sums import bilingual_sums
from r1ray.data.embedded.item import TaskItem
from r1ray.data.embedded.word_problems import word_problems, word_problems_few_shot


class Task(Protocol):
    """A question as a function of its place, seed and split; the same on every machine."""

    def __call__(self, index: int, *, seed: int, split: str) -> TaskItem:
        """Return the question at `index` of the stream of `seed` and `split`."""


TASKS: Mapping[str, Task] = {
    "arithmetic": arithmetic,
    "bilingual_sums": bilingual_sums,
    "bilingual_choices": bilingual_choices,
    "bilingual_notes": bilingual_notes,
    "bilingual_requests": bilingual_requests,
    "bilingual_note_preferences": bilingual_note_preferences,
    "bilingual_request_labels": bilingual_request_labels,
    "bilingual_general_samples": bilingual_general_samples,
    "word_problems": word_problems,
    "word_problems_few_shot": word_problems_few_shot,
}
