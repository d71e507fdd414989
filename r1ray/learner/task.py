"""What a learner optimises: the loss of a micro-batch, what it is divided by, and its metrics.

`policy_learner.py` does the rest the same for all of them. Losses are weighted sums over tokens or completions; the
division by the denominator of the whole step comes at the optimizer step, so that loss and gradient do not depend on
how a batch is split, packed or spread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from r1ray.algorithms.aggregation import loss_denominator, token_weights
from r1ray.algorithms.preference import bradley_terry_loss, pointwise_loss
from r1ray.algorithms.supervised import cross_entropy_loss
from r1ray.config.schema import AlgorithmConfig
from r1ray.learner.engine import TrainingEngine
from r1ray.learner.micro_batch import MicroBatch
from r1ray.learner.objective import Objective
from r1ray.learner.protocol import TaskName
from r1ray.learner.sums import Sums


@dataclass(frozen=True, slots=True)
class Versions:
    """Policy versions that statistics need: of the rollouts and of the learner now."""

    rollout: int
    policy: int


class Task(Protocol):
    """One way to learn from micro-batches."""

    def loss(self, engine: TrainingEngine, batch: MicroBatch, versions: Versions) -> tuple[Tensor, Sums]:
        """Run the forward pass; return the sum to differentiate, and sums for the step's statistics."""

    def denominator(self, sums: Mapping[str, float]) -> float:
        """Return what the step's gradient is divided by."""

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Turn the step's sums into metrics; what was not observed is left out."""


class PolicyTask:
    """GRPO and its relatives, as `algorithm` says."""

    def __init__(self, algorithm: AlgorithmConfig, *, temperature: float, max_completion_tokens: int) -> None:
        """Take the configuration, the temperature of the rollouts and the constant of Dr. GRPO."""
        self._algorithm = algorithm
        self._temperature = temperature
        self._objective = Objective(algorithm, max_completion_tokens=max_completion_tokens)

    def loss(self, engine: TrainingEngine, batch: MicroBatch, versions: Versions) -> tuple[Tensor, Sums]:
        """Return the policy loss, with KL and entropy where they are configured."""
        # The reference first: it may be the same module, whose forward pass must precede its backward pass.
        ref_logprobs = batch.ref_logprobs
        if ref_logprobs is None and engine.reference is not None:
            with torch.no_grad():
                ref_logprobs = engine.reference(batch, self._temperature)[0]
        mode = "gradient" if self._algorithm.entropy_coef else "value"
        logprobs, entropy = engine.policy(batch, self._temperature, entropy=mode)
        loss = self._objective(batch, logprobs, entropy, ref_logprobs)
        trained = batch.trained[batch.sample_index].double()
        same_version = (batch.policy_versions == versions.rollout).double()
        with torch.no_grad():
            sums: Sums = {
                "trained_tokens": trained.sum(),
                # Each token's share of its prompt: they add up to the number of prompts.
                "trained_prompts": (trained / batch.group_tokens.clamp(min=1)[batch.sample_index]).sum(),
                "trained_completions": batch.trained.double().sum(),
                "weighted_policy_loss": (loss.policy_loss * loss.weight).double().sum(),
                "entropy": (loss.entropy.double() * trained).sum(),
                "clipped": (loss.clipped.double() * trained).sum(),
                "importance": (loss.importance.double() * trained).sum(),
                "mismatch": ((batch.rollout_logprobs - loss.old_logprobs).abs().double() * same_version).sum(),
                "mismatch_tokens": same_version.sum(),
                "staleness": ((versions.policy - batch.policy_versions).double() * trained).sum(),
            }
            if engine.reference is not None:
                sums["kl"] = (loss.kl.double() * trained).sum()
        return loss.total, sums

    def denominator(self, sums: Mapping[str, float]) -> float:
        """Return trained tokens, completions or prompts of the step, by the aggregation."""
        return loss_denominator(
            num_tokens=round(sums["trained_tokens"]),
            num_completions=round(sums["trained_completions"]),
            num_prompts=round(sums["trained_prompts"]),
            aggregation=self._algorithm.loss_aggregation,
        )

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Return means over the trained tokens."""
        metrics = {}
        if sums["mismatch_tokens"]:
            metrics["train/logprob_mismatch"] = sums["mismatch"] / sums["mismatch_tokens"]
        tokens = sums["trained_tokens"]
        if not tokens:
            return metrics
        means = {
            "train/entropy": "entropy",
            "train/clip_fraction": "clipped",
            "train/importance_weight_mean": "importance",
            "train/staleness_mean_steps": "staleness",
            "train/kl": "kl",
        }
        metrics |= {name: sums[key] / tokens for name, key in means.items() if key in sums}
        metrics["train/policy_loss"] = sums["weighted_policy_loss"] / self.denominator(sums)
        return metrics


class SftTask:
    """Cross entropy of completions that somebody else wrote; no loss falls on prompts."""

    def __init__(self, algorithm: AlgorithmConfig, *, max_completion_tokens: int) -> None:
        """Take the aggregation and the constant of Dr. GRPO."""
        self._aggregation = algorithm.loss_aggregation
        self._max_completion_tokens = max_completion_tokens

    def loss(self, engine: TrainingEngine, batch: MicroBatch, versions: Versions) -> tuple[Tensor, Sums]:
        """Return the weighted negative log-likelihood."""
        logprobs, _ = engine.policy(batch, 1.0)
        weights = token_weights(
            batch.lengths,
            aggregation=self._aggregation,
            max_completion_tokens=self._max_completion_tokens,
            group_tokens=batch.group_tokens,
        )
        nll = cross_entropy_loss(logprobs)
        count, index = len(batch.lengths), batch.sample_index
        sums: Sums = {
            "loss": nll.detach().double().sum(),
            "trained_tokens": float(len(nll)),
            "trained_completions": float(count),
            "trained_prompts": (1 / batch.group_tokens.clamp(min=1).double())[index].sum(),
        }
        return (nll * weights[index].to(nll.dtype)).sum(), sums

    def denominator(self, sums: Mapping[str, float]) -> float:
        """Return tokens, completions or prompts of the step, by the aggregation."""
        return loss_denominator(
            num_tokens=round(sums["trained_tokens"]),
            num_completions=round(sums["trained_completions"]),
            num_prompts=round(sums["trained_prompts"]),
            aggregation=self._aggregation,
        )

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Return the loss per token in nats."""
        tokens = sums["trained_tokens"]
        return {"train/loss": sums["loss"] / tokens, "train/tokens": tokens} if tokens else {}


