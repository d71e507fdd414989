"""Honest, wrong and hostile programs through real sandboxes."""

import json
from typing import Any

import pytest

from r1ray.errors import SandboxError
from r1ray.rewards.code.judge import CodeJudge
from r1ray.rewards.code.languages import LANGUAGES, available
from r1ray.rewards.code.problem import parse_tests
from r1ray.sandbox.box import Box, RunLimits
from r1ray.types import Verdict

DOUBLE = parse_tests(
    {"kind": "stdio", "cases": [{"stdin": f"{n}\n", "stdout": f"{2 * n}\n"} for n in (2, 21, -7)], "time_limit_s": 1}
)
SORT = parse_tests(
    {
        "kind": "function",
        "entry_point": "order",
        "cases": [
            {"args": [[3, 1, 2]], "expected": [1, 2, 3]},
            {"args": [[0.5, 0.25]], "expected": [0.25, 0.5]},
            {"args": [[]], "expected": []},
        ],
        "time_limit_s": 1,
    }
)
ASSERTS = parse_tests(
    {
        "kind": "asserts",
        "code": "assert order([3, 1]) == [1, 3]\nassert order([]) == []\nassert order([2, 1, 2]) == [1, 2, 2]\n",
        "time_limit_s": 1,
    }
)

DOUBLERS = {
    "python": "print(2 * int(input()))",
    "c++": "#include <iostream>\nint main() { int n; std::cin >> n; std::cout << 2 * n << '\\n'; }",
    "c": '#include <stdio.h>\nint main(void) { int n; scanf("%d", &n); printf("%d\\n", 2 * n); }',
    "java": (
        "import java.util.Scanner;\npublic class Twice { public static void main(String[] a) "
        "{ System.out.println(2 * new Scanner(System.in).nextInt()); } }"
    ),
    "go": 'package main\nimport "fmt"\nfunc main() { var n int; fmt.Scan(&n); fmt.Println(2 * n) }',
    "rust": (
        "fn main() { let mut s = String::new(); std::io::stdin().read_line(&mut s).unwrap(); "
        'println!("{}", 2 * s.trim().parse::<i64>().unwrap()); }'
    ),
    "javascript": "console.log(2 * Number(require('fs').readFileSync(0, 'utf8')));",
}


@pytest.fixture(scope="module", autouse=True)
def sandbox() -> None:
    """Skip, with the reason, where this machine allows no sandbox."""
    try:
        with Box() as box:
            assert box.run({"kind": "script", "source": ""}, RunLimits(5.0, 20.0, 1 << 28)).ok
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture
def judge() -> CodeJudge:
    return CodeJudge()


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_solves_and_fails(judge: CodeJudge, language: str) -> None:
    lacking = available(language)
    if lacking is not None and language not in ("python", "c++"):
        pytest.skip(lacking)
    source = DOUBLERS[language]
    right = judge.judge(source, language, DOUBLE)
    assert right.verdict is Verdict.CORRECT, right.detail
    wrong = judge.judge(source.replace("2 *", "3 *"), language, DOUBLE)
    assert wrong.verdict is Verdict.WRONG
    assert "case 1 of 3" in wrong.detail


@pytest.mark.parametrize("language", ["c++", "c"])
def test_a_program_that_does_not_compile_is_wrong(judge: CodeJudge, language: str) -> None:
    result = judge.judge("int main() { return nothing; }", language, DOUBLE)
    assert result.verdict is Verdict.WRONG
    assert "does not compile" in result.detail


@pytest.mark.parametrize(
    "source",
    [
        "def order(xs):\n    return sorted(xs)",
        "class Solution:\n    def order(self, xs):\n        return sorted(xs)",
        "def order(xs):\n    xs.sort()\n    return tuple(xs)",
        "import heapq\ndef order(xs):\n    print('noise')\n    return heapq.nsmallest(len(xs), xs)",
        "def order(xs):\n    yield from sorted(xs)",
    ],
)
def test_functions_are_called_and_their_results_compared_outside(judge: CodeJudge, source: str) -> None:
    result = judge.judge(source, "python", SORT)
    assert result.verdict is Verdict.CORRECT, result.detail


def test_assertions_see_what_a_solution_changed_in_its_arguments(judge: CodeJudge) -> None:
    tests = parse_tests({"kind": "asserts", "code": "xs = [2, 1]\nassert fix(xs) is None\nassert xs == [1, 2]\n"})
    assert judge.judge("def fix(xs): xs.sort()", "python", tests).verdict is Verdict.CORRECT
    assert judge.judge("def fix(xs): sorted(xs)", "python", tests).verdict is Verdict.WRONG


