"""Control flow of `WeightSync` around fakes; real engines are in tests/integration."""

from typing import Any

import pytest

from r1ray.driver.supervise import WeightSync
from r1ray.errors import WeightSyncError

PROBE = (1, 2, 3)
TRUE_LOGPROBS = [-1.0, -2.0]


class Done:
    def __init__(self, *results: Any) -> None:
        self.all = results

    def results(self) -> list[Any]:
        return list(self.all)


class FakeLearner:
    def __init__(self, version: int = 5) -> None:
        self.version = version
        self.sent: list[int] = []
        self.connections = 0

    def connect_rollout(self, _workers: Any, **_options: Any) -> None:
        self.connections += 1

    def send_weights(self) -> Done:
        self.sent.append(self.version)
        return Done(self.version)

    def score(self, _token_ids: Any) -> list[float]:
        return TRUE_LOGPROBS


class FakeRollout:
    """Two workers, one of which may die when it is asked for the probe."""

    handles = ("w0", "w1")

    def __init__(self, learner: FakeLearner, *, dies: bool = False, scores: list[float] | None = None) -> None:
        self.learner = learner
        self.dies = dies
        self.has_failed = False
        self.scores = scores or TRUE_LOGPROBS
        self.stamped: int | None = None
        self.submitted: list[Any] = []

    def poll(self, _wait_s: float) -> list[Any]:
        return []

    def score(self, _token_ids: Any) -> dict[str, list[float]]:
        if self.dies:
            self.dies, self.has_failed = False, True
            raise WeightSyncError("rollout worker w1 died")
        return {"w0": TRUE_LOGPROBS, "w1": self.scores}

    def policy_versions(self) -> dict[str, int]:
        return dict.fromkeys(self.handles, self.learner.sent[-1] if self.stamped is None else self.stamped)

    def replace_failed(self) -> list[str]:
        assert self.has_failed
        self.has_failed = False
        return ["owed"]

    def submit(self, requests: list[str]) -> None:
        self.submitted += requests


def weight_sync(learner: FakeLearner, rollout: FakeRollout) -> WeightSync:
    return WeightSync(learner, rollout, probe_ids=PROBE, tolerance=1e-3, ranks_per_worker=1, timeout_s=1.0)


def test_a_sync_returns_the_largest_difference_on_the_probe() -> None:
    learner = FakeLearner()
    rollout = FakeRollout(learner, scores=[-1.0, -2.0004])
    assert weight_sync(learner, rollout).sync() == pytest.approx(2e-4)
    assert learner.sent == [5]


def test_an_engine_that_kept_its_old_weights_stops_the_run() -> None:
    learner = FakeLearner()
    with pytest.raises(WeightSyncError, match=r"w1 does not sample from policy version 5.*sync\.probe_tolerance"):
        weight_sync(learner, FakeRollout(learner, scores=[-1.5, -2.0])).sync()


def test_logprobs_that_are_not_numbers_stop_the_run() -> None:
    learner = FakeLearner()
    with pytest.raises(WeightSyncError, match="w1"):
        weight_sync(learner, FakeRollout(learner, scores=[float("nan"), -2.0])).sync()


def test_an_engine_with_another_version_stops_the_run() -> None:
    learner = FakeLearner()
    rollout = FakeRollout(learner)
    rollout.stamped = 4
    with pytest.raises(WeightSyncError, match="reports policy version 4 after a sync of version 5"):
        weight_sync(learner, rollout).sync()


def test_a_worker_that_dies_while_a_sync_is_verified_is_replaced_and_its_work_handed_out_again() -> None:
    learner = FakeLearner()
    rollout = FakeRollout(learner, dies=True)
    assert weight_sync(learner, rollout).sync() == 0.0
    assert learner.sent == [5, 5]
    assert learner.connections == 1
    assert rollout.submitted == ["owed"]


def test_workers_replaced_after_steps_since_the_last_sync_are_stamped_with_the_weights_they_get() -> None:
    learner = FakeLearner()
    rollout = FakeRollout(learner)
    sync = weight_sync(learner, rollout)
    sync.sync()
    learner.version, rollout.has_failed = 7, True
    assert sync.recover() == ["owed"]
    assert learner.sent == [5, 7]
    rollout.stamped, rollout.has_failed = 5, True
    with pytest.raises(WeightSyncError, match="reports policy version 5 after a sync of version 7"):
        sync.recover()


def test_a_failed_sync_with_every_worker_alive_stops_the_run() -> None:
    learner = FakeLearner()
    rollout = FakeRollout(learner, dies=True)
    sync = weight_sync(learner, rollout)
    original = rollout.score

    def score(token_ids: Any) -> dict[str, list[float]]:
        try:
            return original(token_ids)
        finally:
            rollout.has_failed = False

    rollout.score = score  # type: ignore[method-assign]
    with pytest.raises(WeightSyncError, match="died"):
        sync.sync()
    assert rollout.submitted == []
