"""Looks at all processes of a program: what they use, and whether any is left."""

from __future__ import annotations

import contextlib
import os
import resource
from dataclasses import dataclass

PAGE_BYTES = resource.getpagesize()
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """What processes use together.

    Attributes:
        cpu_s: processor time so far, that of reaped children included.
        threads: alive now.
        resident_bytes: pages in memory, shared ones counted once for each process.
    """

    cpu_s: float
    threads: int
    resident_bytes: int


def children_of(root: int) -> list[int]:
    """Return every living descendant of a process."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := stat_fields(int(name))):
            parents.setdefault(int(fields[1]), []).append(int(name))
    found, queue = [], [root]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


def stat_fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name, which may hold anything; empty where it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].decode().split()
    except OSError:
        return []


def usage_of(pids: list[int]) -> Usage:
    """Add up what processes use."""
    ticks = threads = pages = 0
    for pid in pids:
        if len(fields := stat_fields(pid)) > 21:
            ticks += sum(int(field) for field in fields[11:15])
            threads += int(fields[17])
            pages += int(fields[21])
    return Usage(ticks * TICK_S, threads, pages * PAGE_BYTES)


def memory_of(pids: list[int], *, forked_bytes: int) -> int:
    """Return the bytes that processes hold, files aside; pages they share count once where the kernel tells.

    Args:
        pids: of the processes.
        forked_bytes: what each fork has from the runner, and which costs nothing until it is written to.
    """
    total = 0
    for pid in pids:
        exact = _fields(f"/proc/{pid}/smaps_rollup", (b"Pss_Anon:", b"Pss_Shmem:"))
        if exact is None:
            counted = _fields(f"/proc/{pid}/status", (b"RssAnon:", b"RssShmem:"))
            exact = max(0, (counted or 0) - forked_bytes)
        total += exact
    return total


def _fields(path: str, names: tuple[bytes, ...]) -> int | None:
    """Add up fields in kB; None where the file cannot be read or has none of them."""
    total = None
    with contextlib.suppress(OSError), open(path, "rb") as file:
        for line in file:
            if line.startswith(names):
                total = (total or 0) + int(line.split()[1]) * 1024
    return total


def own_private_bytes() -> int:
    """Return what this process holds for itself."""
    return _fields("/proc/self/status", (b"RssAnon:",)) or 0
