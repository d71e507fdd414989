"""Runs a program against tests in sandboxes and says how it did.

The program's sandbox gets inputs and arguments, never an expected value. Outputs and results come out as plain data
and are compared here; assertions run in a second sandbox, where the solution's functions are stand-ins whose calls
travel through here.
"""

from __future__ import annotations

import ast
import builtins
from dataclasses import dataclass
from typing import Any

from r1ray.errors import GraderError
from r1ray.rewards.code.compare import same_output, same_value
from r1ray.rewards.code.languages import Toolchain, toolchain
from r1ray.rewards.code.problem import CodeTests, FunctionCase, StdioCase
from r1ray.rewards.protocol import RewardResult
from r1ray.sandbox.box import Box, RunLimits, RunResult
from r1ray.sandbox.limits import WALL_FACTOR
from r1ray.types import Verdict

_COMPILE_LIMITS = RunLimits(cpu_s=20.0, wall_s=60.0, memory_bytes=2 << 30, output_bytes=1 << 26, processes=128)
# Runtimes that reserve addresses without using them are held by what they use.
_UNBOUNDED_BYTES = 1 << 46
_SHOWN_CHARS = 160
_BUILTINS = frozenset(dir(builtins))


@dataclass(frozen=True, slots=True)
class CaseResult:
    """How one case ended: correct, wrong or timeout, and why."""

    verdict: Verdict
    detail: str = ""


_PASSED = CaseResult(Verdict.CORRECT)


class CodeJudge:
    """Judges one program after another. Not for use by several threads at once."""

    def __init__(self, *, partial_credit: bool = False) -> None:
        """Prepare; sandboxes start with the first program.

        Args:
            partial_credit: the value is the share of cases passed, and all are run; else 1 or 0, and the first
                failing case ends the run.
        """
        self._partial_credit = partial_credit

    def judge(self, source: str, language: str, tests: CodeTests) -> RewardResult:
        """Run a program against tests.

        Raises:
            GraderError: the language cannot be run here, or the tests themselves fail to run.
            SandboxError: no sandbox can be started here.
        """
        if tests.kind != "stdio" and language != "python":
            raise GraderError(f"tests of kind {tests.kind} are for Python programs, got {language}")
        tools = toolchain(language, source)
        with Box(bind=tools.bind) as box:
            if tests.kind == "asserts":
                results = [_run_asserts(box, source, tests)]
            else:
                results = self._run_cases(box, source, tools, tests)
        return self._grade(results, 1 if tests.kind == "asserts" else len(tests.cases))

    def _run_cases(self, box: Box, source: str, tools: Toolchain, tests: CodeTests) -> list[CaseResult]:
        kept: tuple[str, ...] = ()
        if tools.compile is not None or tools.run:
            compiled = _compile(box, source, tools)
            if not compiled.ok:
                return [_failure(compiled, "does not compile")] * len(tests.cases)
            kept = compiled.files
        results = []
        for case in tests.cases:
            if isinstance(case, FunctionCase):
                results.append(_run_function(box, source, tests, case))
            else:
                results.append(_run_stdio(box, source, tools, kept, tests, case))
            if results[-1].verdict is not Verdict.CORRECT and not self._partial_credit:
                break
        return results

    def _grade(self, results: list[CaseResult], count: int) -> RewardResult:
        passed = sum(result.verdict is Verdict.CORRECT for result in results)
        failed = next((i for i, result in enumerate(results) if result.verdict is not Verdict.CORRECT), None)
        if failed is None:
            return RewardResult(1.0, Verdict.CORRECT, f"{count} of {count} cases passed")
        value = passed / count if self._partial_credit else 0.0
        return RewardResult(value, results[failed].verdict, f"case {failed + 1} of {count}: {results[failed].detail}")


def _limits(tests: CodeTests, *, processes: int = 64) -> RunLimits:
    return RunLimits(
        cpu_s=tests.time_limit_s,
        wall_s=tests.time_limit_s * WALL_FACTOR,
        memory_bytes=tests.memory_limit_bytes,
        processes=processes,
    )


def _compile(box: Box, source: str, tools: Toolchain) -> RunResult:
    """Put the source in place and compile it where the language asks for that."""
    case = {"kind": "exec", "argv": tools.compile or ("/usr/bin/true",), "files": {tools.source_name: source}}
    return box.run({**case, "keep": None, "address_bytes": _UNBOUNDED_BYTES}, _COMPILE_LIMITS)


