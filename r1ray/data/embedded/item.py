"""The record that every embedded task yields."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TaskItem:
    """One question with its reference answer, both as bare text."""

    question: str
    answer: str
