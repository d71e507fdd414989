import pytest

from r1ray.tracking.timers import Timers


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_phases_add_up_until_they_are_taken() -> None:
    clock = FakeClock()
    timers = Timers(clock=clock)
    with timers.phase("step"):
        for seconds in (2.0, 3.0):
            with timers.phase("rollout"):
                clock.now += seconds
        clock.now += 1.0
    timers.add("grade", 0.5)
    assert timers.take() == {"time/grade_s": 0.5, "time/rollout_s": 5.0, "time/step_s": 6.0}
    assert timers.take() == {}


def test_a_phase_that_raises_counts_too() -> None:
    clock = FakeClock()
    timers = Timers(clock=clock)

    def fail() -> None:
        with timers.phase("sync"):
            clock.now += 4.0
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert timers.take() == {"time/sync_s": 4.0}


def test_a_phase_still_running_counts_towards_the_take_after_its_end() -> None:
    clock = FakeClock()
    timers = Timers(clock=clock)
    with timers.phase("rollout"):
        clock.now += 2.0
        assert timers.take() == {}
        clock.now += 1.0
    assert timers.take() == {"time/rollout_s": 3.0}