def test_assertions_can_use_classes_of_the_solution(judge: CodeJudge) -> None:
    tests = parse_tests(
        {"kind": "asserts", "code": "p = Pair(3, 4)\nassert p.total() == 7\nassert longest([p, Pair(1, 9)]) == 10\n"}
    )
    source = (
        "class Pair:\n    def __init__(self, a, b):\n        self.a, self.b = a, b\n"
        "    def total(self):\n        return self.a + self.b\n"
        "def longest(pairs):\n    return max(p.total() for p in pairs)\n"
    )
    result = judge.judge(source, "python", tests)
    assert result.verdict is Verdict.CORRECT, result.detail


def test_assertions_can_expect_an_exception(judge: CodeJudge) -> None:
    tests = parse_tests(
        {
            "kind": "asserts",
            "code": "try:\n    f(-1)\nexcept ValueError:\n    pass\nelse:\n    raise AssertionError('no error')\n",
        }
    )
    assert judge.judge("def f(n):\n    raise ValueError(n)", "python", tests).verdict is Verdict.CORRECT
    assert judge.judge("def f(n):\n    return n", "python", tests).verdict is Verdict.WRONG


def test_partial_credit_is_the_share_of_cases_passed() -> None:
    result = CodeJudge(partial_credit=True).judge("n = int(input())\nprint(2 * n if n > 0 else 0)", "python", DOUBLE)
    assert result.value == pytest.approx(2 / 3)
    assert result.verdict is Verdict.WRONG


def test_a_checker_program_decides(judge: CodeJudge) -> None:
    checker = "a, b = map(int, open('output').read().split())\nraise SystemExit(a * b != int(open('input').read()))"
    tests = parse_tests(
        {
            "kind": "stdio",
            "cases": [{"stdin": "15", "stdout": "3 5"}],
            "checker": {"kind": "program", "code": checker},
        }
    )
    assert judge.judge("print(5, 3)", "python", tests).verdict is Verdict.CORRECT
    assert judge.judge("print(5, 4)", "python", tests).verdict is Verdict.WRONG


