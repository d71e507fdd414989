"""The code reward: the program in a completion against its problem's tests."""

from __future__ import annotations

from r1ray.config.schema import SandboxConfig
from r1ray.errors import DataError, GraderError, SandboxError
from r1ray.rewards.code.extract import extract_program
from r1ray.rewards.code.judge import CodeJudge
from r1ray.rewards.code.problem import CodeTests, parse_tests
from r1ray.rewards.protocol import RewardResult
from r1ray.types import Completion, Prompt, Verdict


class CodeReward:
    """Judges programs; problems bring `tests` and, unless they are in Python, `language` as dataset columns."""

    def __init__(self, sandbox: SandboxConfig | None = None, *, partial_credit: bool = False) -> None:
        """Prepare; a sandbox starts with the first program.

        Args:
            sandbox: where programs run.
            partial_credit: the value is the share of test cases passed.
        """
        self._judge = CodeJudge(sandbox, partial_credit=partial_credit)
        self._parsed: tuple[object, CodeTests] | None = None

    def __call__(self, prompt: Prompt, completion: Completion) -> RewardResult:
        """Judge one completion. Tests that cannot be read or run give verdict `error`.

        Raises:
            SandboxError: no sandbox can be started here.
        """
        try:
            tests = self._tests(prompt)
            found = extract_program(completion.text, language=str(prompt.metadata.get("language") or "python"))
            if found is None:
                return RewardResult(0.0, Verdict.UNPARSEABLE, "no program found")
            return self._judge.judge(*found, tests)
        except SandboxError:
            raise
        except (DataError, GraderError) as error:
            return RewardResult(0.0, Verdict.ERROR, f"cannot grade: {error}")

    def close(self) -> None:
        """End what runs."""
        self._judge.close()

    def _tests(self, prompt: Prompt) -> CodeTests:
        # The completions of a group come one after another, and tests can be megabytes.
        raw = prompt.metadata.get("tests")
        if raw is None:
            raise DataError(f"prompt {prompt.prompt_id!r} has no tests: map the dataset's column to `tests`")
        if self._parsed is None or self._parsed[0] != raw:
            self._parsed = raw, parse_tests(raw)
        return self._parsed[1]
