"""Turns graded groups into training samples: overlong rule, advantages, what to drop and why."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from r1ray.algorithms.advantages import group_advantages, leave_one_out_advantages, pass_at_k_advantages
from r1ray.algorithms.batch_advantages import (
    batch_std_advantages,
    batch_zscore_advantages,
    per_reward_advantages,
)
from r1ray.algorithms.kl import kl_estimate
from r1ray.config.schema import AlgorithmConfig
from r1ray.types import GradedCompletion, Group, TrainingBatch, TrainingSample, Verdict

EQUAL_REWARDS = "equal rewards"
TOO_SMALL = "fewer than 2 graded completions"
MASKED = "over rollout.max_completion_tokens"

# Advantages that compare a completion with the whole step, not only with its own group.
OVER_THE_STEP = ("group_mean_batch_std", "batch_zscore", "per_reward_zscore")


@dataclass(frozen=True, slots=True)
class PreparedGroup:
    """A group ready for the learner.

    Attributes:
        group: with the overlong rule applied to its grades.
        advantages: one per completion.
        samples: empty where the group is dropped.
        drop_reason: why; None if it is trained on.
    """

    group: Group
    advantages: tuple[float, ...]
    samples: tuple[TrainingSample, ...]
    drop_reason: str | None


def needs_whole_phase(algorithm: AlgorithmConfig) -> bool:
    """Whether advantages can only be known once all groups of a phase are graded, so that nothing streams."""
    return algorithm.advantage in OVER_THE_STEP or takes_kl_from_rewards(algorithm)


def takes_kl_from_rewards(algorithm: AlgorithmConfig) -> bool:
    """Whether each completion's KL to the reference is taken off its reward."""
    return algorithm.kl_in == "reward" and algorithm.kl_coef > 0


def prepare_groups(
    groups: Sequence[Group],
    algorithm: AlgorithmConfig,
    *,
    reward_weights: Mapping[str, float],
    logprobs: Mapping[tuple[str, int], tuple[Sequence[float], Sequence[float]]] | None = None,
) -> list[PreparedGroup]:
    """Compute the advantages of groups and decide which are trained on.

    Args:
        groups: a whole phase where the algorithm `needs_whole_phase`, else as many as there are.
        algorithm: says how.
        reward_weights: of every reward, for advantages per reward.
        logprobs: by group id and sample index, the policy's and the reference's log-probabilities of a completion,
            whose KL is taken off its reward; None: nothing is.
    """
    groups = [replace(g, graded=tuple(_apply_overlong(c, algorithm) for c in g.graded)) for g in groups]
    large = [g for g in groups if len(g.graded) >= 2]
    advantages = dict(
        zip((g.group_id for g in large), _advantages(large, algorithm, reward_weights, logprobs), strict=True)
    )
    return [_prepare(g, algorithm, advantages.get(g.group_id), logprobs) for g in groups]


def _prepare(
    group: Group,
    algorithm: AlgorithmConfig,
    advantages: Tensor | None,
    logprobs: Mapping[tuple[str, int], tuple[Sequence[float], Sequence[float]]] | None,
) -> PreparedGroup:
    if advantages is None:
        return PreparedGroup(group, (0.0,) * len(group.graded), (), TOO_SMALL)
    values = tuple(advantages.tolist())
    if algorithm.equal_reward_groups == "drop" and not any(values):
        return PreparedGroup(group, values, (), EQUAL_REWARDS)
    samples = []
    for graded, advantage in zip(group.graded, values, strict=True):
        if graded.completion.completion_ids:
            sample = make_sample(group, graded, advantage=advantage, trained=not is_masked(graded, algorithm))
            if logprobs is not None:
                old, reference = logprobs[group.group_id, graded.completion.sample_index]
                sample = replace(sample, old_logprobs=tuple(old), ref_logprobs=tuple(reference))
            samples.append(sample)
    return PreparedGroup(group, values, tuple(samples), None)


def make_sample(
    group: Group, graded: GradedCompletion, *, advantage: float = 0.0, trained: bool = True
) -> TrainingSample:
    """Return a completion as the learner sees it."""
    completion = graded.completion
    return TrainingSample(
        prompt_ids=group.prompt.prompt_ids,
        completion_ids=completion.completion_ids,
        rollout_logprobs=completion.rollout_logprobs,
        policy_versions=completion.policy_versions,
        advantage=advantage,
        trained=trained,
        prompt_key=group.group_id,
    )


