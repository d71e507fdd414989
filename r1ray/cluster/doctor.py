"""Says what the sandbox can enforce on this machine, by trying it.

Each protection is tried from inside, by a program that a policy could have written: it is held if the program could
not do what it tried. Says nothing of other machines of a cluster.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from r1ray.config.schema import SandboxConfig
from r1ray.errors import GraderError, SandboxError
from r1ray.rewards.code.languages import LANGUAGES, toolchain
from r1ray.sandbox.box import Box, RunLimits, RunResult
from r1ray.sandbox.gvisor import find_runsc

_LIMITS = RunLimits(cpu_s=2.0, wall_s=8.0, memory_bytes=1 << 28)
_SHORT = RunLimits(cpu_s=1.0, wall_s=1.0, memory_bytes=1 << 28)

# name: what a program tries; it fails where the protection is held.
_ATTEMPTS = {
    "host files hidden": "import os\nassert os.path.exists('/etc/passwd') or os.listdir('/root')",
    "system read-only": "import os\nopen('/usr/.r1ray-probe', 'w')\nos.unlink('/usr/.r1ray-probe')",
    "root read-only": "import os\nopen('/.r1ray-probe', 'w')\nos.unlink('/.r1ray-probe')",
    "other processes hidden": "import os\nassert len([p for p in os.listdir('/proc') if p.isdigit()]) > 3",
    "runner cannot be signalled": "import os\nos.kill(os.getppid(), 19)",
    "runner's memory closed": "import os\nopen(f'/proc/{os.getppid()}/mem', 'rb')",
    "runner's pipes closed": "import os\nreached = []\nfor pid in (1, os.getppid()):\n    for fd in (0, 1):\n"
    "        try:\n            reached.append(os.open(f'/proc/{pid}/fd/{fd}', os.O_RDWR | os.O_NONBLOCK))\n"
    "        except OSError:\n            pass\nassert reached",
    "environment empty": "import os\nassert set(os.environ) - {'PATH', 'HOME', 'LANG', 'PWD', 'LC_CTYPE', 'TMPDIR'}",
    "no inherited descriptors": "import os\nassert [d for d in os.listdir('/proc/self/fd') if int(d) > 4]",
    "unprivileged user": "import os\nassert os.getuid() == 0",
    "no new privileges": "assert 'NoNewPrivs:\\t0' in open('/proc/self/status').read()",
    "no capabilities": "text = open('/proc/self/status').read()\n"
    "assert int(next(x for x in text.splitlines() if x.startswith('CapEff')).split()[1], 16)",
}
# System calls that no program has a use for: (number on x86-64 and on ARM, arguments).
_CALLS = {
    "ptrace": ((101, 117), "0, 0, 0, 0"),
    "mount": ((165, 40), "b'x', b'/tmp', b'tmpfs', 0, 0"),
    "keyctl": ((250, 219), "0, -3, 0"),
    "bpf": ((321, 280), "0, 0, 0"),
    "perf_event_open": ((298, 241), "bytes(120), 0, -1, -1, 0"),
    "userfaultfd": ((323, 282), "0"),
    "io_uring_setup": ((425, 425), "1, bytes(120)"),
    "unshare": ((272, 97), "0x10000000"),
}


@dataclass(frozen=True, slots=True)
class Check:
    """What one attempt showed.

    Attributes:
        name: of the protection.
        held: None where it only informs.
        detail: what was seen, or the remedy.
    """

    name: str
    held: bool | None
    detail: str = ""


def diagnose(sandbox: SandboxConfig) -> list[Check]:
    """Try each protection of the configured sandbox; returns what was seen.

    A sandbox that cannot be started is one check that is not held, with the remedy.
    """
    try:
        with Box(sandbox) as box:
            began = time.perf_counter()
            box.run({"kind": "script", "source": ""}, _LIMITS)
            took_ms = 1000 * (time.perf_counter() - began)
            checks = [Check("sandbox starts", True, f"{sandbox.backend}, {took_ms:.0f} ms")]
            checks.append(_network(box))
            checks += [_attempt(box, name, source) for name, source in _ATTEMPTS.items()]
            checks += [_call(box, name) for name in _CALLS]
            checks += [_limit(box, name) for name in _LIMIT_ATTEMPTS]
            checks.append(_cgroup(box))
    except SandboxError as error:
        checks = [Check("sandbox starts", False, str(error))]
    return [*checks, _gvisor(), *(_language(name) for name in LANGUAGES)]


def _attempt(box: Box, name: str, source: str) -> Check:
    body = "".join(f"    {line}\n" for line in source.splitlines())
    program = (
        f"try:\n{body}except AssertionError:\n    print('held')\n"
        "except BaseException as error:\n    print('held', repr(error)[:80])\nelse:\n    print('reached')\n"
    )
    result = box.run({"kind": "script", "source": program}, _LIMITS)
    return Check(name, result.stdout.startswith("held"), _seen(result))


def _network(box: Box) -> Check:
    """Listen on this machine, and have a program inside try to connect."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        return _attempt(box, "no network", f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)")


