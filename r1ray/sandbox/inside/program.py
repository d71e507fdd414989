"""Turns a fork of the runner into a program: its streams, user, limits and filter; then runs it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from r1ray.sandbox.inside.guest import finish, script, serve, test
from r1ray.sandbox.inside.remote import CHANNEL, text_of

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 4, 22, 36, 38
SECCOMP_MODE_FILTER = 2
FAILED = 1
FILTER_INSTRUCTION_BYTES = 8
DESCRIPTORS = 128
KINDS = {"script": script, "serve": serve, "test": test}


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def become_program(
    case: dict[str, Any], *, standard: Sequence[int], channel: int, uid: int | None, seccomp: bytes, own_user: bool
) -> NoReturn:
    """Turn this fork into the program; never returns.

    Args:
        case: see `runner.py`.
        standard: what becomes descriptors 0, 1 and 2.
        channel: what becomes descriptor 3 of programs that are talked to.
        uid: user to become; None: the program keeps the runner's.
        seccomp: filter as a BPF program; empty: none.
        own_user: no process outside the sandbox is of the program's user.
    """
    code = FAILED
    try:
        os.setsid()
        kind = case["kind"]
        _take_descriptors(standard, channel if kind in ("serve", "test") else None)
        _lower_oom_priority()
        LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if uid is not None:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        _limit(case, own_user=own_user)
        # The runner, which is not, has to see what memory the program shares with its own forks.
        LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # The runner ignores these, and a program that inherited that could not end its own processes.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        _filter_calls(seccomp)
        if kind == "exec":
            for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            os.execv(case["argv"][0], case["argv"])
        code = KINDS[kind](case)
    except SystemExit as stop:
        finish()
        code = _exit_code(stop)
    except BaseException as error:
        _say(error)
    finally:
        _flush()
        os._exit(code)


def _take_descriptors(standard: Sequence[int], channel: int | None) -> None:
    # Out of the way first: the numbers below may be in use for each other.
    high = [os.dup2(descriptor, 100 + i) for i, descriptor in enumerate([*standard, *([channel] if channel else [])])]
    for number, descriptor in enumerate(high):
        os.dup2(descriptor, number)
    os.closerange(CHANNEL + 1 if channel else CHANNEL, 1 << 16)


def _lower_oom_priority() -> None:
    """Have the kernel kill the program and not the runner where memory runs out."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _limit(case: dict[str, Any], *, own_user: bool) -> None:
    limits = {
        resource.RLIMIT_CPU: max(1, int(case["cpu_s"]) + 2),
        resource.RLIMIT_AS: case["address_bytes"],
        resource.RLIMIT_FSIZE: case["output_bytes"] + 1,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: DESCRIPTORS,
        resource.RLIMIT_STACK: case["memory_bytes"],
        resource.RLIMIT_MSGQUEUE: 0,
    }
    # A user that has other processes on the machine could start none.
    if own_user:
        limits[resource.RLIMIT_NPROC] = case["processes"]
    for kind, value in limits.items():
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # gVisor does not know all of them, and never takes those; the others are lowered, which always goes.
        with contextlib.suppress(ValueError):
            resource.setrlimit(kind, (value, value))


def _filter_calls(seccomp: bytes) -> None:
    if not seccomp:
        return
    program = _FilterProgram(len(seccomp) // FILTER_INSTRUCTION_BYTES, seccomp)
    if LIBC.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "the kernel took no seccomp filter")


def _exit_code(stop: SystemExit) -> int:
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    _say(stop)
    return FAILED


def _say(error: BaseException) -> None:
    text = f"{type(error).__name__}: {text_of(error)}"
    os.write(2, text[:1500].encode("utf-8", "replace"))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
