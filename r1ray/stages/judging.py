"""Judges candidates in several processes: reading a million chains of thought takes one processor most of a day."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from typing import TypeVar

from r1ray.stages.selection import Judged, Selector
from r1ray.types import Group

# Completions that are worth a further process, which takes seconds to start.
COMPLETIONS_PER_PROCESS = 5000
_GROUPS_AT_ONCE = 32

T = TypeVar("T")
_selector: Selector


def processes_for(completions: int) -> int:
    """Return how many processes judge so many completions: as many as there are cores at most."""
    return max(1, min(len(os.sched_getaffinity(0)), completions // COMPLETIONS_PER_PROCESS))


def judge_all(selector: Selector, groups: Iterable[Group], *, processes: int) -> Iterator[tuple[Group, list[Judged]]]:
    """Yield every group with what is decided about its completions, in order."""
    if processes == 1:
        yield from ((group, selector.judge(group)) for group in groups)
        return
    pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=_begin, initargs=(selector,))
    try:
        under_way: deque[tuple[list[Group], Future[list[list[Judged]]]]] = deque()
        for chunk in batches(groups, _GROUPS_AT_ONCE):
            under_way.append((chunk, pool.submit(_judge, chunk)))
            if len(under_way) > 2 * processes:
                yield from _zipped(*under_way.popleft())
        while under_way:
            yield from _zipped(*under_way.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _begin(selector: Selector) -> None:
    global _selector
    _selector = selector
    # Ctrl-C reaches all processes of a terminal; the driver decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _judge(groups: list[Group]) -> list[list[Judged]]:
    return [_selector.judge(group) for group in groups]


def _zipped(groups: list[Group], future: Future[list[list[Judged]]]) -> Iterator[tuple[Group, list[Judged]]]:
    yield from zip(groups, future.result(), strict=True)
