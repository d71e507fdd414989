"""The record that every embedded task yields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class TaskItem:
    """One question with its reference answer, both as bare text.

    Attributes:
        question: the bare question.
        answer: gold answer; None where no rule can judge an answer.
        task: what kind of grading applies, as in `Record`.
        domain: which rewards apply; None: by the task.
        metadata: further columns, such as `target_language`.
    """

    question: str
    answer: str | None
    task: str = "math"
    domain: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
