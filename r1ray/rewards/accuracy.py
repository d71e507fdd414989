"""The accuracy reward: 1 for a correct final answer, else 0, with a verdict.

Routes by `Prompt.task`. Owns the killable child that unbounded comparisons run in.
"""

from __future__ import annotations

from r1ray.config.schema import SandboxConfig
from r1ray.errors import ConfigError, DataError
from r1ray.rewards import choice, math_answer, text_answer
from r1ray.rewards.code.reward import CodeReward
from r1ray.rewards.protocol import RewardResult
from r1ray.sandbox.child import ChildProcess
from r1ray.sandbox.limits import Limits
from r1ray.types import Completion, Prompt, Verdict

SUPPORTED_TASKS = ("math", "choice", "code", "text")
_PERCENT = ("question", "always", "never")


def check_task(task: str) -> None:
    """Refuse a task that the accuracy reward cannot judge.

    Raises:
        DataError: names the task and those supported.
    """
    if task not in SUPPORTED_TASKS:
        raise DataError(
            f"reward accuracy judges tasks {', '.join(SUPPORTED_TASKS)}, got task {task!r}: "
            "change the dataset's task column, or keep accuracy to other domains (rewards.terms[].domains)"
        )


class AccuracyReward:
    """Judges final answers. Not for use by several threads at once."""

    def __init__(
        self,
        *,
        time_limit_s: float,
        memory_limit_bytes: int,
        sandbox: SandboxConfig | None = None,
        partial_credit: bool = False,
        bare_percent: str = "question",
    ) -> None:
        """Prepare; the child starts with `start` or the first answer that needs it.

        Args:
            time_limit_s: processor time for one answer; wall clock time is limited to a multiple.
            memory_limit_bytes: address space of the child.
            sandbox: where programs run.
            partial_credit: programs earn the share of their test cases that pass.
            bare_percent: when the answer 5% also matches a gold answer of 5: if the `question` speaks of percent or
                is not known, `always`, or `never`. It matches 0.05 in any case.

        Raises:
            ConfigError: `bare_percent` is none of these.
        """
        if bare_percent not in _PERCENT:
            raise ConfigError(
                f"reward accuracy: option bare_percent must be one of {', '.join(_PERCENT)}, got {bare_percent!r}"
            )
        self._bare_percent = bare_percent
        self._code = CodeReward(sandbox, partial_credit=partial_credit)
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
        if prompt.task == "choice":
            return choice.judge(completion.text, prompt.answer, prompt.question)
        if prompt.task == "text":
            return text_answer.judge(completion.text, prompt.answer, child=self._child, time_limit_s=self._time_limit_s)
        asks = self._bare_percent == "question" and math_answer.asks_percent(prompt.question, prompt.answer)
        return math_answer.judge(
            completion.text,
            prompt.answer,
            child=self._child,
            time_limit_s=self._time_limit_s,
            bare_percent=asks or self._bare_percent == "always",
        )

    def start(self) -> None:
        """Let the child start, without waiting for it."""
        self._child.start()

    def close(self) -> None:
        """End the child and the sandbox."""
        self._child.close()
        self._code.close()
