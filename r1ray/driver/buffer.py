"""Assembles graded completions into groups, and groups into rollout phases.

Groups are found by group id, never by position. A completion that comes twice (a group was asked for again)
counts once; a group leaves the buffer once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from r1ray.types import Completion, Grade, GradedCompletion, Group, GroupRequest, Verdict


@dataclass(slots=True)
class _Slot:
    request: GroupRequest
    graded: dict[int, GradedCompletion] = field(default_factory=dict)
    expected: set[int] = field(default_factory=set)

    @property
    def complete(self) -> bool:
        return self.expected <= self.graded.keys()


class GroupBuffer:
    """The groups of one rollout phase (or one evaluation) on their way to completion."""

    def __init__(self, requests: Sequence[GroupRequest]) -> None:
        """Expect every completion that `requests` ask for."""
        self._slots = {r.group_id: _Slot(r, expected=set(r.sample_indices)) for r in requests}
        if len(self._slots) != len(requests):
            raise ValueError("group ids must be unique within a phase")
        self._waiting = [r.group_id for r in requests]
        self._error_details: Counter[str] = Counter()
        # Groups that were given up, and the completions that they lack.
        self.given_up_groups = 0
        self.given_up = 0
        self.completions = 0

    def __contains__(self, group_id: str) -> bool:
        return group_id in self._slots

    @property
    def exhausted(self) -> bool:
        """Whether every group has been taken."""
        return not self._waiting

    @property
    def total_completions(self) -> int:
        """Completions this phase was asked for."""
        return sum(len(slot.request.sample_indices) for slot in self._slots.values())

    @property
    def errors(self) -> int:
        """Completions whose grading failed."""
        return self._error_details.total()

    @property
    def commonest_error(self) -> tuple[str, int]:
        """The detail that most failures share, and how many do."""
        return self._error_details.most_common(1)[0]

    def add(self, completion: Completion, grade: Grade) -> bool:
        """Put a graded completion into its group; False if it is not (or no longer) wanted."""
        slot = self._slots.get(completion.group_id)
        index = completion.sample_index
        if slot is None or index not in slot.expected or index in slot.graded:
            return False
        slot.graded[index] = GradedCompletion(completion, grade)
        self.completions += 1
        if grade.verdict is Verdict.ERROR:
            self._error_details[grade.detail] += 1
        return True

    def give_up(self, group_id: str) -> None:
        """Stop expecting what a group still lacks."""
        slot = self._slots[group_id]
        lacking = slot.expected - slot.graded.keys()
        slot.expected -= lacking
        self.given_up_groups += 1
        self.given_up += len(lacking)

    def take_next(self) -> Group | None:
        """Return the next group in submission order once it is complete.

        In order, because then the update does not depend on timing: a resumed run repeats it to the bit.
        The completions of a phase are generated together, so waiting for the order costs little.
        """
        if not self._waiting or not self._slots[self._waiting[0]].complete:
            return None
        slot = self._slots[self._waiting.pop(0)]
        kept = [slot.graded[i] for i in sorted(slot.graded) if slot.graded[i].grade.verdict is not Verdict.ERROR]
        return Group(slot.request.group_id, slot.request.prompt, tuple(kept))

    def take_any(self) -> Group | None:
        """Return a group that is complete, whichever; where the order does not matter."""
        for place, group_id in enumerate(self._waiting):
            if self._slots[group_id].complete:
                self._waiting.insert(0, self._waiting.pop(place))
                return self.take_next()
        return None

    def errored(self, group_id: str) -> list[GradedCompletion]:
        """Return the completions of a group whose grading failed, for the record."""
        graded = self._slots[group_id].graded.values()
        return [g for g in graded if g.grade.verdict is Verdict.ERROR]
