"""Runs a program against tests in sandboxes and says how it did.

The program's sandbox gets inputs and arguments, never an expected value. Outputs and results come out as plain data
and are compared here; assertions run in a second sandbox, where the solution's functions are stand-ins whose calls
travel through here.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from r1ray.config.schema import SandboxConfig
from r1ray.errors import GraderError
from r1ray.rewards.code.compare import same_output, same_value
from r1ray.rewards.code.languages import Toolchain, toolchain
from r1ray.rewards.code.problem import CodeTests, FunctionCase, StdioCase
from r1ray.rewards.code.test_names import names_for_tests
from r1ray.rewards.protocol import RewardResult
from r1ray.sandbox.box import Box, RunLimits, RunResult
from r1ray.sandbox.limits import WALL_FACTOR
from r1ray.types import Verdict

# Runtimes that reserve addresses without using them are held by what they use.
_UNBOUNDED_BYTES = 1 << 46
_COMPILE_LIMITS = RunLimits(
    cpu_s=20.0,
    wall_s=60.0,
    memory_bytes=2 << 30,
    output_bytes=1 << 26,
    processes=128,
    address_bytes=_UNBOUNDED_BYTES,
)
# Each thread of a compiled program reserves a stack of the size of its memory limit, and uses little of it.
_STACKS_BYTES = 16 << 30
# Of compiled programs kept.
_KEPT_BYTES = 1 << 28
_OUTPUT_BYTES = 1 << 20
_SHOWN_CHARS = 160


@dataclass(frozen=True, slots=True)
class CaseResult:
    """How one case ended: correct, wrong or timeout, and why."""

    verdict: Verdict
    detail: str = ""


_PASSED = CaseResult(Verdict.CORRECT)


@dataclass(frozen=True, slots=True)
class Program:
    """A program that can be run.

    Attributes:
        source: its text.
        tools: how to run it.
        failure: why it cannot be; None if it can.
        files: what it was compiled to, in base64 by name.
    """

    source: str
    tools: Toolchain
    failure: CaseResult | None = None
    files: dict[str, str] | None = None

    @property
    def bytes(self) -> int:
        """Size of what is kept of it."""
        return len(self.source) + sum(map(len, (self.files or {}).values()))


class CodeJudge:
    """Judges one program after another. Not for use by several threads at once."""

    def __init__(self, sandbox: SandboxConfig | None = None, *, partial_credit: bool = False) -> None:
        """Prepare; sandboxes start with the first program.

        Args:
            sandbox: where programs run.
            partial_credit: the value is the share of cases passed, and all are run; else 1 or 0, and the first
                failing case ends the run.
        """
        self._sandbox = sandbox or SandboxConfig()
        self._partial_credit = partial_credit
        self._spare: Box | None = None
        self._programs: OrderedDict[tuple[str, ...], Program] = OrderedDict()
        # Of the problem judged last: its completions come one after another.
        self._problem: CodeTests | None = None
        self._verdicts: dict[tuple[str, str], RewardResult] = {}

    def judge(self, source: str, language: str, tests: CodeTests) -> RewardResult:
        """Run a program against tests.

        The same program gets the same verdict again; one of `timeout` is tried anew, as machines are busy at times.

        Raises:
            GraderError: the language cannot be run here, or the tests themselves fail to run.
            SandboxError: no sandbox can be started here.
        """
        if tests.kind != "stdio" and language != "python":
            raise GraderError(f"tests of kind {tests.kind} are for Python programs, got {language}")
        if tests is not self._problem:
            self._problem, self._verdicts = tests, {}
        known = self._verdicts.get((source, language))
        if known is not None:
            return known
        result = self._judge(source, language, tests)
        if result.verdict is not Verdict.TIMEOUT:
            self._verdicts[source, language] = result
        return result

    def start(self) -> None:
        """Start a sandbox for the first program, without waiting for it.

        Raises:
            SandboxError: this machine lacks what it needs.
        """
        if self._spare is None:
            self._spare = Box(self._sandbox)
            self._spare.start()

    def close(self) -> None:
        """End the sandbox that waits."""
        if self._spare is not None:
            self._spare.close()
            self._spare = None

    def _judge(self, source: str, language: str, tests: CodeTests) -> RewardResult:
        program = self._prepare(source, language)
        if program.failure is not None:
            results = [program.failure]
        elif tests.kind == "asserts":
            results = [self._run_asserts(source, tests)]
        else:
            results = self._run_cases(program, tests)
        return self._grade(results, 1 if tests.kind == "asserts" else len(tests.cases))

    def _box(self, tools: Toolchain | None = None) -> Box:
        """Return a fresh sandbox: the one that was started ahead, where it shows enough; and start the next."""
        if tools is not None and tools.bind:
            return Box(self._sandbox, bind=tools.bind)
        box, self._spare = self._spare or Box(self._sandbox), None
        self.start()
        return box

    def _prepare(self, source: str, language: str) -> Program:
        """Compile a program where its language asks for that, once for each source."""
        tools = toolchain(language, source)
        if not tools.run:
            return Program(source, tools)
        key = (source, language, *(tools.compile or ()))
        if key in self._programs:
            self._programs.move_to_end(key)
            return self._programs[key]
        program = self._programs[key] = self._compile(source, tools)
        while sum(kept.bytes for kept in self._programs.values()) > _KEPT_BYTES:
            self._programs.popitem(last=False)
        return program

    def _compile(self, source: str, tools: Toolchain) -> Program:
        case = {"kind": "exec", "argv": tools.compile or ("/usr/bin/true",), "files": {tools.source_name: source}}
        with self._box(tools) as box:
            compiled = box.run({**case, "collect": True}, _COMPILE_LIMITS)
        if not compiled.ok:
            return Program(source, tools, _failure(compiled, "does not compile"))
        return Program(source, tools, files=dict(compiled.files))

    def _run_cases(self, program: Program, tests: CodeTests) -> list[CaseResult]:
        results = []
        with self._box(program.tools) as box:
            if program.files:
                box.install(program.files)
            for case in tests.cases:
                if isinstance(case, FunctionCase):
                    results.append(_run_function(box, program.source, tests, case))
                else:
                    results.append(self._run_stdio(box, program, tests, case))
                if results[-1].verdict is not Verdict.CORRECT and not self._partial_credit:
                    break
        return results

    def _run_stdio(self, box: Box, program: Program, tests: CodeTests, case: StdioCase) -> CaseResult:
        run: dict[str, Any] = {"kind": "script", "source": program.source}
        if program.tools.run:
            run = {"kind": "exec", "argv": program.tools.run}
        limits = _limits(tests, address_bytes=_addresses(program.tools, tests), output=case.stdout)
        result = box.run({**run, "stdin": case.stdin}, limits)
        if not result.ok:
            return _failure(result, "failed")
        if tests.checker.kind == "program":
            correct = self._check_by_program(tests, case, result.stdout)
        else:
            correct = same_output(result.stdout, case.stdout, tests.checker)
        return _PASSED if correct else CaseResult(Verdict.WRONG, f"wrong output {_shown(result.stdout)}")

    def _check_by_program(self, tests: CodeTests, case: StdioCase, output: str) -> bool:
        """Let a checker program decide: it finds `input`, `output` and `expected` and ends with code 0 if correct."""
        result = self._run_checker(tests, case, output)
        if result.code in (0, 1):
            return result.code == 0
        # An output that it chokes on is wrong, unless it chokes on the expected one too.
        trial = self._run_checker(tests, case, case.stdout)
        if trial.code not in (0, 1):
            raise GraderError(f"the checker program failed: {_failure(trial, 'failed').detail}")
        return False

    def _run_checker(self, tests: CodeTests, case: StdioCase, output: str) -> RunResult:
        files = {"input": case.stdin, "output": output, "expected": case.stdout}
        with self._box() as box:
            return box.run({"kind": "script", "source": tests.checker.code, "files": files}, _limits(tests))

    def _run_asserts(self, source: str, tests: CodeTests) -> CaseResult:
        limits = _limits(tests)
        with self._box() as box, self._box() as tester:
            box.begin({"kind": "serve", "source": source}, limits)
            hello = box.receive()
            if isinstance(hello, RunResult):
                return _failure(hello, "failed before the tests")
            given = hello.get("names") if isinstance(hello, dict) else None
            case = {"kind": "test", "source": tests.code, **names_for_tests(tests.code, source, given)}
            tester.begin(case, limits)
            return _hold_conversation(box, tester, tests)

    def _grade(self, results: list[CaseResult], count: int) -> RewardResult:
        passed = sum(result.verdict is Verdict.CORRECT for result in results)
        failed = next((i for i, result in enumerate(results) if result.verdict is not Verdict.CORRECT), None)
        if failed is None:
            return RewardResult(1.0, Verdict.CORRECT, f"{count} of {count} cases passed")
        value = passed / count if self._partial_credit else 0.0
        return RewardResult(value, results[failed].verdict, f"case {failed + 1} of {count}: {results[failed].detail}")


def _addresses(tools: Toolchain, tests: CodeTests) -> int | None:
    """Return how much a program may reserve; what it uses is limited beside that. None: no more than that."""
    if not tools.run:
        return None
    return tests.memory_limit_bytes + _STACKS_BYTES if tools.bounded_addresses else _UNBOUNDED_BYTES


def _limits(tests: CodeTests, *, address_bytes: int | None = None, output: str = "") -> RunLimits:
    return RunLimits(
        cpu_s=tests.time_limit_s,
        wall_s=tests.time_limit_s * WALL_FACTOR,
        memory_bytes=tests.memory_limit_bytes,
        # Room for all of a long expected output, and for one that is wrong.
        output_bytes=max(_OUTPUT_BYTES, 2 * len(output.encode("utf-8", "replace"))),
        address_bytes=address_bytes,
    )


def _run_function(box: Box, source: str, tests: CodeTests, case: FunctionCase) -> CaseResult:
    box.begin({"kind": "serve", "source": source}, _limits(tests))
    reply = box.receive()
    if not isinstance(reply, RunResult):
        box.send({"name": tests.entry_point, "args": [_tagged(value) for value in case.args]})
        reply = box.receive()
    if isinstance(reply, RunResult):
        return _failure(reply, f"ended before {tests.entry_point} returned")
    result = box.stop()
    if result.timeout or result.memory or result.processes or result.spoke:
        return _failure(result, "failed")
    if not isinstance(reply, dict) or "value" not in reply:
        return CaseResult(Verdict.WRONG, f"{tests.entry_point} raised {_error(reply)}")
    if not _same(reply["value"], case.expected):
        return CaseResult(Verdict.WRONG, f"{tests.entry_point} returned {_shown(reply['value'])}")
    return _PASSED


def _same(value: Any, expected: Any) -> bool:
    try:
        return same_value(value, expected)
    except (LookupError, TypeError, ValueError, ArithmeticError, RecursionError):
        # A program can write to its channel itself: what is no encoded value equals nothing.
        return False


def _hold_conversation(box: Box, tester: Box, tests: CodeTests) -> CaseResult:
    """Carry the calls of the tests to the solution, and what it answers or calls back to the tests."""
    while True:
        message = tester.receive()
        if isinstance(message, RunResult):
            if message.timeout:
                return CaseResult(Verdict.TIMEOUT, f"the tests were not done within {tests.time_limit_s:g} s")
            if message.spoke or message.memory or message.processes:
                return CaseResult(Verdict.WRONG, "the solution's answers were too much for the tests")
            raise GraderError(f"the tests failed to run: {_failure(message, 'failed').detail}")
        if "call" not in message:
            break
        box.send(message["call"])
        reply = box.receive()
        if isinstance(reply, RunResult):
            return _failure(reply, "ended during the tests")
        tester.send(reply if isinstance(reply, dict) else {"error": "TypeError"})
    ended = box.stop()
    if ended.timeout or ended.memory or ended.processes or ended.spoke:
        return _failure(ended, "failed")
    return _PASSED if message["passed"] else CaseResult(Verdict.WRONG, str(message.get("message", ""))[:_SHOWN_CHARS])


def _failure(result: RunResult, what: str) -> CaseResult:
    if result.timeout:
        return CaseResult(Verdict.TIMEOUT, "out of time")
    if result.memory:
        return CaseResult(Verdict.WRONG, "over the memory limit")
    if result.processes:
        return CaseResult(Verdict.WRONG, "more processes than allowed")
    if result.spoke:
        return CaseResult(Verdict.WRONG, "wrote to its channel out of turn")
    if result.died:
        return CaseResult(Verdict.WRONG, "brought its sandbox down")
    if result.truncated:
        return CaseResult(Verdict.WRONG, "wrote more than the limit")
    how = f"signal {result.signal}" if result.signal else f"exit code {result.code}"
    return CaseResult(Verdict.WRONG, f"{what}: {how} {_shown(result.stderr.strip()) if result.stderr else ''}".rstrip())


def _tagged(value: Any) -> Any:
    """Return a JSON value as the sandbox takes it, where objects are tagged."""
    if isinstance(value, dict):
        return {"$": "dict", "v": [[key, _tagged(item)] for key, item in value.items()]}
    return [_tagged(item) for item in value] if isinstance(value, list) else value


def _error(reply: Any) -> str:
    return f"{reply.get('error')}: {reply.get('message', '')}"[:_SHOWN_CHARS] if isinstance(reply, dict) else "nothing"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 2] + ".."
