"""Held-out evaluation with the run's own rollout workers and graders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from r1ray.config.schema import EvalConfig, RolloutConfig
from r1ray.evaluation.metrics import evaluation_metrics
from r1ray.tracking.timers import Timers
from r1ray.types import Group, Prompt, SamplingParams

Sampler = Callable[[Sequence[Prompt], SamplingParams, int, int], Iterable[Group]]


def evaluation_sampling(config: EvalConfig, rollout: RolloutConfig) -> SamplingParams:
    """Return how held-out prompts are sampled: as `config` says, what it leaves open as in training."""
    return SamplingParams(
        config.temperature,
        config.top_p,
        config.max_completion_tokens or rollout.max_completion_tokens,
        tuple(rollout.stop),
    )


class HeldOutEvaluation:
    """The same prompts, sampling and seeds every time, so that only the policy differs."""

    def __init__(
        self, prompts: Sequence[Prompt], config: EvalConfig, rollout: RolloutConfig, *, sample: Sampler, timers: Timers
    ) -> None:
        """Prepare.

        Args:
            prompts: held out.
            config: sampling of the evaluation.
            rollout: of training, for what `config` leaves open.
            sample: turns prompts into graded groups of the given size, by the rewards of the given step.
            timers: get the seconds as phase `eval`.
        """
        self._prompts = prompts
        self._group_size = config.samples_per_prompt
        self._sampling = evaluation_sampling(config, rollout)
        self._sample = sample
        self._timers = timers

    def __call__(self, step: int) -> dict[str, float]:
        """Return the metrics of the policy that the workers hold now, judged by the rewards of a step."""
        with self._timers.phase("eval"):
            groups = list(self._sample(self._prompts, self._sampling, self._group_size, step))
            return evaluation_metrics(groups, expected_completions=len(self._prompts) * self._group_size)