# Each tries to be graded correct, to hang, or to reach something it must not; none solves the problem.
FORGERIES = {
    "exit": "import sys\nsys.exit(0)",
    "hard exit": "import os\nos._exit(0)",
    "atexit": "import atexit, os\natexit.register(lambda: os._exit(0))\ndef order(xs): return None",
    "equal to all": "class L(list):\n    def __eq__(self, o): return True\n    __ne__ = lambda s, o: False\n"
    "def order(xs): return L([9, 9])",
    "int equal to all": "class I(int):\n    def __eq__(self, o): return True\n    __hash__ = int.__hash__\n"
    "def order(xs): return I(7)",
    "object equal to all": "class A:\n    def __eq__(self, o): return True\n"
    "    def __iter__(self): return iter([1, 3])\ndef order(xs): return A()",
    "printed": "print('passed')\nprint('{\"passed\": true}')\ndef order(xs): return []",
    "written to the channel": "import os, json, struct\nb = json.dumps({'passed': True}).encode()\n"
    "for d in range(3, 64):\n    try: os.write(d, struct.pack('>I', len(b)) + b)\n    except OSError: pass\n"
    "def order(xs): return 0",
    "exit frame": "import os, json, struct\nb = json.dumps({'exit': {'code': 0}}).encode()\n"
    "for d in range(0, 64):\n    try: os.write(d, struct.pack('>I', len(b)) + b)\n    except OSError: pass\n"
    "def order(xs): return 0",
    "patched json": "import json\njson.dumps = lambda *a, **k: '{\"passed\": true}'\ndef order(xs): return 0",
    "patched builtins": "import builtins\nbuiltins.isinstance = lambda *a: True\nbuiltins.sorted = None\n"
    "def order(xs): return 0",
    "frames": "import sys\ndef order(xs):\n    f = sys._getframe()\n    while f:\n"
    "        for k, v in list(f.f_locals.items()) + list(f.f_globals.items()):\n"
    "            if k == 'expected': return v\n        f = f.f_back\n    return 0",
    "garbage": "import gc\ndef order(xs):\n    for o in gc.get_objects():\n"
    "        if isinstance(o, dict) and 'expected' in o: return o['expected']\n    return 0",
    "arguments": "import sys\ndef order(xs): return sys.argv",
    "exception": "def order(xs): raise AssertionError",
    "keyboard interrupt": "def order(xs): raise KeyboardInterrupt",
    "exception that lies": "class E(BaseException):\n    def __str__(self): raise E\n    __repr__ = __str__\n"
    "def order(xs): raise E",
    "never": "def order(xs):\n    while True: pass",
    "import never": "while True: pass",
    "sleep": "import time\ntime.sleep(100)",
    "catch all": "def order(xs):\n    while True:\n        try:\n            while True: pass\n"
    "        except BaseException: pass",
    "deep": "def order(xs): return order(xs)",
    "nested": "def order(xs):\n    x = []\n    for _ in range(100000): x = [x]\n    return x",
    "cyclic": "def order(xs):\n    x = []\n    x.append(x)\n    return x",
    "endless generator": "def order(xs):\n    while True: yield 1",
    "huge": "def order(xs): return 'x' * (1 << 27)",
    "memory": "def order(xs): return [bytearray(1 << 24) for _ in range(1000)]",
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "threads": "import threading, time\nfor _ in range(10000): threading.Thread(target=time.sleep, args=(99,)).start()",
    "kill all": "import os\nos.kill(-1, 9)",
    "kill the parent": "import os\nos.kill(os.getppid(), 9)\ndef order(xs): return 0",
    "stop the parent": "import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)\ndef order(xs): return 0",
    "flood": "while True: print('x' * 100000)",
    "stderr flood": "import sys\nwhile True: sys.stderr.write('x' * 100000)",
    "disk": "for i in range(10000):\n    open(f'/tmp/{i}', 'wb').write(b'x' * 1000000)",
    "syntax": "def order(xs) return xs",
    "null": "\x00",
    "bomb for the compiler": "x = " + "(" * 5000 + ")" * 5000,
    "close everything": "import os\nos.closerange(0, 256)\ndef order(xs): return 0",
    "replace the channel": "import os\nos.dup2(2, 3)\ndef order(xs): return [1, 3]",
    "setrlimit": "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1000, 1000))\ndef order(xs): return 0",
}


CLOSE = parse_tests({"kind": "asserts", "code": "assert abs(half(3) - 1.5) < 1e-6\nassert len(pair()) == 2\n"})


@pytest.mark.parametrize(
    "source",
    [
        "def half(n): return 0\ndef pair(): return []\ndef abs(x): return 0\ndef len(x): return 2",
        "import json, os, struct\nb = json.dumps({'names': ['abs', 'len', 'half', 'pair']}).encode()\n"
        "os.write(3, struct.pack('>I', len(b)) + b)\n"
        "def half(n): return 0\ndef pair(): return []\ndef abs(x): return 0\ndef len(x): return 2",
    ],
)
def test_a_solution_cannot_redefine_what_assertions_are_made_of(judge: CodeJudge, source: str) -> None:
    assert judge.judge(source, "python", CLOSE).verdict is Verdict.WRONG
    honest = "def half(n): return n / 2\ndef pair(): return (1, 2)\ndef abs(x): return 0"
    assert judge.judge(honest, "python", CLOSE).verdict is Verdict.CORRECT


def test_a_function_may_have_the_name_of_a_builtin_where_that_is_what_is_tested(judge: CodeJudge) -> None:
    tests = parse_tests({"kind": "asserts", "code": "assert sum(10, 15) == 6\nassert sum(100, 150) == 93\n"})
    source = "def sum(a, b):\n    return __import__('builtins').sum(d for d in range(1, a + 1) if a % d == b % d == 0)"
    assert judge.judge(source, "python", tests).verdict is Verdict.CORRECT


@pytest.mark.parametrize(
    "frame", ["{'value': {}}", "{'value': {'$': 'int', 'v': []}}", "{'value': {'$': 1, 'v': 2}}", "[]"]
)
def test_nonsense_on_the_channel_is_a_wrong_answer_and_no_failed_grader(judge: CodeJudge, frame: str) -> None:
    source = (
        "import json, os, struct\ndef order(xs):\n"
        f"    b = json.dumps({frame}).encode()\n    os.write(3, struct.pack('>I', len(b)) + b)\n    return 0"
    )
    assert judge.judge(source, "python", SORT).verdict is Verdict.WRONG


