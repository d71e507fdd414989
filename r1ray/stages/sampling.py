"""The parts that sample and grade, with a learner beside them or without: rollout workers, graders, their stream.

    prompts -> groups of completions -> grades

`grpo` keeps the workers at a learner's weights; `rejection`, `preferences` and `evaluate` sample from a model as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import ray

from r1ray.config.schema import Config
from r1ray.driver.interrupt import InterruptFlag
from r1ray.driver.placement import Placement, attach_ray, plan_placement
from r1ray.driver.stream import CompletionStream
from r1ray.rewards.pool import GraderPool
from r1ray.rollout.pool import RolloutPool
from r1ray.rollout.protocol import EngineOptions
from r1ray.types import GroupRequest


@dataclass(frozen=True, slots=True)
class SamplingPools:
    """Running rollout workers and graders."""

    rollout: RolloutPool
    graders: GraderPool

    def stream(
        self,
        config: Config,
        *,
        recover_rollout: Callable[[], list[GroupRequest]],
        on_event: Callable[..., None],
        interrupted: Callable[[], bool],
        watch: Callable[[], None] = lambda: None,
    ) -> CompletionStream:
        """Connect them; see `CompletionStream`."""
        return CompletionStream(
            self.rollout,
            self.graders,
            group_timeout_s=config.rollout.group_timeout_s,
            max_error_fraction=config.rewards.max_error_fraction,
            recover_rollout=recover_rollout,
            on_event=on_event,
            interrupted=interrupted,
            watch=watch,
        )


def start_sampling(
    config: Config, model_path: str, placement: Placement, *, stack: ExitStack, on_event: Callable[..., None]
) -> SamplingPools:
    """Start rollout workers and graders and wait for the workers; `stack` stops them again.

    Raises:
        ModelError, RolloutError: a worker could not start.
    """
    rollout = RolloutPool(
        config.rollout.engine,
        _engine_options(config, model_path, placement),
        placement.rollout,
        start_timeout_s=config.rollout.start_timeout_s,
        max_restarts=config.rollout.max_restarts,
        on_event=on_event,
    )
    stack.callback(rollout.shutdown)
    graders = GraderPool(
        config.rewards,
        config.sandbox,
        on_event=on_event,
        num_cpus_per_worker=1.0 if placement.device == "cuda" else 0.0,
    )
    stack.callback(graders.shutdown)
    rollout.start()
    return SamplingPools(rollout, graders)


@contextmanager
def sampling_stream(
    config: Config, model_path: str, *, on_event: Callable[..., None], say: Callable[[str], None]
) -> Iterator[CompletionStream]:
    """Sample from a model as it is: start Ray where it is not there, workers and graders, and stop them at the end.

    Args:
        config: of the run.
        model_path: as `locate_model` returned it.
        on_event: takes a kind and fields.
        say: tells the user something.
    """
    with ExitStack() as stack:
        if attach_ray(config):
            stack.callback(ray.shutdown)
        # After Ray, which puts a handler of its own on SIGTERM that aborts the process.
        interrupt = stack.enter_context(InterruptFlag(say))
        placement = plan_placement(config, learner=False)
        stack.callback(placement.release)
        pools = start_sampling(config, model_path, placement, stack=stack, on_event=on_event)
        # New workers hold the model that the failed ones held.
        yield pools.stream(
            config, recover_rollout=pools.rollout.replace_failed, on_event=on_event, interrupted=interrupt.is_set
        )


def _engine_options(config: Config, model_path: str, placement: Placement) -> EngineOptions:
    r = config.rollout
    longest = max(r.max_completion_tokens, config.eval.max_completion_tokens or 0)
    return EngineOptions(
        model_path=model_path,
        revision=config.model.revision,
        dtype=config.model.dtype,
        device=placement.device,
        sync_backend=placement.sync_backend,
        max_model_tokens=config.data.max_prompt_tokens + longest,
        max_num_seqs=r.max_num_seqs,
        tensor_parallel=r.tensor_parallel,
        gpu_memory_fraction=r.gpu_memory_fraction,
        cpu_kv_cache_bytes=r.cpu_kv_cache_bytes,
        enforce_eager=r.enforce_eager,
        trust_remote_code=config.model.trust_remote_code,
        cores=(),
        worker="",
        fp32_lm_head=config.learner.fp32_lm_head,
    )
