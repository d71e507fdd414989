"""What a backend says about how to start a runner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Prepared:
    """How to start an interpreter in a sandbox.

    Attributes:
        command: makes the command of the interpreter's arguments.
        library: directory inside that holds the package r1ray.
        settings: of the runner, see `inside/runner.py`.
        descriptors: to hand on; closed afterwards.
        environment: of the command.
        paths: see `backend.Launched`.
        cleanup: see `backend.Launched`.
    """

    command: Callable[[list[str]], list[str]]
    library: str
    settings: dict[str, Any]
    descriptors: Sequence[int] = ()
    environment: dict[str, str] = field(default_factory=dict)
    paths: Sequence[tuple[str, str]] = ()
    cleanup: list[Callable[[], None]] = field(default_factory=list)