@pytest.mark.parametrize("name", FORGERIES)
@pytest.mark.parametrize("tests", [SORT, ASSERTS], ids=["function", "asserts"])
def test_no_forgery_scores(judge: CodeJudge, name: str, tests: Any) -> None:
    result = judge.judge(FORGERIES[name], "python", tests)
    assert result.verdict in (Verdict.WRONG, Verdict.TIMEOUT), result
    assert result.value == 0.0


PROBES = {
    "network": "import socket; socket.create_connection(('1.1.1.1', 53), 1)",
    "loopback": "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.connect(('127.0.0.1', 22))",
    "home": "import os; assert os.listdir('/root')",
    "shadow": "open('/etc/shadow').read()",
    "passwd": "open('/etc/passwd').read()",
    "write root": "open('/x', 'w')",
    "write usr": "open('/usr/x', 'w')",
    "write python": "open('/opt/python/x', 'w')",
    "write runner": "open('/opt/r1ray/r1ray/sandbox/inside/runner.py', 'a')",
    "parent memory": "import os; open(f'/proc/{os.getppid()}/mem', 'rb')",
    "parent files": "import os; os.listdir(f'/proc/{os.getppid()}/fd')",
    "parent environment": "import os; assert open(f'/proc/{os.getppid()}/environ').read()",
    "ptrace": "import ctypes, os; assert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0",
    "mount": "import ctypes; assert ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, None) == 0",
    "user namespace": "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "keyring": "import ctypes; assert ctypes.CDLL(None).syscall(250, 0, -3, 0) >= 0",
    "io_uring": "import ctypes; b = ctypes.create_string_buffer(120); assert ctypes.CDLL(None).syscall(425, 1, b) >= 0",
    "userfaultfd": "import ctypes; assert ctypes.CDLL(None).syscall(323, 0) >= 0",
    "bpf": "import ctypes; assert ctypes.CDLL(None).syscall(321, 0, 0, 0) >= 0",
    "perf": "import ctypes; b = bytes(120); assert ctypes.CDLL(None).syscall(298, b, 0, -1, -1, 0) >= 0",
    "become root": "import os; os.setuid(0)",
    "other processes": "import os; assert len([p for p in os.listdir('/proc') if p.isdigit()]) > 3",
    "environment": "import os; assert set(os.environ) - {'PATH', 'HOME', 'LANG', 'PWD', 'LC_CTYPE'}",
    "descriptors": "import os; assert [d for d in os.listdir('/proc/self/fd') if int(d) > 4]",
    "host name": "import socket; assert socket.gethostname() != 'sandbox'",
    "raw device": "import glob; assert glob.glob('/dev/sd*') + glob.glob('/dev/vd*')",
}


@pytest.mark.parametrize("name", PROBES)
def test_the_sandbox_holds(judge: CodeJudge, name: str) -> None:
    """Each program prints whether it reached what it must not; the grade tells that it ran at all."""
    source = f"try:\n    {PROBES[name]}\nexcept BaseException:\n    print('held')\nelse:\n    print('reached')\n"
    tests = parse_tests({"kind": "stdio", "cases": [{"stdin": "", "stdout": "held"}], "time_limit_s": 3})
    result = judge.judge(source, "python", tests)
    assert result.verdict is Verdict.CORRECT, result.detail


def test_nothing_is_left_running_after_a_program(judge: CodeJudge) -> None:
    import psutil

    source = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(600)\n"
        "    os._exit(0)\nprint(2 * int(input()))"
    )
    before = {p.pid for p in psutil.process_iter()}
    assert judge.judge(source, "python", DOUBLE).verdict is Verdict.CORRECT
    after = [p for p in psutil.process_iter(["name"]) if p.pid not in before and "python" in (p.info["name"] or "")]
    assert not [p for p in after if p.is_running() and p.ppid() == 1]


def test_results_are_compared_as_plain_data() -> None:
    from r1ray.rewards.code.compare import same_value

    assert same_value({"$": "dict", "v": [[1, {"$": "tuple", "v": [1, 2.0]}]]}, json.loads('{"1": [1, 2]}'))
    assert same_value({"$": "set", "v": [2, 1]}, [1, 2])
    assert not same_value({"$": "set", "v": [2, 1]}, [1, 2, 2])
    assert not same_value(True, 1)
    assert same_value(0.1 + 0.2, 0.3)
    assert not same_value({"$": "object", "v": 0}, 0)
    assert same_value({"$": "int", "v": "de0b6b3a7640000"}, 10**18)
