"""A `DeepSpeedEngine` with buckets and limits so small that a tiny model goes through what a large one does."""

from typing import Any

import pytest

from r1ray.learner import deepspeed as engine_module
from r1ray.learner.deepspeed_start import configuration

TIGHT = {
    # Several buckets, and parameters larger than one.
    "reduce_bucket_size": 1000,
    "allgather_bucket_size": 1000,
}
TIGHT_STAGE_3 = {
    # Release every matrix after every use, look ahead a little, update in several groups.
    "stage3_max_reuse_distance": 0,
    "stage3_max_live_parameters": 1,
    "stage3_prefetch_bucket_size": 1000,
    "sub_group_size": 4000,
}


def _tight_configuration(*args: Any, **kwargs: Any) -> dict[str, Any]:
    config = configuration(*args, **kwargs)
    zero = config["zero_optimization"]
    zero.update(TIGHT | (TIGHT_STAGE_3 if zero["stage"] == 3 else {}))
    return config


def tight_engine(*args: Any) -> engine_module.DeepSpeedEngine:
    """Make the engine in its tight configuration."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "configuration", _tight_configuration)
        return engine_module.DeepSpeedEngine(*args)