class PreferenceTask:
    """A reward model: pairs (the chosen completion scores above the rejected one) or labels, good or bad.

    A sample's advantage says what it is: 1 chosen or good, -1 rejected or bad. The two of a pair follow each other
    in one micro-batch.
    """

    def __init__(self, *, pairwise: bool) -> None:
        """Choose pairs or labels."""
        self._pairwise = pairwise

    def loss(self, engine: TrainingEngine, batch: MicroBatch, versions: Versions) -> tuple[Tensor, Sums]:
        """Return the sum of the losses of pairs, or of labelled completions."""
        score: Callable[..., Any] = engine.policy
        scores = score(batch)
        good = batch.advantages > 0
        if self._pairwise:
            chosen, rejected = scores[good], scores[~good]
            losses = bradley_terry_loss(chosen, rejected)
            margin = (chosen - rejected).detach()
            right = (margin > 0).double() + 0.5 * (margin == 0).double()
        else:
            losses = pointwise_loss(scores, good)
            margin = torch.where(good, scores, -scores).detach()
            right = (margin > 0).double() + 0.5 * (margin == 0).double()
        detached = scores.detach().double()
        sums: Sums = {
            "loss": losses.detach().double().sum(),
            "examples": float(len(losses)),
            "right": right.sum(),
            "margin": margin.double().sum(),
            "good": good.double().sum(),
            "good_scores": (detached * good).sum(),
            "good_squares": (detached.square() * good).sum(),
        }
        return losses.sum(), sums

    def denominator(self, sums: Mapping[str, float]) -> float:
        """Return the number of pairs, or of labelled completions."""
        return sums["examples"]

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Return loss, accuracy, margin, and the scores of what is chosen or good."""
        examples, good = sums["examples"], sums["good"]
        if not examples:
            return {}
        metrics = {
            "train/loss": sums["loss"] / examples,
            "train/accuracy": sums["right"] / examples,
            "train/margin_mean": sums["margin"] / examples,
        }
        if good:
            mean = sums["good_scores"] / good
            metrics["train/score_mean"] = mean
            metrics["train/score_std"] = max(0.0, sums["good_squares"] / good - mean**2) ** 0.5
        return metrics


def make_task(name: TaskName, algorithm: AlgorithmConfig, *, temperature: float, max_completion_tokens: int) -> Task:
    """Return the named task."""
    if name == "policy":
        return PolicyTask(algorithm, temperature=temperature, max_completion_tokens=max_completion_tokens)
    if name == "sft":
        return SftTask(algorithm, max_completion_tokens=max_completion_tokens)
    return PreferenceTask(pairwise=name == "pairwise")