def _call(box: Box, name: str) -> Check:
    (x86, arm), arguments = _CALLS[name]
    source = (
        "import ctypes, errno, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"number = {x86} if os.uname().machine == 'x86_64' else {arm}\n"
        f"done = libc.syscall(number, {arguments})\nname = errno.errorcode.get(ctypes.get_errno(), '')\n"
        "print('held' if done < 0 and name in ('EPERM', 'ENOSYS') else 'reached', name)\n"
    )
    result = box.run({"kind": "script", "source": source}, _LIMITS)
    return Check(f"{name} refused", result.stdout.startswith("held"), _seen(result))


# name: program, limits, and whether what came of it shows that the limit is held.
_LIMIT_ATTEMPTS: dict[str, tuple[str, RunLimits, Callable[[RunResult], bool]]] = {
    "memory limited": (
        "print(len(b'x' * (1 << 30)))",
        _LIMITS,
        lambda result: not result.ok,
    ),
    "memory of several processes limited": (
        "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n"
        "        block = bytearray(os.urandom(1 << 20)) * 120\n        time.sleep(3)\n"
        "        os._exit(0)\nfor _ in range(4): os.wait()",
        _LIMITS,
        lambda result: not result.ok,
    ),
    "processes limited": (
        "import os, time\ncount = 0\nwhile count < 1000:\n    if os.fork() == 0:\n        time.sleep(5)\n"
        "        os._exit(0)\n    count += 1\nprint(count)",
        _LIMITS,
        lambda result: "1000" not in result.stdout,
    ),
    "processor time limited": ("while True: pass", _SHORT, lambda result: result.timeout),
    "time on the clock limited": ("import time\ntime.sleep(60)", _SHORT, lambda result: result.timeout),
    "output limited": (
        "while True: print('x' * 4096)",
        _LIMITS,
        lambda result: result.truncated or result.timeout,
    ),
    "disk limited": (
        "for i in range(256):\n    open(f'{i}', 'wb').write(bytes(1 << 20))\nprint('written')",
        _LIMITS,
        lambda result: "No space" in result.stderr or result.truncated,
    ),
    "nothing survives": (
        "import os, time\nready, tell = os.pipe()\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        os.write(tell, str(os.getpid()).encode())\n        time.sleep(30)\n    os._exit(0)\n"
        "open('left', 'w')\nprint(os.read(ready, 20).decode())",
        _LIMITS,
        lambda result: result.ok,
    ),
}


def _limit(box: Box, name: str) -> Check:
    source, limits, is_held = _LIMIT_ATTEMPTS[name]
    result = box.run({"kind": "script", "source": source}, limits)
    held = is_held(result)
    if name == "nothing survives":
        probe = f"import os\nprint(os.path.exists('/proc/{result.stdout.strip()}'), os.listdir('.'))"
        result = box.run({"kind": "script", "source": probe}, _LIMITS)
        held = held and result.stdout.split() == ["False", "[]"]
        return Check(name, held, "" if held else result.stdout.strip())
    return Check(name, held, _seen(result))


def _cgroup(box: Box) -> Check:
    if box.has_cgroup:
        return Check("cgroup v2", None, "each sandbox has one: memory, processes and processor time are the kernel's")
    return Check("cgroup v2", None, "none can be had here: limits of processes and a watch over their sum stand in")


def _gvisor() -> Check:
    try:
        return Check("gVisor", None, find_runsc())
    except SandboxError as error:
        return Check("gVisor", None, str(error))


def _language(name: str) -> Check:
    try:
        tools = toolchain(name, "")
    except GraderError as error:
        return Check(f"language {name}", None, str(error))
    return Check(f"language {name}", None, " ".join((tools.compile or tools.run or ("this Python",))[:1]))


def _seen(result: RunResult) -> str:
    for flag in ("timeout", "memory", "processes", "truncated", "died"):
        if getattr(result, flag):
            return f"stopped: {flag}"
    return " ".join((result.stdout or result.stderr).removeprefix("held").split())[:80]
