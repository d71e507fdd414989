"""Moves prompts out to rollout workers and graded groups back.

One thread, one `pump`: finished completions go to a grader at once, grades go into the buffer they belong
to, failed workers are replaced, groups that take too long are asked for again. Several buffers can be open
at a time (rollout phases ahead of the learner, an evaluation).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from r1ray.config.schema import RolloutConfig
from r1ray.driver.buffer import GroupBuffer
from r1ray.errors import GraderError, Interrupted, RolloutError
from r1ray.rewards.pool import GraderPool
from r1ray.rollout.pool import RolloutPool
from r1ray.types import Completion, GradeRequest, Group, GroupRequest, Prompt, SamplingParams

PUMP_WAIT_S = 0.05
MAX_ATTEMPTS = 2


class Clock(Protocol):
    """Times a named phase of the step under way."""

    def __call__(self, name: str, seconds: float) -> None:
        """Add seconds to a phase."""


def make_requests(
    prompts: Sequence[Prompt],
    *,
    namespace: str,
    seed: int,
    group_size: int,
    sampling: SamplingParams,
    step: int = 0,
    numbered: bool = True,
) -> list[GroupRequest]:
    """Ask for `group_size` completions of every prompt.

    Seeds are a hash of run seed, group id and sample index: they need no state, so a resumed run and a
    resent group sample as the first attempt did. Group ids hold the prompt's number among `prompts`, by which a prompt
    may come twice; not `numbered`, where prompts are unique and their number changes from call to call.
    """
    requests = []
    for index, prompt in enumerate(prompts):
        group_id = f"{namespace}/{index}/{prompt.prompt_id}" if numbered else f"{namespace}/{prompt.prompt_id}"
        seeds = tuple(_seed(seed, group_id, i) for i in range(group_size))
        requests.append(GroupRequest(group_id, prompt, sampling, seeds, tuple(range(group_size)), step))
    return requests


def rollout_sampling(rollout: RolloutConfig) -> SamplingParams:
    """Return how training completions are sampled."""
    return SamplingParams(rollout.temperature, rollout.top_p, rollout.max_completion_tokens, tuple(rollout.stop))


def _seed(run_seed: int, group_id: str, sample_index: int) -> int:
    digest = hashlib.sha256(f"{run_seed}/{group_id}/{sample_index}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def sample_groups(
    stream: CompletionStream,
    seed: int,
    prompts: Sequence[Prompt],
    sampling: SamplingParams,
    group_size: int,
    step: int,
    *,
    on_group: Callable[[Group], None] = lambda group: None,
) -> Iterator[Group]:
    """Yield graded groups of held-out prompts, always by the same seeds; `on_group` sees each as well."""
    requests = make_requests(prompts, namespace="eval", seed=seed, group_size=group_size, sampling=sampling, step=step)
    for group in stream.groups(stream.open(requests)):
        on_group(group)
        yield group


class CompletionStream:
    """Connects the rollout pool, the grader pool and the open buffers."""

    def __init__(
        self,
        rollout: RolloutPool,
        graders: GraderPool,
        *,
        group_timeout_s: float,
        max_error_fraction: float,
        recover_rollout: Callable[[], list[GroupRequest]],
        on_event: Callable[..., None],
        interrupted: Callable[[], bool],
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        """Connect the pools.

        Args:
            rollout: where requests go.
            graders: where completions go.
            group_timeout_s: a group is asked for again when its worker has finished nothing for so long.
            max_error_fraction: of a buffer's completions that may fail in grading, or not come back.
            recover_rollout: replaces dead workers and returns what they owed.
            on_event: takes a kind and fields.
            interrupted: whether the user asked to stop.
            watch: raises if another part of the run has failed; asked at every pump.
        """
        self._rollout = rollout
        self._graders = graders
        self._group_timeout_s = group_timeout_s
        self._max_error_fraction = max_error_fraction
        self._recover_rollout = recover_rollout
        self._on_event = on_event
        self._interrupted = interrupted
        self._watch = watch
        self._buffers: list[GroupBuffer] = []
        self._requests: dict[str, GroupRequest] = {}
        self._deadlines: dict[str, tuple[float, int]] = {}
        self.tokens_received = 0
        self._generating_since: float | None = None
        self._generating_s = 0.0
        self.on_progress: Callable[[int, int], None] = lambda done, total: None

    def open(self, requests: Sequence[GroupRequest]) -> GroupBuffer:
        """Submit requests and return the buffer their groups will come to."""
        buffer = GroupBuffer(requests)
        self._buffers.append(buffer)
        deadline = time.monotonic() + self._group_timeout_s
        for request in requests:
            self._requests[request.group_id] = request
            self._deadlines[request.group_id] = (deadline, 1)
        self._rollout.submit(requests)
        if self._generating_since is None:
            self._generating_since = time.perf_counter()
        return buffer

    def take_throughput(self) -> tuple[int, float]:
        """Return completion tokens received, and seconds with work outstanding, since the last call."""
        self._note_generating(restart=True)
        taken = self.tokens_received, self._generating_s
        self.tokens_received, self._generating_s = 0, 0.0
        return taken

    def _note_generating(self, *, restart: bool) -> None:
        now = time.perf_counter()
        if self._generating_since is not None and (restart or not self._rollout.outstanding):
            self._generating_s += now - self._generating_since
            self._generating_since = now if self._rollout.outstanding else None

    def groups(self, buffer: GroupBuffer, *, clock: Clock | None = None, ordered: bool = True) -> Iterator[Group]:
        """Yield the buffer's groups, pumping until all have come.

        Args:
            buffer: of `open`.
            clock: gets the seconds spent waiting.
            ordered: in submission order; else as they are completed.

        Raises:
            Interrupted: the user asked to stop.
            RolloutError, GraderError: more failures than allowed.
        """
        while not buffer.exhausted:
            self._check_interrupt()
            group = buffer.take_next() if ordered else buffer.take_any()
            if group is not None:
                self._forget(group.group_id)
                yield group
                continue
            phase = "rollout" if self._rollout.outstanding else "grade"
            began = time.perf_counter()
            self._wait(buffer)
            if clock is not None:
                clock(phase, time.perf_counter() - began)
        self._buffers.remove(buffer)

    def groups_of_all(self, buffers: Sequence[GroupBuffer]) -> Iterator[tuple[GroupBuffer, Group]]:
        """Yield groups of all the buffers as they are completed, until those of the first have come.

        Raises:
            As `groups`.
        """
        first = buffers[0]
        while not first.exhausted:
            self._check_interrupt()
            taken = next(((b, group) for b in buffers if (group := b.take_any()) is not None), None)
            if taken is None:
                self._wait(first)
                continue
            self._forget(taken[1].group_id)
            yield taken
        self._buffers.remove(first)

    def _check_interrupt(self) -> None:
        if self._interrupted():
            raise Interrupted("stopped by the user")

    def _wait(self, buffer: GroupBuffer) -> None:
        self.pump(PUMP_WAIT_S)
        self._check_errors(buffer)
        self.on_progress(buffer.completions, buffer.total_completions)

    def pump(self, wait_s: float = 0.0) -> None:
        """Move whatever is ready one stage further, waiting up to `wait_s` for something to be.

        Raises:
            RolloutError, GraderError: more failures than allowed.
        """
        self._watch()
        generating = self._rollout.outstanding > 0
        self._grade(self._rollout.poll(wait_s if generating else 0.0))
        self._note_generating(restart=False)
        for completion, grade in self._graders.poll(0.0 if generating else wait_s):
            for buffer in self._buffers:
                if completion.group_id in buffer:
                    buffer.add(completion, grade)
        if self._rollout.has_failed:
            self._rollout.submit(self._recover_rollout())
        self._resend_overdue()

    def abandon(self) -> None:
        """Forget every open buffer: abort what generates and let the graders run dry."""
        for group_id in list(self._requests):
            self._rollout.withdraw(group_id)
            self._forget(group_id)
        self._buffers.clear()
        deadline = time.monotonic() + self._group_timeout_s
        while self._graders.outstanding_items and time.monotonic() < deadline:
            self._graders.poll(PUMP_WAIT_S)
        self.take_throughput()

    def _grade(self, completions: Sequence[Completion]) -> None:
        wanted = [(request, c) for c in completions if (request := self._requests.get(c.group_id)) is not None]
        self.tokens_received += sum(len(c.completion_ids) for _, c in wanted)
        if wanted:
            self._graders.submit([GradeRequest(request.prompt, c, request.step) for request, c in wanted])

    def _resend_overdue(self) -> None:
        now = time.monotonic()
        for group_id, (deadline, attempts) in list(self._deadlines.items()):
            if now < deadline:
                # Deadlines are in submission order but for resent groups, which are rare.
                if attempts == 1:
                    break
                continue
            quiet_s = self._rollout.quiet_s(group_id)
            if quiet_s is None:
                # All generated, still being graded: the grader pool has deadlines of its own.
                del self._deadlines[group_id]
                continue
            if quiet_s < self._group_timeout_s:
                # Its worker is at work on what came before it.
                self._deadlines[group_id] = (now + self._group_timeout_s - quiet_s, attempts)
                continue
            request = self._rollout.withdraw(group_id)
            assert request is not None, "its worker owes it"
            self._on_event("group_timeout", group_id=group_id, attempt=attempts, missing=len(request.seeds))
            if attempts < MAX_ATTEMPTS:
                self._deadlines[group_id] = (now + self._group_timeout_s, attempts + 1)
                self._rollout.submit([request])
                continue
            del self._deadlines[group_id]
            next(b for b in self._buffers if group_id in b).give_up(group_id)

    def _check_errors(self, buffer: GroupBuffer) -> None:
        limit = self._max_error_fraction * buffer.total_completions
        # One group may always be given up, but not if it is all there is.
        if buffer.given_up == buffer.total_completions or (buffer.given_up_groups > 1 and buffer.given_up > limit):
            raise RolloutError(
                f"{buffer.given_up} of {buffer.total_completions} completions did not come back, while their workers "
                f"finished nothing within rollout.group_timeout_s={self._group_timeout_s:g}, twice: raise it or lower "
                "rollout.max_completion_tokens"
            )
        if buffer.errors > limit:
            detail, times = buffer.commonest_error
            raise GraderError(
                f"{buffer.errors} of {buffer.total_completions} completions could not be graded, more than "
                f"rewards.max_error_fraction={self._max_error_fraction:g}: rewards cannot be trusted; most often "
                f"({times} times): {detail}"
            )

    def _forget(self, group_id: str) -> None:
        self._requests.pop(group_id, None)
        self._deadlines.pop(group_id, None)