def _run_stdio(
    box: Box, source: str, tools: Toolchain, kept: tuple[str, ...], tests: CodeTests, case: StdioCase
) -> CaseResult:
    program: dict[str, Any] = {"kind": "script", "source": source}
    if tools.run:
        program = {"kind": "exec", "argv": tools.run, "keep": kept}
        if not tools.bounded_addresses:
            program["address_bytes"] = _UNBOUNDED_BYTES
    result = box.run({**program, "stdin": case.stdin}, _limits(tests))
    if not result.ok:
        return _failure(result, "failed")
    if tests.checker.kind == "program":
        correct = _check_by_program(tests, case, result.stdout)
    else:
        correct = same_output(result.stdout, case.stdout, tests.checker)
    return _PASSED if correct else CaseResult(Verdict.WRONG, f"wrong output {_shown(result.stdout)}")


def _check_by_program(tests: CodeTests, case: StdioCase, output: str) -> bool:
    """Let a checker program decide: it finds `input`, `output` and `expected` and ends with code 0 if correct."""
    files = {"input": case.stdin, "output": output, "expected": case.stdout}
    with Box() as box:
        result = box.run({"kind": "script", "source": tests.checker.code, "files": files}, _limits(tests))
    if result.code not in (0, 1):
        raise GraderError(f"the checker program failed: {_failure(result, 'failed').detail}")
    return result.code == 0


def _run_function(box: Box, source: str, tests: CodeTests, case: FunctionCase) -> CaseResult:
    box.begin({"kind": "serve", "source": source}, _limits(tests))
    reply = box.receive()
    if not isinstance(reply, RunResult):
        box.send({"name": tests.entry_point, "args": [_tagged(value) for value in case.args]})
        reply = box.receive()
    if isinstance(reply, RunResult):
        return _failure(reply, f"ended before {tests.entry_point} returned")
    result = box.stop()
    if result.timeout or result.memory:
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


def names_for_tests(code: str, names: Any) -> list[str]:
    """Return the names of a solution that assertions may use: those they call and do not define themselves.

    A solution that defines `abs` or `len` must not decide what the assertions mean by it. A built-in name counts only
    where the assertions call a single built-in and nothing else, which then is what they test.
    """
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise GraderError(f"the tests are not Python: {error}") from error
    loaded = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    own = _defined(tree)
    foreign = loaded - own - _BUILTINS
    tested = (called - own) & _BUILTINS
    if not foreign and len(tested) == 1:
        foreign = tested
    given = names if isinstance(names, list) else []
    return sorted(name for name in given if isinstance(name, str) and name in foreign)


def _defined(tree: ast.AST) -> set[str]:
    """Return every name that a piece of source binds, anywhere in it."""
    own: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            own.add(node.id)
        elif isinstance(node, ast.arg):
            own.add(node.arg)
        elif isinstance(node, ast.alias):
            own.add((node.asname or node.name).partition(".")[0])
    return own


def _run_asserts(box: Box, source: str, tests: CodeTests) -> CaseResult:
    limits = _limits(tests)
    box.begin({"kind": "serve", "source": source}, limits)
    hello = box.receive()
    if isinstance(hello, RunResult):
        return _failure(hello, "failed before the tests")
    names = names_for_tests(tests.code, hello.get("names") if isinstance(hello, dict) else None)
    with Box() as tester:
        tester.begin({"kind": "test", "source": tests.code, "names": names}, limits)
        while True:
            message = tester.receive()
            if isinstance(message, RunResult):
                if message.timeout:
                    return CaseResult(Verdict.TIMEOUT, f"the tests were not done within {tests.time_limit_s:g} s")
                raise GraderError(f"the tests failed to run: {_failure(message, 'failed').detail}")
            if "call" not in message:
                break
            box.send(message["call"])
            reply = box.receive()
            if isinstance(reply, RunResult):
                return _failure(reply, "ended during the tests")
            tester.send(reply if isinstance(reply, dict) else {"error": "TypeError"})
    ended = box.stop()
    if ended.timeout or ended.memory:
        return _failure(ended, "failed")
    return _PASSED if message["passed"] else CaseResult(Verdict.WRONG, str(message.get("message", ""))[:_SHOWN_CHARS])


def _failure(result: RunResult, what: str) -> CaseResult:
    if result.timeout:
        return CaseResult(Verdict.TIMEOUT, "out of time")
    if result.memory:
        return CaseResult(Verdict.WRONG, "over the memory limit")
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
