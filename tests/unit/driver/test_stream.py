"""Control flow of the driver's stream, with pools that obey the test."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from r1ray.driver.buffer import GroupBuffer
from r1ray.driver.stream import CompletionStream, make_requests
from r1ray.errors import GraderError, Interrupted, RolloutError
from r1ray.types import Completion, Grade, GradeRequest, GroupRequest, Prompt, SamplingParams, Verdict

SAMPLING = SamplingParams(1.0, 1.0, 8)


def prompts(count: int) -> list[Prompt]:
    return [Prompt(f"p{i}", "q", "q", (1,), answer="1") for i in range(count)]


def requests(count: int, *, group_size: int = 2) -> list[GroupRequest]:
    return make_requests(prompts(count), namespace="t", seed=0, group_size=group_size, sampling=SAMPLING)


def completion(request: GroupRequest, index: int) -> Completion:
    return Completion(request.group_id, request.prompt.prompt_id, index, "x", (1,), (-1.0,), (0,), "stop")


class FakeRollout:
    """Finishes completions in the order the test says."""

    def __init__(self) -> None:
        self.submitted: list[GroupRequest] = []
        self.ready: list[Completion] = []
        self.withdrawn: list[str] = []
        self.has_failed = False
        self.silent = False
        self.quiet = 1e9

    @property
    def outstanding(self) -> int:
        return len(self.ready) or int(self.silent)

    def submit(self, new: list[GroupRequest]) -> None:
        self.submitted += new
        if not self.silent:
            self.ready += [completion(r, i) for r in new for i in r.sample_indices]

    def poll(self, timeout_s: float) -> list[Completion]:
        # The last submitted comes first: order must not matter.
        return [self.ready.pop()] if self.ready else []

    def quiet_s(self, group_id: str) -> float:
        return self.quiet

    def withdraw(self, group_id: str) -> GroupRequest:
        self.withdrawn.append(group_id)
        return next(r for r in self.submitted if r.group_id == group_id)


class FakeGraders:
    def __init__(self, verdict: Callable[[Completion], Verdict]) -> None:
        self.items: list[Completion] = []
        self.verdict = verdict

    def submit(self, requests: list[GradeRequest]) -> None:
        self.items += [request.completion for request in requests]

    def poll(self, timeout_s: float) -> list[tuple[Completion, Grade]]:
        done, self.items = self.items, []
        return [(c, Grade(1.0, {}, self.verdict(c))) for c in done]


def stream(rollout: Any, *, verdict: Verdict = Verdict.CORRECT, **changes: Any) -> CompletionStream:
    settings: dict[str, Any] = {
        "group_timeout_s": 60.0,
        "max_error_fraction": 0.1,
        "recover_rollout": list,
        "on_event": lambda kind, **fields: None,
        "interrupted": lambda: False,
    }
    graders: Any = FakeGraders(lambda _: verdict)
    return CompletionStream(rollout, graders, **{**settings, **changes})


def test_groups_come_whole_and_in_submission_order() -> None:
    s = stream(FakeRollout())
    wanted = requests(4, group_size=3)
    groups = list(s.groups(s.open(wanted)))
    assert [g.group_id for g in groups] == [r.group_id for r in wanted]
    assert all([g.completion.sample_index for g in group.graded] == [0, 1, 2] for group in groups)


def test_two_open_buffers_get_their_own_groups() -> None:
    s = stream(FakeRollout())
    first = s.open(requests(2))
    other = make_requests(prompts(2), namespace="eval", seed=0, group_size=2, sampling=SAMPLING)
    second = s.open(other)
    assert [g.group_id for g in s.groups(second)] == [r.group_id for r in other]
    assert len(list(s.groups(first))) == 2


def test_seeds_depend_on_run_seed_group_and_sample_only() -> None:
    again = make_requests(prompts(3), namespace="t", seed=0, group_size=2, sampling=SAMPLING)
    other = make_requests(prompts(3), namespace="t", seed=1, group_size=2, sampling=SAMPLING)
    seeds = [s for r in requests(3) for s in r.seeds]
    assert seeds == [s for r in again for s in r.seeds]
    assert len({*seeds, *(s for r in other for s in r.seeds)}) == 12


def test_a_completion_that_comes_twice_counts_once() -> None:
    (request,) = requests(1)
    buffer = GroupBuffer([request])
    grade = Grade(1.0, {}, Verdict.CORRECT)
    assert buffer.add(completion(request, 0), grade)
    assert not buffer.add(completion(request, 0), grade)
    assert buffer.take_next() is None
    assert buffer.add(completion(request, 1), grade)
    group = buffer.take_next()
    assert group is not None
    assert len(group.graded) == 2
    assert buffer.exhausted


def test_failed_grades_leave_the_group_and_too_many_stop_the_run() -> None:
    (request,) = requests(1, group_size=3)
    buffer = GroupBuffer([request])
    for i, verdict in enumerate([Verdict.CORRECT, Verdict.ERROR, Verdict.WRONG]):
        buffer.add(completion(request, i), Grade(0.0, {}, verdict, "no such file"))
    group = buffer.take_next()
    assert group is not None
    assert [g.completion.sample_index for g in group.graded] == [0, 2]
    assert [g.completion.sample_index for g in buffer.errored(group.group_id)] == [1]
    assert buffer.commonest_error == ("no such file", 1)
    s = stream(FakeRollout(), verdict=Verdict.ERROR)
    with pytest.raises(GraderError, match=r"rewards\.max_error_fraction=0\.1"):
        list(s.groups(s.open(requests(4))))


def test_overdue_groups_are_asked_for_again_and_then_given_up() -> None:
    rollout, events = FakeRollout(), []
    rollout.silent = True
    s = stream(rollout, group_timeout_s=0.01, on_event=lambda kind, **fields: events.append((kind, fields["attempt"])))
    with pytest.raises(RolloutError, match="2 of 2 completions did not come back"):
        list(s.groups(s.open(requests(1))))
    assert events == [("group_timeout", 1), ("group_timeout", 2)]
    assert len(rollout.submitted) == 2


def test_a_group_waits_for_as_long_as_its_worker_finishes_others() -> None:
    rollout, events = FakeRollout(), []
    rollout.silent, rollout.quiet = True, 0.0
    s = stream(rollout, group_timeout_s=0.01, on_event=lambda kind, **fields: events.append(kind))
    (request,) = requests(1)
    buffer = s.open([request])
    end = time.monotonic() + 0.05
    while time.monotonic() < end:
        s.pump()
    assert not events
    rollout.ready = [completion(request, 0), completion(request, 1)]
    assert [len(g.graded) for g in s.groups(buffer)] == [2]


def test_one_group_may_be_given_up_but_not_many() -> None:
    rollout = FakeRollout()
    rollout.silent = True
    s = stream(rollout, group_timeout_s=0.01)
    asked = requests(4)
    buffer = s.open(asked)
    rollout.ready = [completion(r, i) for r in asked[:3] for i in (0, 1)]
    assert [len(g.graded) for g in s.groups(buffer)] == [2, 2, 2, 0]
    buffer = s.open(asked)
    rollout.ready = [completion(r, i) for r in asked[:2] for i in (0, 1)]
    with pytest.raises(RolloutError, match="4 of 8 completions did not come back"):
        list(s.groups(buffer))


def test_groups_of_a_later_buffer_come_while_the_first_one_waits() -> None:
    rollout = FakeRollout()
    rollout.silent = True
    s = stream(rollout)
    asked = requests(3)
    buffers = [s.open(asked[:2]), s.open(asked[2:])]
    rollout.ready = [completion(r, i) for r in asked[1:] for i in (0, 1)]
    taken = s.groups_of_all(buffers)
    assert {next(taken)[1].group_id, next(taken)[1].group_id} == {r.group_id for r in asked[1:]}
    rollout.ready = [completion(asked[0], i) for i in (0, 1)]
    assert [(b is buffers[0], g.group_id) for b, g in taken] == [(True, asked[0].group_id)]
    assert list(s.groups_of_all(buffers[1:])) == []


def test_lost_work_of_a_dead_worker_is_submitted_again() -> None:
    rollout = FakeRollout()
    rollout.silent = True
    (request,) = requests(1)

    def recover() -> list[GroupRequest]:
        rollout.has_failed, rollout.silent = False, False
        return [replace(request, seeds=request.seeds[1:], sample_indices=(1,))]

    s = stream(rollout, recover_rollout=recover)
    buffer = s.open([request])
    rollout.ready = [completion(request, 0)]
    s.pump()
    rollout.has_failed = True
    assert [len(g.graded) for g in s.groups(buffer)] == [2]


def test_an_interrupt_ends_the_wait_for_groups() -> None:
    s = stream(FakeRollout(), interrupted=lambda: True)
    with pytest.raises(Interrupted):
        list(s.groups(s.open(requests(1))))
