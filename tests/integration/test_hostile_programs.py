"""Hostile programs in Python and C++: none scores, none outlives its sandbox, none leaves a trace on the machine."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from r1ray.config.schema import SandboxConfig
from r1ray.errors import SandboxError
from r1ray.rewards.code.judge import CodeJudge
from r1ray.rewards.code.problem import parse_tests
from r1ray.sandbox.box import Box, RunLimits
from r1ray.types import Verdict

DEADLINE_S = 15.0
DOUBLE = parse_tests(
    {
        "kind": "stdio",
        "cases": [{"stdin": f"{n}\n", "stdout": f"{2 * n}\n"} for n in (2, 21)],
        "time_limit_s": 1,
        "memory_limit_bytes": 1 << 27,
    }
)
HONEST = {
    "python": "n = int(input())\nprint(2 * n)",
    "c++": "#include <iostream>\nint main() { long n; std::cin >> n; std::cout << 2 * n << std::endl; }",
}

PYTHON = {
    "all answers": "print(4)\nprint(42)",
    "passed": "print('All tests passed')\nprint('correct')\nraise SystemExit(0)",
    "exit frame": "import os, struct, json\nb = json.dumps({'exit': {'code': 0, 'stdout': '4'}}).encode()\n"
    "for d in range(64):\n    try: os.write(d, struct.pack('>I', len(b)) + b)\n    except OSError: pass",
    "files": "import os\nfor root, _, files in os.walk('/'):\n    for f in files:\n        if 'test' in f or 'expected' in f:\n"
    "            try: print(open(os.path.join(root, f)).read(100))\n            except Exception: pass\n    break",
    "processes": "import os\nfor p in os.listdir('/proc'):\n    if p.isdigit():\n"
    "        try: print(open(f'/proc/{p}/environ').read(), open(f'/proc/{p}/cmdline').read())\n        except Exception: pass",
    "parent memory": "import os\nf = open(f'/proc/{os.getppid()}/mem', 'rb')\nf.seek(0)\nprint(f.read(10))",
    "frames": "import sys, inspect\nprint([f.frame.f_locals for f in inspect.stack()])",
    "garbage": "import gc\nprint([o for o in gc.get_objects() if isinstance(o, dict) and 'stdout' in o])",
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "thread bomb": "import threading\nwhile True:\n    try: threading.Thread(target=threading.Event().wait).start()\n"
    "    except RuntimeError: pass",
    "memory bomb": "x = []\nwhile True: x.append(bytearray(1 << 22))",
    "memory of children": "import os, time\nfor _ in range(20):\n    if os.fork() == 0:\n        x = bytearray(1 << 24)\n"
    "        for i in range(0, len(x), 4096): x[i] = 1\n        time.sleep(9)\nprint(2 * int(input()))\ntime.sleep(9)",
    "busy children": "import os\nfor _ in range(8):\n    if os.fork() == 0:\n        while True: pass\nimport time\ntime.sleep(9)",
    "sleep": "import time\ntime.sleep(1000)",
    "spin": "while True: pass",
    "ignored signals": "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
    "    except (OSError, ValueError): pass\nwhile True: pass",
    "stopped": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "kill everything": "import os, signal\nos.kill(-1, signal.SIGKILL)",
    "stop everything": "import os, signal\nos.kill(-1, signal.SIGSTOP)",
    "kill the runner": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "daemon": "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        while True: time.sleep(1)\n"
    "    os._exit(0)\nprint(0)",
    "flood": "while True: print('x' * 65536)",
    "error flood": "import sys\nwhile True: sys.stderr.write('x' * 65536)",
    "disk": "i = 0\nwhile True:\n    open(str(i), 'wb').write(bytes(1 << 20))\n    i += 1",
    "shared memory": "i = 0\nwhile True:\n    open(f'/dev/shm/{i}', 'wb').write(bytes(1 << 20))\n    i += 1",
    "memory files": "import os\nf = []\nwhile True:\n    f.append(os.memfd_create('x'))\n    os.write(f[-1], bytes(1 << 22))",
    "sparse": "f = open('x', 'wb')\nf.truncate(1 << 50)",
    "descriptors": "f = []\nwhile True: f.append(open('/dev/null'))",
    "inodes": "import os\ni = 0\nwhile True:\n    os.mkdir(str(i))\n    os.chdir(str(i))\n    i += 1",
    "fifo": "import os\nos.mkfifo('x')\nopen('x').read()",
    "link to a secret": "import os\nos.symlink('/etc/shadow', 'out')\nprint(open('out').read())",
    "internet": "import socket\nprint(socket.create_connection(('1.1.1.1', 80), 1).recv(10))",
    "localhost": "import socket\nprint(socket.create_connection(('127.0.0.1', 6379), 1).recv(10))",
    "abstract socket": "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('\\0dbus')\nprint(s.recv(10))",
    "raw socket": "import socket\ns = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\nprint(s.recv(10))",
    "netlink": "import socket\ns = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)\ns.bind((0, 1))\nprint(s.recv(10))",
    "deep recursion": "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(n): return f(n + 1)\nf(0)",
    "crash": "import ctypes\nctypes.string_at(0)",
    "exit code": "print(2 * int(input()))\nraise SystemExit(3)",
    "core": "import os\nos.abort()",
    "ptrace": "import ctypes, os\nprint(ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0))",
    "setuid": "import os\nos.setuid(0)\nprint(open('/etc/shadow').read())",
    "raise limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\nprint(len(bytes(1 << 31)))",
    "null bytes": "print('\\0' * 100)",
    "not text": "import sys\nsys.stdout.buffer.write(bytes(range(256)))",
    "surrogates": "import sys\nsys.stdout.buffer.write(b'\\xed\\xa0\\x80')",
    "exec": "import os\nos.execv('/bin/sh', ['sh', '-c', 'yes | head -c 100'])",
    "huge integer": "print(9 ** 9 ** 9)",
    "regex": "import re\nre.match('(a+)+$', 'a' * 50 + 'b')",
    "import": "import no_such_module",
    "zip": "x = 'x'\nwhile True: x += x",
}

HEADERS = ("cstdio", "cstdlib", "cstring", "fstream", "functional", "iostream", "sys/mman.h", "sys/ptrace.h")
HEADERS += ("sys/syscall.h", "sys/socket.h", "arpa/inet.h", "signal.h", "unistd.h")
INCLUDES = "".join(f"#include <{name}>\n" for name in HEADERS) + "using namespace std;\n"
CPP = {
    "spin": "for (volatile int i = 0;; i++);",
    "sleep": "sleep(1000);",
    "fork bomb": "for (;;) fork();",
    "memory bomb": "for (;;) memset(malloc(1 << 22), 1, 1 << 22);",
    "map": "for (;;) { void* p = mmap(0, 1 << 24, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);"
    ' if (p == MAP_FAILED) { puts("0"); return 0; } }',
    "stack bomb": "function<int(int)> f = [&](int n) { char b[65536]; memset(b, n, sizeof b); return f(n + 1) + b[7]; };"
    ' printf("%d", f(0));',
    "flood": 'for (;;) puts("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");',
    "kill everything": "kill(-1, SIGKILL);",
    "kill the runner": "kill(getppid(), SIGKILL);",
    "ptrace": 'printf("%ld", ptrace(PTRACE_ATTACH, getppid(), 0, 0));',
    "old system calls": '#if defined(__x86_64__)\nlong r; asm volatile("int $0x80" : "=a"(r) : "a"(26), "b"(16), "c"(1));'
    ' printf("%ld", r);\n#endif',
    "x32 system calls": '#if defined(__x86_64__)\nprintf("%ld", syscall(0x40000000 + 521, 16, getppid(), 0, 0));\n#endif',
    "daemon": 'if (!fork()) { setsid(); if (!fork()) for (;;) sleep(1); _exit(0); } puts("0");',
    "socket": "int s = socket(AF_INET, SOCK_STREAM, 0); sockaddr_in a{}; a.sin_family = AF_INET; a.sin_port = htons(80);"
    ' inet_pton(AF_INET, "1.1.1.1", &a.sin_addr); printf("%d", connect(s, (sockaddr*)&a, sizeof a));',
    "secret": 'ifstream f("/etc/shadow"); string s; getline(f, s); cout << s;',
    "replace itself": 'ofstream f("main"); f << "#!/bin/sh\\necho 4"; f.close(); cout << (f.good() ? 1 : 0);',
    "crash": "*(volatile int*)0 = 1;",
    "divide": 'volatile int z = 0; printf("%d", 1 / z);',
    "abort": "abort();",
    "exit": "exit(0);",
    "hard exit": "_exit(0);",
    "unshare": 'printf("%ld", syscall(SYS_unshare, 0x10000000));',
    "inherited descriptors": "for (int d = 3; d < 1024; d++) { char b[100]; if (read(d, b, 100) > 0) puts(b); }",
    "write to descriptors": 'for (int d = 3; d < 1024; d++) if (write(d, "{}", 2) > 0) puts("4");',
}
COMPILE = {
    "endless include": '#include "/dev/zero"\nint main() {}',
    "secret include": '#include "/etc/shadow"\nint main() {}',
    "template bomb": "template<int N> struct A { static const long v = A<N - 1>::v + A<N - 2>::v; };\n"
    "int main() { return A<100000>::v; }",
    "huge object": "char a[1ull << 40] = {1};\nint main() { return a[0]; }",
    "assembler include": 'asm(".incbin \\"/dev/zero\\"");\nint main() {}',
    "macro bomb": "#define A(x) x x x x x x x x\n#define B(x) A(A(A(A(x))))\n#define C(x) B(B(x))\nint main() { C(C(;)) }",
}


@pytest.fixture(scope="module", autouse=True)
def sandbox() -> None:
    """Skip, with the reason, where this machine allows no sandbox."""
    try:
        with Box() as box:
            assert box.run({"kind": "script", "source": ""}, RunLimits(5.0, 20.0, 1 << 28)).ok
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def judge() -> Iterator[CodeJudge]:
    """One judge for all: what one program does must not reach the next."""
    judge = CodeJudge()
    yield judge
    judge.close()


@pytest.fixture(autouse=True)
def no_trace(request: pytest.FixtureRequest) -> Iterator[None]:
    """Hold that a test leaves files, listeners and processes of this machine as they were."""
    places = [Path(place) for place in ("/", "/tmp", "/dev/shm", os.getcwd()) if Path(place).is_dir()]
    before = [{entry.name for entry in place.iterdir()} for place in places]
    began = time.monotonic()
    yield
    assert time.monotonic() - began < DEADLINE_S * 2
    for place, names in zip(places, before, strict=True):
        new = {entry.name for entry in place.iterdir()} - names
        assert not {name for name in new if not name.startswith(("pytest-", "r1ray-", "tmp", "cc", "ray"))}, place
    orphans = [p for p in psutil.process_iter(["ppid", "cmdline"]) if "main" in (p.info["cmdline"] or [""])[:1]]
    assert not orphans


def assert_fails(judge: CodeJudge, source: str, language: str) -> None:
    began = time.monotonic()
    result = judge.judge(source, language, DOUBLE)
    assert result.verdict in (Verdict.WRONG, Verdict.TIMEOUT), result
    assert result.value == 0.0
    assert time.monotonic() - began < DEADLINE_S


def test_the_suite_is_large() -> None:
    assert len(PYTHON) + len(CPP) + len(COMPILE) >= 80


@pytest.mark.parametrize("name", PYTHON)
def test_hostile_python_does_not_score(judge: CodeJudge, name: str) -> None:
    assert_fails(judge, PYTHON[name], "python")


@pytest.mark.parametrize("name", CPP)
def test_hostile_cpp_does_not_score(judge: CodeJudge, name: str) -> None:
    assert_fails(judge, f"{INCLUDES}int main() {{\n{CPP[name]}\n}}", "c++")


@pytest.mark.parametrize("name", COMPILE)
def test_what_attacks_the_compiler_does_not_compile(judge: CodeJudge, name: str) -> None:
    assert judge.judge(COMPILE[name], "c++", DOUBLE).value == 0.0


@pytest.mark.parametrize("language", HONEST)
def test_honest_programs_score_after_all_of_these(judge: CodeJudge, language: str) -> None:
    result = judge.judge(HONEST[language], language, DOUBLE)
    assert result.verdict is Verdict.CORRECT, result.detail
    wrong = judge.judge(HONEST[language].replace("2 * n", "3 * n"), language, DOUBLE)
    assert wrong.verdict is Verdict.WRONG


TURNS = {
    # Each writes an answer to a question that has not been asked.
    "before": "import json, os, struct\nb = json.dumps({'value': [1, 3], 'args': []}).encode()\n"
    "os.write(3, struct.pack('>I', len(b)) + b)\ndef order(xs): return 0",
    "twice": "import json, os, struct\ndef order(xs):\n    b = json.dumps({'value': [1, 3], 'args': []}).encode()\n"
    "    os.write(3, (struct.pack('>I', len(b)) + b) * 2)\n    return 0",
    "by a thread": "import json, os, struct, threading, time\ndef late():\n    time.sleep(0.05)\n"
    "    b = json.dumps({'value': [1, 3], 'args': []}).encode()\n    os.write(3, struct.pack('>I', len(b)) + b)\n"
    "threading.Thread(target=late, daemon=True).start()\ndef order(xs):\n    time.sleep(0.2)\n    return 0",
    "by a fork": "import json, os, struct, time\nif os.fork() == 0:\n    time.sleep(0.05)\n"
    "    b = json.dumps({'value': [1, 3], 'args': []}).encode()\n    os.write(3, struct.pack('>I', len(b)) + b)\n"
    "    os._exit(0)\ndef order(xs):\n    time.sleep(0.2)\n    return 0",
}


@pytest.mark.parametrize("name", TURNS)
@pytest.mark.parametrize("kind", ["function", "asserts"])
def test_an_answer_out_of_turn_ends_the_program(judge: CodeJudge, name: str, kind: str) -> None:
    cases = [{"args": [[3, 1]], "expected": [1, 3]}, {"args": [[9, 8]], "expected": [8, 9]}]
    tests = parse_tests(
        {"kind": "function", "entry_point": "order", "cases": cases}
        if kind == "function"
        else {"kind": "asserts", "code": "assert order([3, 1]) == [1, 3]\nassert order([9, 8]) == [8, 9]\n"}
    )
    assert judge.judge(TURNS[name], "python", tests).value == 0.0


FAIR = {
    "threads": "import threading\nr = []\nn = int(input())\nt = threading.Thread(target=lambda: r.append(2 * n))\n"
    "t.start()\nt.join()\nprint(r[0])",
    "recursion": "import sys\nsys.setrecursionlimit(10 ** 5)\ndef f(n, k): return n if k == 0 else f(n, k - 1)\n"
    "print(2 * f(int(input()), 5000))",
    "main guard": "def main():\n    print(2 * int(input()))\nif __name__ == '__main__':\n    main()",
    "buffers": "import sys\nsys.stdout.buffer.write(b'%d' % (2 * int(sys.stdin.buffer.readline())))",
    "tempfile": "import tempfile\nwith tempfile.TemporaryFile() as f:\n    f.write(b'x')\nprint(2 * int(input()))",
    "subprocess": "import subprocess\nn = int(input())\n"
    "print(subprocess.run(['expr', str(n), '*', '2'], capture_output=True, text=True).stdout)",
    "multiprocessing": "from multiprocessing import Pool\ndef f(n): return 2 * n\nif __name__ == '__main__':\n"
    "    n = int(input())\n    with Pool(2) as p: print(p.map(f, [n])[0])",
    "termination": "import time\nfrom multiprocessing import Process\nif __name__ == '__main__':\n    n = int(input())\n"
    "    p = Process(target=time.sleep, args=(1000,))\n    p.start()\n    p.terminate()\n    p.join()\n    print(2 * n)",
    "noise on stderr": "import sys\nprint('debug', file=sys.stderr)\nprint(2 * int(input()))",
    "class": "from typing import List, Optional\nclass Solution:\n    def run(self, xs: List[int]) -> Optional[int]:\n"
    "        return 2 * xs[0]\nprint(Solution().run([int(input())]))",
}


@pytest.mark.parametrize("name", FAIR)
def test_honest_programs_of_many_kinds_score(judge: CodeJudge, name: str) -> None:
    roomy = parse_tests(
        {
            "kind": "stdio",
            "cases": [{"stdin": "21\n", "stdout": "42\n"}],
            "time_limit_s": 5,
            "memory_limit_bytes": 1 << 29,
        }
    )
    result = judge.judge(FAIR[name], "python", roomy)
    assert result.verdict is Verdict.CORRECT, result.detail


def test_typing_names_need_no_import_in_functions(judge: CodeJudge) -> None:
    source = "class Solution:\n    def total(self, xs: List[int]) -> Optional[int]:\n        return sum(xs)\n"
    tests = parse_tests({"kind": "function", "entry_point": "total", "cases": [{"args": [[1, 2]], "expected": 3}]})
    assert judge.judge(source, "python", tests).verdict is Verdict.CORRECT


def test_tests_may_build_and_change_the_solutions_objects(judge: CodeJudge) -> None:
    source = "class Node:\n    def __init__(self, v):\n        self.v, self.next = v, None\n"
    source += "def length(n):\n    return 0 if n is None else 1 + length(n.next)\n"
    code = "a = Node(1)\na.next = Node(2)\na.next.next = Node(3)\nassert length(a) == 3\nassert a.next.v == 2\n"
    assert judge.judge(source, "python", parse_tests({"kind": "asserts", "code": code})).verdict is Verdict.CORRECT


def test_ten_megabytes_of_input_are_read(judge: CodeJudge) -> None:
    numbers = " ".join(map(str, range(1_300_000)))
    case = {"stdin": numbers, "stdout": str(sum(range(1_300_000)))}
    tests = parse_tests({"kind": "stdio", "cases": [case], "time_limit_s": 10, "memory_limit_bytes": 1 << 30})
    result = judge.judge("import sys\nprint(sum(map(int, sys.stdin.read().split())))", "python", tests)
    assert result.verdict is Verdict.CORRECT, result.detail


def test_an_unknown_directory_for_cgroups_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match=r"sandbox\.cgroup must be a cgroup v2 directory"):
        Box(SandboxConfig(cgroup=str(tmp_path / "none"))).start()
