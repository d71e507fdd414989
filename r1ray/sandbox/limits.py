"""Limits that a child process puts on itself before it touches untrusted work.

Time is counted as processor time, so that a busy machine does not turn right answers into timeouts; the parent
kills at `WALL_FACTOR` times as much wall clock time (see `child.py`), which also ends work that sleeps or has
disarmed its timers. Isolation from files and network is not here.
"""

from __future__ import annotations

import contextlib
import math
import resource
import signal
import sys
from dataclasses import dataclass

# Wall clock time allowed for each second of processor time.
WALL_FACTOR = 4.0
# The backstop comes this much later than the limits, so that a living parent kills first.
_GRACE_S = 2.0
# What a child may write to any one file; its stderr is a file.
_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """What one child may use.

    Attributes:
        memory_bytes: address space; beyond it allocations fail with MemoryError.
        recursion: depth of Python's stack.
    """

    memory_bytes: int
    recursion: int = 2000


def apply_limits(limits: Limits) -> None:
    """Limit this process; nothing it starts later can undo that, except for the recursion depth."""
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, _FILE_BYTES)
    _lower(resource.RLIMIT_AS, limits.memory_bytes)
    sys.setrecursionlimit(limits.recursion)


def arm_timers(time_limit_s: float) -> None:
    """Have the kernel end this process when the coming work takes too long.

    The kernel's default for these signals acts without Python's help, so it also ends a process stuck inside C
    code, and one whose parent is gone.

    Args:
        time_limit_s: processor time, exact; wall clock time and RLIMIT_CPU follow as a backstop.
    """
    for alarm in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(alarm, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, time_limit_s)
    signal.setitimer(signal.ITIMER_REAL, time_limit_s * WALL_FACTOR + _GRACE_S)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = math.ceil(usage.ru_utime + usage.ru_stime + time_limit_s + _GRACE_S)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if hard == resource.RLIM_INFINITY or cpu_s < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, hard))


def disarm_timers() -> None:
    """Let this process wait for its next work as long as it takes."""
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)


def ended_by_timer(returncode: int | None) -> bool:
    """Tell whether a process with this return code was ended by one of its timers."""
    return returncode in (-signal.SIGPROF, -signal.SIGALRM, -signal.SIGXCPU)


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    # macOS refuses RLIMIT_AS; there the time limit has to do.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (value, value))
