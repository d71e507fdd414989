"""Who sees whom in a packed micro-batch.

A packed micro-batch is one sequence of T tokens made of segments. A segment attends causally to itself and, if it
is a completion with a shared prompt, to that prompt's segment.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of tokens: `length` of them from `start`, which also see the segment number `prefix`."""

    start: int
    length: int
    prefix: int | None = None
