"""Control flow of the loop around a learner that dies; real runs are in tests/integration."""

from typing import Any

import pytest

from r1ray.checkpoint import RunState
from r1ray.config.schema import Config
from r1ray.driver.loop import GrpoLoop
from r1ray.errors import LearnerDied, LearnerError


class Loop(GrpoLoop):
    """A loop of two steps whose learner dies in the given calls."""

    def __init__(self, deaths: list[str], *, restarts: int) -> None:
        self.config = Config()
        self.config.train.steps = 2
        self.step = 0
        self.deaths = deaths
        self.restarts = restarts
        self.calls: list[str] = []
        self.recover_learner = self.recover

    def note(self, call: str) -> None:
        self.calls.append(call)
        if self.deaths and self.deaths[0] == call:
            self.deaths.pop(0)
            raise LearnerDied(f"died in {call}")

    def recover(self, death: LearnerDied) -> RunState:
        if not self.restarts:
            raise LearnerError(f"{death}; learner.max_restarts is used up")
        self.restarts -= 1
        self.note("recover")
        return RunState(step=0, phase=0, cursor={})

    def go_back(self, state: RunState) -> None:
        self.step = state.step
        self.note("go back")

    def evaluate_first(self) -> None:
        self.note("evaluate")

    def train_phase(self) -> None:
        self.note("train")
        self.step += 1


@pytest.mark.parametrize(
    ("deaths", "calls"),
    [
        ([], ["evaluate", "train", "train"]),
        (["evaluate"], ["evaluate", "recover", "go back", "evaluate", "train", "train"]),
        (["train"], ["evaluate", "train", "recover", "go back", "evaluate", "train", "train"]),
        (
            ["train", "recover", "go back"],
            ["evaluate", "train", "recover", "recover", "go back", "recover", "go back", "evaluate", "train", "train"],
        ),
    ],
)
def test_a_learner_that_dies_is_brought_back_even_if_it_dies_again_meanwhile(deaths: list[str], calls: Any) -> None:
    loop = Loop(deaths, restarts=3)
    loop.run()
    assert loop.calls == calls


def test_when_no_restarts_are_left_the_run_ends() -> None:
    with pytest.raises(LearnerError, match=r"died in recover; learner\.max_restarts is used up"):
        Loop(["train", "recover"], restarts=1).run()
