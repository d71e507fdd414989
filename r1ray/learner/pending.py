"""Calls under way on every learner process: waiting with a deadline, and saying who failed and where."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from r1ray.errors import LearnerDied, LearnerError, R1RayError

# The others of a process that died fail a moment later, when their collective breaks; the first to fail is not
# always the one to blame.
ATTRIBUTION_S = 5.0
REMEDY = "resume=true goes on from the last checkpoint"


@dataclass(frozen=True, slots=True)
class Pending:
    """A call under way on every learner process.

    Attributes:
        refs: in rank order.
        what: the method.
        deadline_s: from the call on.
        last_note: returns what a rank last said it was doing.
        requires: earlier calls on the same processes, whose failure is a failure of this one.
        began: when the call was made, of the monotonic clock.
    """

    refs: tuple[Any, ...]
    what: str
    deadline_s: float
    last_note: Callable[[int], str]
    requires: tuple[Pending, ...] = ()
    began: float = field(default_factory=time.monotonic)

    def done(self, wait_s: float = 0.0) -> bool:
        """Whether every process has finished, one has failed or the deadline has passed, waiting up to `wait_s`."""
        if time.monotonic() - self.began > self.deadline_s:
            return True
        ready, waiting = ray.wait(list(self.refs), num_returns=len(self.refs), timeout=wait_s)
        return not waiting or any(_failure(ref) is not None for ref in ready) or any(e.failed for e in self.requires)

    @property
    def failed(self) -> bool:
        """Whether a process is known to have failed."""
        ready, _ = ray.wait(list(self.refs), num_returns=len(self.refs), timeout=0)
        return any(_failure(ref) is not None for ref in ready)

    def results(self) -> list[Any]:
        """Return what every process returned, in rank order.

        Raises:
            LearnerDied: a process is gone.
            LearnerError: a process failed or the deadline passed.
        """
        for earlier in self.requires:
            earlier.results()
        try:
            left_s = max(0.0, self.began + self.deadline_s - time.monotonic())
            return list(ray.get(list(self.refs), timeout=left_s))
        except GetTimeoutError:
            raise LearnerError(
                f"learner did not finish {self.what} within its deadline of {self.deadline_s:g} s "
                f"(learner.step_timeout_s or learner.start_timeout_s); {self._notes()}; {REMEDY}"
            ) from None
        except RayError as error:
            raise self._attributed(error) from error

    def _attributed(self, error: RayError) -> R1RayError:
        """Name the process to blame: one that is gone before one that met an error."""
        ray.wait(list(self.refs), num_returns=len(self.refs), timeout=ATTRIBUTION_S)
        failures = {rank: found for rank, ref in enumerate(self.refs) if (found := _failure(ref)) is not None}
        gone = [rank for rank, found in failures.items() if isinstance(found, RayActorError)]
        if gone:
            ranks = " and ".join(map(str, gone))
            return LearnerDied(
                f"learner process {ranks} of {len(self.refs)} died in {self.what}; {self._notes()}; {REMEDY}"
            )
        for rank, found in failures.items():
            if isinstance(found, RayTaskError) and isinstance(found.cause, R1RayError):
                return type(found.cause)(str(found.cause))
            return LearnerError(f"learner process {rank} failed in {self.what}: {found}; {self._notes()}; {REMEDY}")
        return LearnerError(f"learner failed in {self.what}: {error}; {REMEDY}")

    def _notes(self) -> str:
        notes = [f"rank {rank}: {self.last_note(rank) or 'nothing yet'}" for rank in range(len(self.refs))]
        return f"last known of each ({'; '.join(notes)})"


def _failure(ref: Any) -> RayError | None:
    """Return the error of a finished call, None for a good or an unfinished one."""
    ready, _ = ray.wait([ref], timeout=0)
    if not ready:
        return None
    try:
        ray.get(ref, timeout=ATTRIBUTION_S)
    except GetTimeoutError:
        return None
    except RayError as error:
        return error
    return None