def _advantages(
    groups: Sequence[Group],
    algorithm: AlgorithmConfig,
    reward_weights: Mapping[str, float],
    logprobs: Mapping[tuple[str, int], tuple[Sequence[float], Sequence[float]]] | None,
) -> Sequence[Tensor]:
    kind = algorithm.advantage
    penalties = [_kl_penalties(g, algorithm, logprobs) for g in groups]
    if kind == "per_reward_zscore":
        return per_reward_advantages([_breakdown(g, reward_weights, algorithm) for g in groups], reward_weights)
    rewards = [
        torch.tensor([c.grade.reward for c in g.graded], dtype=torch.float64) - penalty
        for g, penalty in zip(groups, penalties, strict=True)
    ]
    if kind == "group_mean_batch_std":
        return batch_std_advantages(rewards)
    if kind == "batch_zscore":
        return batch_zscore_advantages(rewards)
    if kind == "leave_one_out":
        return [leave_one_out_advantages(r) for r in rewards]
    if kind == "pass_at_k":
        correct = [torch.tensor([c.grade.verdict is Verdict.CORRECT for c in g.graded]) for g in groups]
        return [pass_at_k_advantages(c, k=min(algorithm.pass_at_k, len(c))) for c in correct]
    return [group_advantages(r, divide_by_std=kind == "group_zscore") for r in rewards]


def _kl_penalties(
    group: Group,
    algorithm: AlgorithmConfig,
    logprobs: Mapping[tuple[str, int], tuple[Sequence[float], Sequence[float]]] | None,
) -> Tensor:
    """Return kl_coef times each completion's KL, summed over its tokens: [G]."""
    if logprobs is None:
        return torch.zeros(len(group.graded), dtype=torch.float64)
    sums = []
    for graded in group.graded:
        key = (group.group_id, graded.completion.sample_index)
        old, reference = (torch.tensor(v, dtype=torch.float64) for v in logprobs.get(key, ((), ())))
        kl = kl_estimate(algorithm.kl_estimator, logprobs=old, ref_logprobs=reference, old_logprobs=old)
        sums.append(float(kl.sum()))
    return algorithm.kl_coef * torch.tensor(sums, dtype=torch.float64)


def _breakdown(group: Group, names: Iterable[str], algorithm: AlgorithmConfig) -> dict[str, Tensor]:
    """Return each of the named rewards over the group: [G], NaN where it did not apply to a completion."""

    def value(graded: GradedCompletion, name: str) -> float:
        known = graded.grade.breakdown.get(name, float("nan"))
        return 0.0 * known if _is_wrong_by_length(graded, algorithm) else known

    return {name: torch.tensor([value(g, name) for g in group.graded], dtype=torch.float64) for name in names}


def is_masked(graded: GradedCompletion, algorithm: AlgorithmConfig) -> bool:
    """Whether a completion is left out of the loss for being cut off."""
    return algorithm.overlong == "mask" and graded.completion.finish_reason == "length"


def _is_wrong_by_length(graded: GradedCompletion, algorithm: AlgorithmConfig) -> bool:
    return algorithm.overlong == "wrong" and graded.completion.finish_reason == "length"


def _apply_overlong(graded: GradedCompletion, algorithm: AlgorithmConfig) -> GradedCompletion:
    """Count a completion that hit the length limit as wrong, where the config says so."""
    if not _is_wrong_by_length(graded, algorithm):
        return graded
    detail = f"{MASKED}; graded: {graded.grade.detail}"
    return replace(graded, grade=replace(graded.grade, reward=0.0, verdict=Verdict.WRONG, detail=detail))


def training_batch(samples: Sequence[TrainingSample]) -> TrainingBatch:
    """Make a batch of samples, all of a prompt's that one optimizer step sees, and count each prompt's tokens."""
    tokens: Counter[str] = Counter()
    for sample in samples:
        tokens[sample.prompt_key] += len(sample.completion_ids) if sample.trained else 0
    return TrainingBatch(tuple(replace(s, group_tokens=tokens[s.prompt_key]) for s in samples))


def split_at_random(samples: Sequence[TrainingSample], *, parts: int, seed: str) -> list[TrainingBatch]:
    """Split samples at random into `parts` minibatches of nearly equal count, whatever their groups.

    Each minibatch is sorted by prompt again, so that packing can share prompts.

    Source: arXiv:2501.12948 v2: 8,192 completions split at random into 16 minibatches.
    """
    order = list(range(len(samples)))
    random.Random(seed).shuffle(order)
    cuts = [round(i * len(order) / parts) for i in range(parts + 1)]
    return [training_batch([samples[i] for i in sorted(order[start:end])]) for start, end in pairwise(cuts)]
