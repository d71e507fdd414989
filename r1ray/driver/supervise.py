"""Keeps rollout engines at the learner's weights, and the learner alive: sync, verify, recover.

A sync counts only when every engine stamps the new version and gives the probe the learner's
log-probabilities. A rollout worker that died is replaced and brought to the current version before the work
it owed is handed out again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from r1ray.checkpoint import CheckpointStore, RunState
from r1ray.errors import LearnerDied, LearnerError, WeightSyncError
from r1ray.learner.pool import LearnerPool
from r1ray.rollout.pool import RolloutPool
from r1ray.types import GroupRequest

logger = logging.getLogger(__name__)

DEFAULT_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}


class WeightSync:
    """The channel from the learner to all rollout workers."""

    def __init__(
        self,
        learner: LearnerPool,
        rollout: RolloutPool,
        *,
        probe_ids: Sequence[int],
        tolerance: float,
        ranks_per_worker: int,
        timeout_s: float,
    ) -> None:
        self._learner = learner
        self._rollout = rollout
        self._probe_ids = tuple(probe_ids)
        self._tolerance = tolerance
        self._ranks_per_worker = ranks_per_worker
        self._timeout_s = timeout_s

    def connect(self) -> None:
        """Open the channel to the workers as they are now."""
        self._learner.connect_rollout(
            self._rollout.handles, ranks_per_worker=self._ranks_per_worker, timeout_s=self._timeout_s
        )

    def sync(self) -> float:
        """Send the learner's weights everywhere, stamped with the learner's version, and verify them.

        Returns:
            The largest mean absolute log-probability difference of a worker on the probe.

        Raises:
            WeightSyncError: an engine does not sample from the weights it was sent.
        """
        try:
            return self._send()
        except WeightSyncError as error:
            self._rollout.poll(0.0)
            if not self._rollout.has_failed:
                raise
            logger.warning("a weight sync met a dead worker: %s", error)
            return self._renew()

    def recover(self) -> list[GroupRequest]:
        """Replace dead workers, bring all to the learner's version, return the work they owed.

        In the middle of a phase the learner may have taken steps since the last sync.
        """
        lost = self._rollout.replace_failed()
        self._renew_channel()
        return lost

    def _renew(self) -> float:
        lost = self._rollout.replace_failed()
        difference = self._renew_channel()
        self._rollout.submit(lost)
        return difference

    def _renew_channel(self) -> float:
        self.connect()
        return self._send()

    def _send(self) -> float:
        sent: int = self._learner.send_weights().results()[0]
        expected = self._learner.score(self._probe_ids)
        worst = 0.0
        for worker, scores in self._rollout.score(self._probe_ids).items():
            difference = sum(abs(a - b) for a, b in zip(scores, expected, strict=True)) / len(expected)
            worst = max(worst, difference)
            if not difference <= self._tolerance:
                raise WeightSyncError(
                    f"{worker} does not sample from policy version {sent}: on the probe its "
                    f"log-probabilities differ from the learner's by {difference:.2e} on average, allowed is "
                    f"sync.probe_tolerance={self._tolerance:g}"
                )
        for worker, version in self._rollout.policy_versions().items():
            if version != sent:
                raise WeightSyncError(f"{worker} reports policy version {version} after a sync of version {sent}")
        return worst


class LearnerRecovery:
    """Starts the learner again from the newest checkpoint after one of its processes died."""

    def __init__(
        self,
        learner: LearnerPool,
        checkpoints: CheckpointStore,
        *,
        max_restarts: int,
        on_event: Callable[..., None],
        say: Callable[[str], None],
        initial: RunState | None = None,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the parts.

        Args:
            learner: whose processes are watched.
            checkpoints: of the run.
            max_restarts: before the run ends.
            on_event: takes a kind and fields.
            say: tells the user something.
            initial: where a run without a checkpoint begins; None: at step 0.
            then: brings those that depend on the learner back to it.
        """
        self._learner = learner
        self._checkpoints = checkpoints
        self._restarts_left = max_restarts
        self._on_event = on_event
        self._say = say
        self._initial = initial or RunState(step=0, phase=0, cursor={})
        self._then = then

    def __call__(self, death: LearnerDied) -> RunState:
        """Bring the learner back and return the state of the run that its weights belong to.

        Raises:
            LearnerError: `learner.max_restarts` is used up.
            LearnerDied: it died again meanwhile.
        """
        self._on_event("learner_died", reason=str(death), restarts_left=self._restarts_left)
        if self._restarts_left <= 0:
            raise LearnerError(f"{death}; learner.max_restarts is used up") from death
        self._restarts_left -= 1
        self._learner.restart()
        newest = self._checkpoints.newest()
        state = newest[1] if newest else self._initial
        if newest:
            self._learner.load(newest[0], state.step)
        self._then()
        self._on_event("learner_restarted", step=state.step, restarts_left=self._restarts_left)
        self._say(f"{death}\nlearner started again, going on from step {state.step}")
        return state
