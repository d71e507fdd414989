"""What every learner does.

One learner is one process of N; every method but `send_weights` on its own is a collective that all
processes enter together. `learner/policy_learner.py` implements it; `learner/pool.py` drives the N processes over Ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from r1ray.config.schema import AlgorithmConfig, LearnerConfig
from r1ray.learner.packing import Bin
from r1ray.weights.protocol import WeightSyncClient

# What a learner optimises: GRPO, completions that others wrote, or a reward model by pairs or by labels.
TaskName = Literal["policy", "sft", "pairwise", "pointwise"]


@dataclass(frozen=True, slots=True)
class LearnerOptions:
    """What a learner process needs to start; resolved by the driver from the configuration.

    Attributes:
        rank: of this process among `world_size`.
        master_address: where rank 0 listens, with `master_port`.
        temperature: of the rollouts; log-probabilities are taken at it.
        total_steps: for the learning-rate schedule.
        cores: CPU cores this process may use; empty: no restriction.
        timeout_s: deadline of every collective.
        chat_template: that the saved model's tokenizer carries; None: the one it has.
        task: what is learned; `pairwise` and `pointwise` train a reward model.
    """

    model_path: str
    revision: str | None
    trust_remote_code: bool
    dtype: str
    device: str
    rank: int
    world_size: int
    master_address: str
    master_port: int
    temperature: float
    max_completion_tokens: int
    total_steps: int
    seed: int
    cores: tuple[int, ...]
    timeout_s: float
    sync_backend: str
    learner: LearnerConfig
    algorithm: AlgorithmConfig
    task: TaskName = "policy"
    chat_template: str | None = None


class Learner(Protocol):
    """One process of the optimizer."""

    def logprobs(self, micro_batches: Sequence[Bin], *, reference: bool = False) -> list[list[tuple[float, ...]]]:
        """Return log-probabilities of the policy or the reference, per micro-batch and sample: [C] each."""

    def accumulate(self, micro_batches: Sequence[Bin], *, rollout_version: int) -> None:
        """Add the gradient of these micro-batches to the step under way.

        Args:
            micro_batches: this process's share; every process passes equally many.
            rollout_version: the policy version that `old_logprobs` belong to; tokens sampled from it enter
                the logprob mismatch.
        """

    def finish_step(self, micro_batches: Sequence[Bin], *, rollout_version: int) -> dict[str, float]:
        """Add the step's last micro-batches, divide by the global denominator, clip, update.

        Returns:
            Metrics, the same on every process.
        """

    def measure(self, micro_batches: Sequence[Bin]) -> dict[str, float]:
        """Return the sums over samples that nothing is learned from, the same on every process."""

    def refresh_reference(self) -> None:
        """Make the reference model equal to the policy."""

    def score(self, token_ids: Sequence[int]) -> list[float]:
        """Return [T-1] log-probabilities of `token_ids[1:]` at temperature 1, for the sync probe."""

    def connect_rollout(self, client: WeightSyncClient) -> None:
        """Open the weight-transfer channel to the rollout workers behind `client`; rank 0 sends."""

    def send_weights(self) -> int:
        """Send the current weights to every rollout engine and return the version they are stamped with."""

    def save(self, directory: str) -> None:
        """Write sharded training state and, from rank 0, the model in Hugging Face layout."""

    def load(self, directory: str, policy_version: int) -> None:
        """Restore what `save` wrote; world size may differ."""

    def shutdown(self) -> None:
        """Leave the process groups."""
