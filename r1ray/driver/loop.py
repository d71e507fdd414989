"""GRPO, top to bottom: the loop that turns prompts into a better policy.

    prompts -> G completions each -> grades -> advantages within each group -> policy gradient -> new weights

`max_staleness_steps` is the only difference between on-policy and asynchronous training: it says how many
steps before a rollout phase is trained on its prompts may already be handed out. At 0 a phase starts with
the weights it will update; above 0 later phases generate while the learner works, and go on with new weights
in the middle of a completion, each token remembering the version that made it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from r1ray.checkpoint import CheckpointStore, RunState
from r1ray.config.schema import Config
from r1ray.data.mixture import Cursor
from r1ray.driver.batch import (
    PreparedGroup,
    make_sample,
    needs_whole_phase,
    prepare_groups,
    split_at_random,
    takes_kl_from_rewards,
    training_batch,
)
from r1ray.driver.buffer import GroupBuffer
from r1ray.driver.record import StepRecorder
from r1ray.driver.stream import CompletionStream, make_requests, rollout_sampling
from r1ray.driver.supervise import WeightSync
from r1ray.errors import Interrupted, LearnerDied
from r1ray.learner.pending import Pending
from r1ray.learner.pool import LearnerPool
from r1ray.rewards.terms import reward_weights
from r1ray.types import Group, TrainingBatch

PUMP_WAIT_S = 0.02


@dataclass(slots=True, eq=False)
class Phase:
    """One rollout phase: prompts handed out together, trained on together.

    Attributes:
        index: counts from 0 over the whole run.
        cursor: state of the prompt cursor before this phase took its prompts.
        buffer: where its groups come to.
    """

    index: int
    cursor: dict[str, Any]
    buffer: GroupBuffer


class GrpoLoop:
    """Owns the order of things; every verb is a part's own."""

    def __init__(
        self,
        config: Config,
        *,
        cursor: Cursor,
        stream: CompletionStream,
        learner: LearnerPool,
        weights: WeightSync,
        recorder: StepRecorder,
        checkpoints: CheckpointStore,
        evaluate: Callable[[int], dict[str, float]],
        recover_learner: Callable[[LearnerDied], RunState],
        state: RunState,
    ) -> None:
        self.config = config
        self.cursor = cursor
        self.stream = stream
        self.learner = learner
        self.weights = weights
        self.recorder = recorder
        self.checkpoints = checkpoints
        self.evaluate = evaluate
        self.recover_learner = recover_learner
        per_reward = config.algorithm.advantage == "per_reward_zscore"
        self.reward_weights = reward_weights(config.rewards.terms) if per_reward else {}
        self.step = state.step
        self.next_phase = state.phase
        self.rollout_version = state.step
        self.phases: deque[Phase] = deque()

    def run(self) -> None:
        """Train until `train.steps` optimizer steps are done.

        Raises:
            Interrupted: the user asked to stop; a checkpoint is written first.
        """
        death: LearnerDied | None = None
        while True:
            try:
                if death is not None:
                    self.go_back(self.recover_learner(death))
                self.evaluate_first()
                while self.step < self.config.train.steps:
                    self.train_phase()
                return
            except LearnerDied as found:
                # Also one that died again while it was brought back, until `learner.max_restarts` is used up.
                death = found
            except Interrupted:
                self.checkpoint()
                raise

    def train_phase(self) -> None:
        """Roll out, learn, bring the engines to the new weights, evaluate and save where it is due."""
        self.open_phases()
        phase = self.phases[0]
        for minibatch in self.minibatches(phase):
            for batch in minibatch:
                self.learner.accumulate(batch, rollout_version=self.rollout_version)
            self.finish_step(phase)
        self.sync()
        if self.evaluation_due:
            self.recorder.add(**self.evaluate(self.step))
        self.recorder.flush()
        self.checkpoint_if_due()

    def evaluate_first(self) -> None:
        """Evaluate the policy before training, or what an interrupted run still owes."""
        if self.step == 0:
            if not self.recorder.has_line:
                self.recorder.record_evaluation(self.evaluate(self.step))
        elif self.evaluation_due and self.recorder.reopen():
            self.recorder.add(**self.evaluate(self.step))
            self.recorder.flush()

    def go_back(self, state: RunState) -> None:
        """Go on from an earlier state, as a resumed run would: what came after it is done again."""
        self.step, self.next_phase = state.step, state.phase
        self.cursor.restore(state.cursor)
        self.phases.clear()
        self.stream.abandon()
        self.recorder.go_back(state.step)
        self.weights.sync()

    def open_phases(self) -> None:
        """Hand out the prompts of every phase that may start from the current weights."""
        train = self.config.train
        self.rollout_version = self.step
        ahead = len(self.phases)
        while (
            ahead * train.steps_per_rollout <= train.max_staleness_steps
            and self.step + ahead * train.steps_per_rollout < train.steps
        ):
            cursor = self.cursor.state()
            step = self.step + ahead * train.steps_per_rollout
            prompts = self.cursor.take(train.num_prompts_per_step * train.steps_per_rollout, step=step)
            requests = make_requests(
                prompts,
                namespace=f"train/{self.next_phase}",
                seed=self.config.run.seed,
                group_size=self.config.rollout.group_size,
                sampling=rollout_sampling(self.config.rollout),
                step=step,
            )
            self.phases.append(Phase(self.next_phase, cursor, self.stream.open(requests)))
            self.next_phase += 1
            ahead += 1

    def minibatches(self, phase: Phase) -> Iterator[Iterator[TrainingBatch]]:
        """Yield what each optimizer step of a phase is trained on.

        With one step per phase its batches stream: the learner works on the first groups while others still
        generate, if the algorithm lets a group be judged by itself. With several, completions are split at random over
        the steps, and `old_logprobs` of all of them are taken before the first.
        """
        parts = self.config.train.steps_per_rollout
        if parts == 1:
            yield (training_batch(prepared.samples) for prepared in self.prepared_groups(phase) if prepared.samples)
            return
        samples = [sample for prepared in self.prepared_groups(phase) for sample in prepared.samples]
        if any(sample.old_logprobs is None for sample in samples):
            with self.recorder.timers.phase("learn"):
                old = self.learner.logprobs(TrainingBatch(tuple(samples)))
            samples = [replace(sample, old_logprobs=old[i]) for i, sample in enumerate(samples)]
        parts = min(parts, self.config.train.steps - self.step)
        for batch in split_at_random(samples, parts=parts, seed=f"{self.config.run.seed}/{phase.index}"):
            yield iter([batch])

    def prepared_groups(self, phase: Phase) -> Iterator[PreparedGroup]:
        """Yield a phase's groups with their advantages, in the order they were handed out."""
        algorithm, weights = self.config.algorithm, self.reward_weights
        groups = self.stream.groups(phase.buffer, clock=self.recorder.timers.add)
        if needs_whole_phase(algorithm):
            together = list(groups)
            logprobs = self.both_logprobs(together) if takes_kl_from_rewards(algorithm) else None
            prepared = iter(prepare_groups(together, algorithm, reward_weights=weights, logprobs=logprobs))
        else:
            prepared = (prepare_groups([group], algorithm, reward_weights=weights)[0] for group in groups)
        for one in prepared:
            self.recorder.add_group(one, failed=phase.buffer.errored(one.group.group_id))
            yield one

    def both_logprobs(self, groups: Sequence[Group]) -> dict[tuple[str, int], tuple[Sequence[float], Sequence[float]]]:
        """Return the policy's and the reference's log-probabilities, by group id and sample index."""
        graded = [(g, c) for g in groups for c in g.graded if c.completion.completion_ids]
        keys = [(g.group_id, c.completion.sample_index) for g, c in graded]
        batch = TrainingBatch(tuple(make_sample(g, c) for g, c in graded))
        with self.recorder.timers.phase("learn"):
            old, reference = self.learner.logprobs(batch), self.learner.logprobs(batch, reference=True)
        return {key: (old[i], reference[i]) for i, key in enumerate(keys)}

    def finish_step(self, phase: Phase) -> None:
        """Take the optimizer step: one more policy version, and a phase that is not asked for again."""
        with self.recorder.timers.phase("learn"):
            metrics = self.learner.with_rates(self.wait(self.learner.finish_step())[0])
        self.step += 1
        if phase in self.phases:
            self.phases.remove(phase)
        self.recorder.finish_step(self.step, metrics, throughput=self.stream.take_throughput())

    def sync(self) -> None:
        """Bring every rollout worker to the new weights."""
        with self.recorder.timers.phase("sync"):
            self.recorder.add(**{"sync/probe_diff": self.weights.sync()})

    def wait(self, pending: Pending) -> list[Any]:
        """Wait for the learner while completions keep flowing to the graders."""
        while not pending.done(PUMP_WAIT_S):
            self.stream.pump()
        return pending.results()

    @property
    def evaluation_due(self) -> bool:
        """Whether to evaluate after this step: every `eval.every_steps`, and at the end."""
        return self.crossed(self.config.eval.every_steps) or self.step >= self.config.train.steps

    def checkpoint_if_due(self) -> None:
        """Save every `checkpoint.every_steps`, and at the end."""
        if self.crossed(self.config.checkpoint.every_steps) or self.step >= self.config.train.steps:
            self.checkpoint()

    def crossed(self, every: int) -> bool:
        """Whether the phase just finished reached or passed a multiple of `every`."""
        return bool(every) and self.step // every > (self.step - self.config.train.steps_per_rollout) // every

    def checkpoint(self) -> None:
        """Save everything needed to go on from the last finished phase."""
        oldest = self.phases[0] if self.phases else None
        state = RunState(
            step=self.step,
            phase=oldest.index if oldest else self.next_phase,
            cursor=oldest.cursor if oldest else self.cursor.state(),
        )
        self.recorder.flush()
        staged = self.checkpoints.stage(self.step)
        self.learner.save(str(staged)).results()
        self.checkpoints.commit(staged, state)
