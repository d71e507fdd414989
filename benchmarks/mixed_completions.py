"""Completions of every kind for benchmarks/graders.py, with their expected verdicts; a share of them pathological."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

Row = dict[str, Any]

# The verdicts that are right for a row; a program that is stopped may be over its time or simply wrong.
STOPPED = ("timeout", "wrong", "unparseable")

SUMMING = "import sys\nprint(sum(map(int, sys.stdin.read().split())))"
PRIMES = (
    "def primes(n):\n    sieve = [True] * (n + 1)\n    for i in range(2, int(n**0.5) + 1):\n        if sieve[i]:\n"
    "            sieve[i * i::i] = [False] * len(sieve[i * i::i])\n    return [i for i in range(2, n + 1) if sieve[i]]"
)
WORDS = "from collections import Counter\ndef count_words(text):\n    return dict(Counter(text.lower().split()))"
CPP_SUM = "#include <iostream>\nint main() { long long s = 0, x; while (std::cin >> x) s += x; std::cout << s; }"

BAD_MATH = (
    r"\boxed{9^{9^{9^{9}}}}",
    r"\boxed{10^{10^{10^{10}}}!}",
    r"\boxed{" + "{" * 20_000 + "}" * 20_000 + "}",
    r"\boxed{" + r"\frac{1}{" * 3_000 + "2" + "}" * 3_000 + "}",
    r"\boxed{" + "7" * 1_000_000 + "}",
    r"\boxed{(x+y+z+1)^{2000} - (x-y)^{1999}}",
    r"\boxed{\sqrt{" + r"\sqrt{" * 500 + "x" + "}" * 500 + "}}",
    "the answer is " * 50_000,
    "\x00\x00\\boxed{\x00}",
)
BAD_PROGRAMS = (
    "while True: pass",
    "import os\nwhile True:\n    os.fork()",
    "x = []\nwhile True:\n    x.append(bytearray(1 << 24))",
    "while True:\n    print('x' * 100000)",
    "import os, signal\nos.kill(-1, signal.SIGKILL)",
    "import time\ntime.sleep(1000)",
    "import os, sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()",
    "import os\nfor i in range(10**6):\n    open(f'/tmp/{i}', 'w').write('x' * 10**6)",
    "import os\nif os.fork() == 0:\n    os.setsid()\n    while True: pass\nprint(0)",
    "import socket\nsocket.create_connection(('10.0.0.1', 80), 100)",
)


def rows(count: int, *, pathological: float, seed: int) -> Iterator[Row]:
    """Yield rows for `r1ray grade`, each with the verdicts that are right for it under `expected`.

    Args:
        count: how many.
        pathological: share of rows that hang, blow up or attack.
        seed: of the choices.
    """
    draw = random.Random(seed)
    kinds: list[tuple[Callable[[random.Random], Row], float]] = [
        (_math, 0.70), (_choice, 0.10), (_stdio, 0.06), (_function, 0.06), (_asserts, 0.05), (_cpp, 0.03),
    ]  # fmt: skip
    makers, weights = zip(*kinds, strict=True)
    for index in range(count):
        bad = draw.random() < pathological
        maker = draw.choice((_bad_math, _bad_program)) if bad else draw.choices(makers, weights)[0]
        yield {"id": index, **maker(draw)}


def _math(draw: random.Random) -> Row:
    a, b = draw.randint(2, 99), draw.randint(2, 99)
    gold, right, wrong = draw.choice(
        [
            (f"{a * b}", f"{a * b:,}", f"{a * b + 1}"),
            (rf"\frac{{{a}}}{{{a * b}}}", f"1/{b}", f"{b}"),
            (rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b}}}", rf"{a}\sqrt{{{b + 1}}}"),
            (f"({a},{b})", f"({a}, {b})", f"({b + 100}, {a})"),
            (f"[{a},{a + b})", rf"\left[{a}, {a + b}\right)", f"({a},{a + b}]"),
            (f"x^2-{a * a}", f"(x-{a})(x+{a})", f"(x-{a})^2"),
            (f"{a}%", f"{a / 100}", f"{a / 10}"),
        ]
    )
    correct = draw.random() < 0.5
    completion = (
        f"<think>Let me work it out.</think> So the final answer is $\\boxed{{{right if correct else wrong}}}$."
    )
    return {"task": "math", "completion": completion, "answer": gold, "expected": [_verdict(correct)]}


def _choice(draw: random.Random) -> Row:
    letter = draw.choice("ABCD")
    correct = draw.random() < 0.5
    said = letter if correct else draw.choice("ABCD".replace(letter, ""))
    text = draw.choice(["The answer is ({}).", r"\boxed{{{}}}", "Answer: {}", "答案是{}。"]).format(said)
    return {"task": "choice", "completion": text, "answer": letter, "expected": [_verdict(correct)]}


def _stdio(draw: random.Random) -> Row:
    correct = draw.random() < 0.5
    return _program(SUMMING if correct else SUMMING.replace("sum", "max"), "python", _sums(draw), correct)


def _cpp(draw: random.Random) -> Row:
    correct = draw.random() < 0.5
    return _program(CPP_SUM if correct else CPP_SUM.replace("+= x", "= x"), "c++", _sums(draw), correct)


def _sums(draw: random.Random) -> Row:
    inputs = [[draw.randint(1, 10**6) for _ in range(5)] for _ in range(5)]
    cases = [{"stdin": " ".join(map(str, xs)), "stdout": str(sum(xs))} for xs in inputs]
    return {"kind": "stdio", "cases": cases, "time_limit_s": 2}


def _function(draw: random.Random) -> Row:
    correct = draw.random() < 0.5
    limits = [draw.randint(5, 60) for _ in range(4)]
    cases = [{"args": [n], "expected": [p for p in range(2, n + 1) if all(p % d for d in range(2, p))]} for n in limits]
    tests = {"kind": "function", "entry_point": "primes", "cases": cases, "time_limit_s": 1}
    return _program(PRIMES if correct else PRIMES.replace("range(2, n", "range(1, n"), "python", tests, correct)


def _asserts(draw: random.Random) -> Row:
    correct = draw.random() < 0.5
    code = "assert count_words('a b A') == {'a': 2, 'b': 1}\nassert count_words('') == {}\n"
    tests = {"kind": "asserts", "code": code, "time_limit_s": 1}
    return _program(WORDS if correct else WORDS.replace(".lower()", ""), "python", tests, correct)


def _bad_math(draw: random.Random) -> Row:
    return {"task": "math", "completion": draw.choice(BAD_MATH), "answer": "x^2+1", "expected": STOPPED}


def _bad_program(draw: random.Random) -> Row:
    row = _program(draw.choice(BAD_PROGRAMS), "python", _sums(draw) | {"time_limit_s": 1}, False)
    return row | {"expected": STOPPED}


def _program(source: str, language: str, tests: Row, correct: bool) -> Row:
    completion = f"<think>A program.</think>\n```{language}\n{source}\n```"
    row = {"task": "code", "completion": completion, "tests": tests, "language": language}
    return row | {"expected": [_verdict(correct)]}


def _verdict(correct: bool) -> str:
    return "correct" if correct else "wrong"
