"""Cgroup v2 limits of a sandbox, where this process may make cgroups.

One directory per sandbox, below one that has been delegated to r1ray: `sandbox.cgroup`, or this process's own cgroup or
its parent. Where none can be had (version 1, a read-only mount, no delegation), limits of single processes and the
runner's watch over their sum have to do.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from r1ray.errors import SandboxError

_ROOT = Path("/sys/fs/cgroup")
_NEEDED = {"memory", "pids"}
# What the runner and its start need beside a program.
_SPARE_BYTES = 1 << 28
_SPARE_PIDS = 32
_PERIOD_US = 100_000
_REMOVE_S = 2.0
_numbers = count()


@dataclass(frozen=True, slots=True)
class Cgroup:
    """The cgroup of one sandbox."""

    path: Path

    def enter(self, command: Sequence[str]) -> list[str]:
        """Return a command that enters it before it becomes another; one that cannot enter does not start."""
        return ["/bin/sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self.path), *command]

    def limit(self, *, memory_bytes: int, processes: int, cores: float) -> None:
        """Limit what everything in it may use together.

        Args:
            memory_bytes: of programs; swap is off.
            processes: of programs, threads included.
            cores: processors' worth of time.
        """
        values = {
            "memory.max": str(memory_bytes + _SPARE_BYTES),
            "memory.swap.max": "0",
            "pids.max": str(processes + _SPARE_PIDS),
            "cpu.max": f"{int(cores * _PERIOD_US)} {_PERIOD_US}",
        }
        for name, value in values.items():
            # Without swap, or without the cpu controller, there is no such file.
            with contextlib.suppress(OSError):
                (self.path / name).write_text(value)

    def memory_kills(self) -> int:
        """Return how many processes the kernel has killed in it for want of memory."""
        with contextlib.suppress(OSError):
            for line in (self.path / "memory.events").read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
        return 0

    def kill(self) -> None:
        """Kill everything in it, where the kernel can (5.14)."""
        with contextlib.suppress(OSError):
            (self.path / "cgroup.kill").write_text("1")

    def remove(self) -> None:
        """Remove it; its processes may take a moment to be gone."""
        until = time.monotonic() + _REMOVE_S
        while self.path.is_dir():
            try:
                self.path.rmdir()
            except OSError:
                if time.monotonic() > until:
                    return
                time.sleep(0.01)


def make_cgroup(configured: str | None) -> Cgroup | None:
    """Make a cgroup for one sandbox; None where none can be had.

    Args:
        configured: `sandbox.cgroup`; None looks for one.

    Raises:
        SandboxError: the configured directory does not do.
    """
    parent = find_parent(configured)
    if parent is None:
        return None
    path = parent / f"r1ray-{os.getpid()}-{next(_numbers)}"
    try:
        path.mkdir()
    except OSError as error:
        if configured is not None:
            raise SandboxError(f"sandbox.cgroup={configured}: no cgroup can be made there: {error}") from error
        return None
    return Cgroup(path)


@functools.cache
def find_parent(configured: str | None) -> Path | None:
    """Return the cgroup to make others in; None where there is none.

    Raises:
        SandboxError: the configured directory does not do, and why.
    """
    if configured is not None:
        path = Path(configured)
        lacking = _NEEDED - _controllers(path / "cgroup.subtree_control")
        if not path.is_dir() or lacking:
            raise SandboxError(
                f"sandbox.cgroup must be a cgroup v2 directory that hands memory and pids on to its children, got "
                f"{configured!r} without {', '.join(sorted(lacking))}: `echo '+memory +pids +cpu' > "
                f"{configured}/cgroup.subtree_control`, or set it to null"
            )
        return path
    own = _own_cgroup()
    for path in () if own is None else (own, own.parent):
        if not _NEEDED - _controllers(path / "cgroup.subtree_control") and os.access(path, os.W_OK):
            return path
    return None


def _own_cgroup() -> Path | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                return _ROOT / line[3:].lstrip("/")
    return None


def _controllers(file: Path) -> set[str]:
    with contextlib.suppress(OSError):
        return set(file.read_text().split())
    return set()
