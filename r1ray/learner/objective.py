"""The loss of one micro-batch, as `algorithm` configures it.

Everything is a weighted sum over tokens; the division by the global denominator comes at the optimizer step, so loss
and gradient do not depend on how a batch is split, packed or spread.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from r1ray.algorithms.aggregation import token_weights
from r1ray.algorithms.importance import importance_weights
from r1ray.algorithms.kl import kl_estimate
from r1ray.algorithms.policy_losses import policy_loss
from r1ray.config.schema import AlgorithmConfig
from r1ray.learner.micro_batch import MicroBatch


@dataclass(frozen=True, slots=True)
class MicroBatchLoss:
    """The loss of N tokens, and what it is made of.

    Attributes:
        total: scalar, the weighted sum that is differentiated.
        weight: [N] float32, of each token in the sum; 0 where it is not trained on.
        policy_loss: [N] float32, after importance weights.
        kl: [N] float32, to the reference; zeros without one.
        entropy: [N] float32.
        clipped: [N] bool, tokens whose gradient the clip has cut.
        importance: [N] float32.
        old_logprobs: [N] float32.
    """

    total: Tensor
    weight: Tensor
    policy_loss: Tensor
    kl: Tensor
    entropy: Tensor
    clipped: Tensor
    importance: Tensor
    old_logprobs: Tensor


class Objective:
    """Computes `MicroBatchLoss` from log-probabilities."""

    def __init__(self, algorithm: AlgorithmConfig, *, max_completion_tokens: int) -> None:
        """Take the configuration and the constant of Dr. GRPO."""
        self._algorithm = algorithm
        self._max_completion_tokens = max_completion_tokens

    def __call__(
        self, batch: MicroBatch, logprobs: Tensor, entropy: Tensor, ref_logprobs: Tensor | None
    ) -> MicroBatchLoss:
        """Return the loss of `batch`; all tensors are [N] over its completion tokens."""
        a = self._algorithm
        index, count = batch.sample_index, len(batch.lengths)
        weights = token_weights(
            batch.lengths,
            aggregation=a.loss_aggregation,
            max_completion_tokens=self._max_completion_tokens,
            group_tokens=batch.group_tokens,
        )
        # Not a product: a prompt of which nothing is trained on has an infinite weight.
        weight = torch.where(batch.trained, weights, 0.0)[index].to(logprobs.dtype)
        old = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        loss, clipped = policy_loss(
            a.policy_loss,
            logprobs=logprobs,
            old_logprobs=old,
            advantages=batch.advantages[index],
            sample_index=index,
            num_samples=count,
            clip_low=a.clip_low,
            clip_high=a.clip_high,
            clip_delta=a.clip_delta,
            gate_temperature_positive=a.gate_temperature_positive,
            gate_temperature_negative=a.gate_temperature_negative,
        )
        importance = importance_weights(
            old,
            batch.rollout_logprobs,
            index,
            count,
            correction=a.importance_correction,
            level=a.importance_level,
            cap=a.importance_cap,
            floor=a.importance_floor,
        )
        per_token = loss * importance
        objective = per_token
        kl = torch.zeros_like(logprobs)
        if ref_logprobs is not None:
            kl = kl_estimate(a.kl_estimator, logprobs=logprobs, ref_logprobs=ref_logprobs, old_logprobs=old)
            if a.kl_in == "loss":
                objective = objective + a.kl_coef * kl
        if a.entropy_coef:
            objective = objective - a.entropy_coef * entropy
        total = (objective * weight).sum()
        return MicroBatchLoss(total, weight, per_token, kl, entropy, clipped, importance, old)
