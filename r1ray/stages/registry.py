"""The stages by name; each is imported only when it runs."""

from __future__ import annotations

import importlib

from r1ray.config.schema import Config

# Name of `stage` -> module:function that runs a configuration of it.
STAGES = {
    "grpo": "r1ray.stages.grpo:train_grpo",
    "sft": "r1ray.stages.sft:train_sft",
    "reward_model": "r1ray.stages.reward_model:train_reward_model",
    "rejection": "r1ray.stages.rejection:sample_and_select",
    "cold_start": "r1ray.stages.rejection:sample_and_select",
    "preferences": "r1ray.stages.preferences:collect_preferences",
    "evaluate": "r1ray.stages.evaluate:evaluate_model",
}


def run_stage(config: Config) -> None:
    """Run a configuration to its end.

    Raises:
        R1RayError: with a message for the user; the run directory holds what was done until then.
    """
    module, _, function = STAGES[config.stage].partition(":")
    getattr(importlib.import_module(module), function)(config)
