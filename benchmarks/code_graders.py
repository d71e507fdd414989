"""How long does a completion with 10 test cases take to grade, beside 10 bare `subprocess.run` of the same program?

Both run the same program on the same inputs; the bare side has no sandbox and compares nothing. Pairs alternate in
one run; a C++ program is compiled once on both sides, outside the clock.

    .venv/bin/python benchmarks/code_graders.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from r1ray.rewards.code.judge import CodeJudge
from r1ray.rewards.code.problem import CodeTests, parse_tests
from r1ray.types import Verdict

CASES = 10
SUM = "import sys\nprint(sum(map(int, sys.stdin.read().split())))\n"
SORT = (
    "import heapq, sys\nfrom collections import Counter\nfrom itertools import accumulate\n"
    "xs = list(map(int, sys.stdin.read().split()))\n"
    "for _ in range(20):\n    heapq.heapify(xs)\n    Counter(xs)\n    list(accumulate(xs))\nprint(*sorted(xs))\n"
)
CPP = (
    "#include <iostream>\n#include <vector>\n#include <algorithm>\nint main() { std::vector<long long> v; long long x;"
    " while (std::cin >> x) v.push_back(x); std::sort(v.begin(), v.end()); for (auto y : v) std::cout << y << ' '; }\n"
)
FUNCTION = "def total(xs):\n    return sum(xs)\n"


def measure(rounds: int = 11) -> dict[str, Any]:
    """Return for each kind of program the median seconds of both sides and the median ratio of pairs."""
    inputs = [" ".join(str((i * 7919 + j * 104729) % 1_000_003) for j in range(200)) for i in range(CASES)]
    sums = [str(sum(map(int, text.split()))) for text in inputs]
    ordered = [" ".join(map(str, sorted(map(int, text.split())))) for text in inputs]
    lists = [list(map(int, text.split())) for text in inputs]
    function = {
        "kind": "function",
        "entry_point": "total",
        "cases": [{"args": [xs], "expected": sum(xs)} for xs in lists],
    }
    asserts = "".join(f"assert total({xs}) == {sum(xs)}\n" for xs in lists)
    called = FUNCTION + "import sys\nprint(total(list(map(int, sys.stdin.read().split()))))\n"
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / "sort"
        (Path(folder) / "sort.cpp").write_text(CPP)
        subprocess.run(["g++", "-O2", "-o", str(compiled), str(compiled) + ".cpp"], check=True)
        return {
            "python stdio, sum": _pair(SUM, "python", _stdio(inputs, sums), _python(folder, SUM), inputs, rounds),
            "python stdio, sort": _pair(SORT, "python", _stdio(inputs, ordered), _python(folder, SORT), inputs, rounds),
            "python function": _pair(
                FUNCTION, "python", parse_tests(function), _python(folder, called), inputs, rounds
            ),
            "python asserts": _pair(
                FUNCTION,
                "python",
                parse_tests({"kind": "asserts", "code": asserts}),
                _python(folder, called),
                inputs,
                rounds,
            ),
            "c++ stdio, sort": _pair(CPP, "c++", _stdio(inputs, ordered), [str(compiled)], inputs, rounds),
        }


def _stdio(inputs: list[str], outputs: list[str]) -> CodeTests:
    cases = [{"stdin": text, "stdout": expected} for text, expected in zip(inputs, outputs, strict=True)]
    return parse_tests({"kind": "stdio", "cases": cases})


def _python(folder: str, source: str) -> list[str]:
    path = Path(folder) / f"{abs(hash(source))}.py"
    path.write_text(source)
    return [sys.executable, str(path)]


def _pair(
    source: str, language: str, tests: CodeTests, command: list[str], inputs: list[str], rounds: int
) -> dict[str, float]:
    judge = CodeJudge()

    def graded() -> None:
        # As if of another problem, so that no verdict is remembered.
        judge._problem = None
        assert judge.judge(source, language, tests).verdict is Verdict.CORRECT

    def bare() -> None:
        for text in inputs:
            subprocess.run(command, input=text, capture_output=True, text=True, check=True)

    graded()
    pairs = [(_seconds(graded), _seconds(bare)) for _ in range(rounds)]
    judge.close()
    return {
        "graded_s": median(ours for ours, _ in pairs),
        "bare_s": median(theirs for _, theirs in pairs),
        "ratio": median(ours / theirs for ours, theirs in pairs),
    }


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Print the figures."""
    print(json.dumps(measure(), indent=1))


if __name__ == "__main__":
    main()
