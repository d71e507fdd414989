"""The row of a dataset, as every source yields it; before templating and tokenizing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Record:
    """One question of a dataset.

    Attributes:
        prompt_id: unique within its dataset: the id column, or `<dataset>/<split>/<row>`.
        question: the bare question.
        answer: gold answer as text; None where the dataset has no answer column.
        task: what kind of grading applies (`math`, `choice`, `code`, `text`).
        domain: which rewards apply; None: by the task.
        metadata: further columns, for custom rewards.
    """

    prompt_id: str
    question: str
    answer: str | None = None
    task: str = "math"
    metadata: dict[str, Any] = field(default_factory=dict)
    domain: str | None = None
