"""Turns graded groups into training samples: overlong rule, advantages, what to drop and why."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from r1ray.algorithms.advantages import group_advantages
from r1ray.config.schema import AlgorithmConfig
from r1ray.types import GradedCompletion, Group, TrainingBatch, TrainingSample, Verdict

EQUAL_REWARDS = "equal rewards"
TOO_SMALL = "fewer than 2 graded completions"
MASKED = "over rollout.max_completion_tokens"


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


def prepare_group(group: Group, algorithm: AlgorithmConfig) -> PreparedGroup:
    """Compute a group's advantages and decide whether it is trained on."""
    graded = tuple(_apply_overlong(g, algorithm) for g in group.graded)
    group = replace(group, graded=graded)
    if len(graded) < 2:
        return PreparedGroup(group, (0.0,) * len(graded), (), TOO_SMALL)
    rewards = torch.tensor([g.grade.reward for g in graded], dtype=torch.float64)
    divide = algorithm.advantage == "group_zscore"
    advantages = tuple(group_advantages(rewards, divide_by_std=divide).tolist())
    if algorithm.equal_reward_groups == "drop" and not any(advantages):
        return PreparedGroup(group, advantages, (), EQUAL_REWARDS)
    samples = tuple(
        TrainingSample(
            prompt_ids=group.prompt.prompt_ids,
            completion_ids=g.completion.completion_ids,
            rollout_logprobs=g.completion.rollout_logprobs,
            policy_versions=g.completion.policy_versions,
            advantage=advantage,
            trained=not is_masked(g, algorithm),
            prompt_key=group.group_id,
        )
        for g, advantage in zip(graded, advantages, strict=True)
        if g.completion.completion_ids
    )
    return PreparedGroup(group, advantages, samples, None)


def is_masked(graded: GradedCompletion, algorithm: AlgorithmConfig) -> bool:
    """Whether a completion is left out of the loss for being cut off."""
    return algorithm.overlong == "mask" and graded.completion.finish_reason == "length"


def _apply_overlong(graded: GradedCompletion, algorithm: AlgorithmConfig) -> GradedCompletion:
    """Count a completion that hit the length limit as wrong, where the config says so."""
    if algorithm.overlong != "wrong" or graded.completion.finish_reason != "length":
        return graded
    detail = f"{MASKED}; graded: {graded.grade.detail}"
    return replace(graded, grade=replace(graded.grade, reward=0.0, verdict=Verdict.WRONG, detail=detail))


def split_at_random(samples: Sequence[TrainingSample], *, parts: int, seed: str) -> list[TrainingBatch]:
    """Split samples at random into `parts` minibatches of nearly equal count, whatever their groups.

    Each minibatch is sorted by prompt again, so that packing can share prompts.

    Source: arXiv:2501.12948 v2: 8,192 completions split at random into 16 minibatches.
    """
    order = list(range(len(samples)))
    random.Random(seed).shuffle(order)
    cuts = [round(i * len(order) / parts) for i in range(parts + 1)]
    return [TrainingBatch(tuple(samples[i] for i in sorted(order[start:end]))) for start, end in pairwise(cuts)]
