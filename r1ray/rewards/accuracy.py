"""The accuracy reward: 1 for a correct final answer, else 0, with a verdict.

Routes by `Prompt.task`. Owns the killable child that unbounded comparisons run in.
"""

from __future__ import annotations

from r1ray.errors import DataError
from r1ray.rewards import math_answer
from r1ray.rewards.code.reward import CodeReward
from r1ray.rewards.protocol import RewardResult
from r1ray.sandbox.child import ChildProcess
from r1ray.sandbox.limits import Limits
from r1ray.types import Completion, Prompt, Verdict

SUPPORTED_TASKS = ("math", "code")


def check_task(task: str) -> None:
    """Refuse a task that the accuracy reward cannot judge.

    Raises:
        DataError: names the task and those supported.
    """
    if task not in SUPPORTED_TASKS:
        raise DataError(
            f"reward accuracy judges tasks {', '.join(SUPPORTED_TASKS)}, got task {task!r}: "
            "change the dataset's task column or name a reward of your own as module:function"
        )


class AccuracyReward:
    """Judges final answers. Not for use by several threads at once."""

    def __init__(self, *, time_limit_s: float, memory_limit_bytes: int, partial_credit: bool = False) -> None:
        """Prepare; the child starts with `start` or the first answer that needs it.

        Args:
            time_limit_s: processor time for one answer; wall clock time is limited to a multiple.
            memory_limit_bytes: address space of the child.
            partial_credit: programs earn the share of their test cases that pass.
        """
        self._code = CodeReward(partial_credit=partial_credit)
        self._time_limit_s = time_limit_s
        self._child = ChildProcess("r1ray.rewards.math_child", limits=Limits(memory_bytes=memory_limit_bytes))

    def __call__(self, prompt: Prompt, completion: Completion) -> RewardResult:
        """Judge one completion; 1.0 if correct, else 0.0. Programs run in a sandbox.

        Raises:
            DataError: a task that is not supported.
        """
        check_task(prompt.task)
        if prompt.task == "code":
            return self._code(prompt, completion)
        if prompt.answer is None:
            return RewardResult(0.0, Verdict.ERROR, f"cannot grade: prompt {prompt.prompt_id!r} has no gold answer")
        return math_answer.judge(completion.text, prompt.answer, child=self._child, time_limit_s=self._time_limit_s)

    def start(self) -> None:
        """Let the child start, without waiting for it."""
        self._child.start()

    def close(self) -> None:
        """End the child."""
        self._child.close()
