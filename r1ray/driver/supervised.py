"""Supervised training, top to bottom: the loop of SFT and of reward models.

    examples, shuffled anew each epoch -> batches -> one optimizer step each -> held-out loss -> checkpoint

The order of an epoch is a function of seed and epoch alone, so the step is all that a checkpoint has to remember.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from r1ray.checkpoint import CheckpointStore, RunState
from r1ray.config.schema import Config
from r1ray.data.examples import Examples
from r1ray.errors import DataError, Interrupted, LearnerDied
from r1ray.learner.pending import Pending
from r1ray.learner.pool import LearnerPool
from r1ray.tracking.console import RunConsole
from r1ray.tracking.metrics import MetricsLog
from r1ray.tracking.sinks import Sinks
from r1ray.tracking.timers import Timers
from r1ray.types import TrainingBatch, TrainingSample

WAIT_S = 0.1
# Held-out examples measured by one call of the learner.
MEASURED_TOGETHER = 256


class SupervisedLoop:
    """Owns the order of things."""

    def __init__(
        self,
        config: Config,
        *,
        examples: Examples,
        train: Sequence[int],
        held_out: Sequence[int],
        epochs: int,
        batch_size: int,
        learner: LearnerPool,
        task_metrics: Callable[[Any], dict[str, float]],
        metrics: MetricsLog,
        sinks: Sinks,
        console: RunConsole,
        checkpoints: CheckpointStore,
        interrupted: Callable[[], bool],
        recover: Callable[[LearnerDied], RunState],
        step: int,
    ) -> None:
        """Take the parts.

        Args:
            config: of the run.
            examples: what is learned from.
            train: indices of examples to learn from.
            held_out: indices of examples that measure it.
            epochs: how often each is seen.
            batch_size: examples per optimizer step.
            learner: started, at the weights of `step`.
            task_metrics: turns sums of the learner into metrics.
            metrics: the run's record.
            sinks: further records.
            console: what the user sees.
            checkpoints: of the run.
            interrupted: whether the user asked to stop.
            recover: brings a learner back that died and returns the state of its weights.
            step: optimizer steps done.
        """
        self.config = config
        self.examples = examples
        self.train = train
        self.held_out = held_out
        self.batch_size = batch_size
        self.steps_per_epoch = -(-len(train) // batch_size)
        self.total_steps = epochs * self.steps_per_epoch
        self.learner = learner
        self.task_metrics = task_metrics
        self.metrics = metrics
        self.sinks = sinks
        self.console = console
        self.checkpoints = checkpoints
        self.interrupted = interrupted
        self.recover = recover
        self.step = step
        # The epoch under way and its order.
        self.order: tuple[int, list[int]] | None = None
        self.timers = Timers()

    def run(self) -> None:
        """Train to the end of the last epoch.

        Raises:
            Interrupted: the user asked to stop; a checkpoint is written first.
        """
        death: LearnerDied | None = None
        while True:
            try:
                if death is not None:
                    self.step = self.recover(death).step
                    self.metrics.truncate_after(self.step)
                    self.sinks.go_back(self.step)
                if self.step == 0 and self.metrics.last_step is None:
                    self.record(self.evaluate())
                while self.step < self.total_steps:
                    self.train_step()
                return
            except LearnerDied as found:
                death = found
            except Interrupted:
                self.checkpoint()
                raise

    def train_step(self) -> None:
        """Learn from one batch; evaluate and save where it is due."""
        if self.interrupted():
            raise Interrupted("stopped by the user")
        began = time.perf_counter()
        samples = self.samples_of(self.batch(self.step))
        self.learner.accumulate(TrainingBatch(tuple(samples)), rollout_version=self.step)
        with self.timers.phase("learn"):
            values = self.learner.with_rates(self.wait(self.learner.finish_step())[0])
        self.step += 1
        values |= {"train/epoch": self.step / self.steps_per_epoch, "time/step_s": time.perf_counter() - began}
        if self.evaluation_due:
            values |= self.evaluate()
        self.record(values)
        if self.checkpoint_due:
            self.checkpoint()

    def batch(self, step: int) -> list[int]:
        """Return the indices of the examples of an optimizer step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self.order is None or self.order[0] != epoch:
            shuffled = list(self.train)
            random.Random(f"{self.config.run.seed}/{epoch}").shuffle(shuffled)
            self.order = (epoch, shuffled)
        return self.order[1][place * self.batch_size : (place + 1) * self.batch_size]

    def samples_of(self, indices: Sequence[int]) -> list[TrainingSample]:
        """Return the samples of examples, those of one that cannot be used left out."""
        return [sample for index in indices for sample in self.examples.samples(index) or ()]

    def evaluate(self) -> dict[str, float]:
        """Return the metrics of the held-out examples, named `eval/..`."""
        if not self.held_out:
            return {}
        sums: Counter[str] = Counter()
        with self.timers.phase("eval"):
            for chunk in _chunks(self.held_out, MEASURED_TOGETHER):
                sums.update(self.learner.measure(TrainingBatch(tuple(self.samples_of(chunk)))))
        return {name.replace("train/", "eval/"): value for name, value in self.task_metrics(sums).items()}

    def record(self, values: dict[str, float]) -> None:
        """Write the line of the current step everywhere."""
        line = {"policy_version": self.step, **values, **self.timers.take()}
        self.metrics.write(self.step, line)
        self.sinks.log(self.step, line)
        self.console.step_done(self.step, line)

    def wait(self, pending: Pending) -> list[Any]:
        """Wait for the learner."""
        while not pending.done(WAIT_S):
            pass
        return pending.results()

    @property
    def evaluation_due(self) -> bool:
        """Whether to evaluate after this step: every `eval.every_steps`, at the end of an epoch, and at the end."""
        every = self.config.eval.every_steps
        return self.step % self.steps_per_epoch == 0 or bool(every and self.step % every == 0)

    @property
    def checkpoint_due(self) -> bool:
        """Whether to save after this step: every `checkpoint.every_steps`, and at the end."""
        every = self.config.checkpoint.every_steps
        return self.step == self.total_steps or bool(every and self.step % every == 0)

    def checkpoint(self) -> None:
        """Save everything needed to go on from here."""
        staged = self.checkpoints.stage(self.step)
        self.learner.save(str(staged)).results()
        cursor = data_cursor(self.config.run.seed, self.train, self.held_out, self.batch_size)
        self.checkpoints.commit(staged, RunState(step=self.step, phase=0, cursor=cursor))


def data_cursor(seed: int, train: Sequence[int], held_out: Sequence[int], batch_size: int) -> dict[str, Any]:
    """Return what a place in the data depends on besides the step."""
    return {"seed": seed, "examples": len(train), "held_out": len(held_out), "batch_size": batch_size}


def check_cursor(saved: dict[str, Any], here: dict[str, Any]) -> None:
    """Refuse to go on with other data.

    Raises:
        DataError: the checkpoint was written with other data, where its step means something else.
    """
    for key, value in here.items():
        if saved.get(key) != value:
            raise DataError(
                f"the checkpoint's data {key} is {saved.get(key)}, the config's {value}: resume with the data the run "
                "began with, or start a new run"
            )


def _chunks(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (indices[start : start + size] for start in range(0, len(indices), size))
