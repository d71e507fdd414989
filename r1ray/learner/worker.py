"""One learner process in one Ray actor, and what it says it is doing.

Learners work in lockstep, so one that dies or hangs stops all. Each keeps a note of the collective it is about to enter
in the cluster's key-value store, where it outlives the process.
"""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

from r1ray.learner.packing import Cost
from r1ray.learner.protocol import LearnerOptions

NAMESPACE = b"r1ray"
PUBLISH_EVERY_S = 0.1
# The calls whose tokens and operations a step's metrics count.
TRAINING = ("accumulate", "finish_step")


@dataclass(frozen=True, slots=True)
class LearnerFacts:
    """What the driver learns from a started learner.

    Attributes:
        cost: of a forward pass, for packing.
        peak_flops_per_s: of the process's device; None where it is not known.
    """

    cost: Cost
    peak_flops_per_s: float | None


class ProgressNote:
    """The newest note of one process, published from a thread so that noting costs nothing."""

    def __init__(self, key: str) -> None:
        """Publish under `key`."""
        self._key = key.encode()
        self._noted = self._published = ""
        threading.Thread(target=self._publish, name="progress-note", daemon=True).start()

    def __call__(self, what: str) -> None:
        """Replace the note."""
        self._noted = what

    def _publish(self) -> None:
        while True:
            noted = self._noted
            if noted != self._published:
                _internal_kv_put(self._key, noted.encode(), overwrite=True, namespace=NAMESPACE)
                self._published = noted
            time.sleep(PUBLISH_EVERY_S)


def read_note(key: str) -> str:
    """Return the last note under `key`; empty where there is none."""
    return (_internal_kv_get(key.encode(), namespace=NAMESPACE) or b"").decode()


def forget_note(key: str) -> None:
    """Drop a note."""
    _internal_kv_del(key.encode(), namespace=NAMESPACE)


class LearnerWorker:
    """One learner process in one Ray actor."""

    def __init__(self, note_key: str) -> None:
        """Keep the progress note under `note_key`."""
        self._learner: Any = None
        self._note = ProgressNote(note_key)
        self._busy_s = 0.0

    def address(self) -> tuple[str, int]:
        """Return this node's address and a free port, for rank 0."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), int(probe.getsockname()[1])

    def start(self, options: LearnerOptions) -> LearnerFacts:
        """Join the others and load the model."""
        from r1ray.learner.policy_learner import PolicyLearner

        self._learner = PolicyLearner(options, self._note)
        return LearnerFacts(self._learner.cost, self._learner.peak_flops_per_s)

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Run one method of the learner; count the time it took if it trains."""
        began = time.perf_counter()
        try:
            return getattr(self._learner, method)(*args, **kwargs)
        finally:
            if method in TRAINING:
                self._busy_s += time.perf_counter() - began

    @ray.method(concurrency_group="watch")  # type: ignore[untyped-decorator]
    def live(self) -> None:
        """Never return, so that the reference to this call tells of the process's end."""
        threading.Event().wait()

    def take_busy_s(self) -> float:
        """Return the seconds spent in training since the last time this was asked."""
        busy, self._busy_s = self._busy_s, 0.0
        return busy
