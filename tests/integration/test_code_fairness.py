"""What honest programs need, and what memory, channels and answers must not be used for."""

import gc
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from r1ray.errors import GraderError, SandboxError
from r1ray.rewards.code.compare import same_output, same_value
from r1ray.rewards.code.judge import CodeJudge
from r1ray.rewards.code.problem import Checker, parse_tests
from r1ray.sandbox.box import Box, RunLimits
from r1ray.types import Verdict

LIMITS = RunLimits(cpu_s=5.0, wall_s=20.0, memory_bytes=1 << 28)


@pytest.fixture
def judge() -> Iterator[CodeJudge]:
    judge = CodeJudge()
    try:
        judge.start()
    except SandboxError as error:
        pytest.skip(str(error))
    yield judge
    judge.close()


def stdio(stdout: str, **more: Any) -> Any:
    return parse_tests({"kind": "stdio", "cases": [{"stdin": "", "stdout": stdout}], "time_limit_s": 2, **more})


def test_compiled_programs_can_start_threads(judge: CodeJudge) -> None:
    source = (
        "#include <iostream>\n#include <thread>\n#include <vector>\nint main() { std::vector<std::thread> all; "
        "int got[4] = {}; for (int i = 0; i < 4; i++) all.emplace_back([&, i] { got[i] = i; }); "
        "for (auto& one : all) one.join(); std::cout << got[0] + got[1] + got[2] + got[3]; }"
    )
    assert judge.judge(source, "c++", stdio("6")).verdict is Verdict.CORRECT


def test_compiled_programs_are_held_by_what_they_use(judge: CodeJudge) -> None:
    source = "#include <cstring>\nint main() { for (;;) memset(new char[1 << 20], 1, 1 << 20); }"
    assert "memory limit" in judge.judge(source, "c++", stdio("")).detail


def test_a_long_expected_output_may_be_printed(judge: CodeJudge) -> None:
    lines = "\n".join(map(str, range(200_000)))
    assert len(lines) > 1 << 20
    assert judge.judge("print(*range(200_000), sep='\\n')", "python", stdio(lines)).verdict is Verdict.CORRECT


def test_memory_shared_with_forks_counts_once(judge: CodeJudge) -> None:
    source = (
        "import os, time\nkept = b'x' * (120 << 20)\nchildren = []\nfor _ in range(4):\n    child = os.fork()\n"
        "    if child == 0:\n        time.sleep(0.3)\n        os._exit(0)\n    children.append(child)\n"
        "for child in children:\n    os.waitpid(child, 0)\nprint('done')"
    )
    result = judge.judge(source, "python", stdio("done"))
    assert result.verdict is Verdict.CORRECT, result.detail


@pytest.mark.parametrize("call", ["memfd_create(b'x', 0)", "shmget(0, 1 << 20, 0o1600)", "msgget(0, 0o1600)"])
def test_no_memory_can_be_had_that_belongs_to_no_process(judge: CodeJudge, call: str) -> None:
    source = f"import ctypes\nprint(ctypes.CDLL(None).{call})"
    assert judge.judge(source, "python", stdio("-1")).verdict is Verdict.CORRECT


def test_nobody_but_the_runner_has_its_pipes(judge: CodeJudge) -> None:
    source = (
        "import os\nprint(os.getppid(), sorted({int(p) for p in os.listdir('/proc') if p.isdigit()} - {os.getpid()}))"
    )
    assert judge.judge(source, "python", stdio("1 [1]")).verdict is Verdict.CORRECT


def test_a_closed_sandbox_leaves_no_orphan() -> None:
    me = psutil.Process()
    with Box() as box:
        assert box.run({"kind": "script", "source": ""}, LIMITS).ok
        started = me.children(recursive=True)
    assert started
    assert not [process for process in started if process.is_running()]


def test_a_judge_that_nobody_closes_leaves_no_sandbox() -> None:
    me = psutil.Process()
    before = set(me.children())
    judge = CodeJudge()
    judge.start()
    assert set(me.children()) > before
    del judge
    gc.collect()
    assert set(me.children()) == before


def test_an_output_that_a_checker_chokes_on_is_wrong_and_a_checker_that_chokes_anyway_is_broken(
    judge: CodeJudge,
) -> None:
    count = "n = int(open('output').read())\nwhile n:\n    n -= 1\n"
    tests = stdio("3", time_limit_s=1, checker={"kind": "program", "code": count})
    assert judge.judge("print(10**15)", "python", tests).verdict is Verdict.WRONG
    assert judge.judge("print(3)", "python", tests).verdict is Verdict.CORRECT
    broken = stdio("3", time_limit_s=1, checker={"kind": "program", "code": "while True: pass"})
    with pytest.raises(GraderError, match="checker program failed"):
        judge.judge("print(3)", "python", broken)


def test_integers_too_long_for_a_float_are_not_all_the_same() -> None:
    float_checker = Checker("float")
    assert not same_output("9" * 400, "1" * 400, float_checker)
    assert same_output("1" * 400, "1" * 400, float_checker)
    assert same_output("inf", "Infinity", float_checker)


def test_large_sets_compare_in_no_time_whatever_their_order() -> None:
    count = 200_000
    assert same_value({"$": "set", "v": list(range(count))[::-1]}, list(range(count)))
    assert not same_value({"$": "set", "v": list(range(1, count + 1))}, list(range(-count, 0)))
    assert same_value({"$": "set", "v": [0.1 + 0.2, "x"]}, ["x", 0.3])


def test_fractions_and_decimals_are_numbers() -> None:
    assert same_value({"$": "fraction", "v": ["1", "2"]}, 0.5)
    assert same_value({"$": "decimal", "v": "2.50"}, 2.5)
    assert not same_value({"$": "fraction", "v": ["1", "2"]}, 0.25)
