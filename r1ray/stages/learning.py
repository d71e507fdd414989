"""What a learner needs to start, from the configuration of a stage."""

from __future__ import annotations

from typing import Any

from r1ray.config.schema import Config
from r1ray.driver.placement import Placement
from r1ray.learner.protocol import LearnerOptions
from r1ray.template import R1_CHAT_TEMPLATE


def learner_options(config: Config, model_path: str, placement: Placement, **changes: Any) -> LearnerOptions:
    """Return the options of all learner processes; ranks and addresses come with the pool.

    Args:
        config: of the run.
        model_path: as `locate_model` returned it.
        placement: devices.
        changes: fields that are not as in GRPO.
    """
    values: dict[str, Any] = {
        "model_path": model_path,
        "revision": config.model.revision,
        "trust_remote_code": config.model.trust_remote_code,
        "dtype": config.model.dtype,
        "device": placement.device,
        "rank": 0,
        "world_size": config.learner.num_processes,
        "master_address": "",
        "master_port": 0,
        "temperature": config.rollout.temperature,
        "max_completion_tokens": config.rollout.max_completion_tokens,
        "total_steps": config.train.steps,
        "seed": config.run.seed,
        "cores": (),
        "timeout_s": config.sync.timeout_s,
        "sync_backend": placement.sync_backend,
        "learner": config.learner,
        "algorithm": config.algorithm,
        "chat_template": R1_CHAT_TEMPLATE if config.template.name == "r1" else None,
    }
    return LearnerOptions(**(values | changes))
