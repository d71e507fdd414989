from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from omegaconf import OmegaConf

from r1ray.algorithms.aggregation import Aggregation
from r1ray.algorithms.importance import ImportanceCorrection, ImportanceLevel
from r1ray.algorithms.kl import KlEstimator
from r1ray.algorithms.policy_losses import PolicyLossKind
from r1ray.config.load import load_config
from r1ray.config.schema import AlgorithmConfig
from r1ray.errors import ConfigError

ROOT = Path(__file__).parents[3]
PRESETS = sorted((ROOT / "conf/algorithm").glob("*.yaml"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_a_preset_decides_the_whole_objective_and_nothing_else(path: Path) -> None:
    preset = OmegaConf.to_object(OmegaConf.load(path))
    assert isinstance(preset, dict)
    assert set(preset) <= {"algorithm", "learner", "train"}
    # A loss without a ratio is right on policy only.
    assert set(preset.get("train", {})) <= {"steps_per_rollout"}
    decided = set(preset["algorithm"])
    assert decided >= {
        "advantage", "policy_loss", "clip_delta", "kl_coef", "loss_aggregation", "equal_reward_groups"
    }  # fmt: skip
    if preset["algorithm"]["kl_coef"]:
        assert decided >= {"kl_estimator", "kl_in", "reference_refresh_steps"}
    if preset["algorithm"]["policy_loss"] not in ("reinforce", "sapo"):
        assert decided >= {"clip_low", "clip_high"}


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_presets_lie_over_any_config(path: Path) -> None:
    # two_sided_clip sets what most others must take back.
    over = load_config(ROOT / "conf/quickstart.yaml", [str(PRESETS[-1]), str(path)])
    assert over.algorithm.policy_loss == load_config(path).algorithm.policy_loss


def test_numbers_of_the_papers() -> None:
    a = {path.stem: load_config(path).algorithm for path in PRESETS}
    assert len(a) == 16
    assert (a["dapo"].clip_low, a["dapo"].clip_high, a["dapo"].kl_coef) == (0.2, 0.28, 0)
    assert (a["gspo"].clip_low, a["gspo"].clip_high) == (3e-4, 4e-4)
    assert (a["gmpo"].clip_low, a["gmpo"].clip_high) == (0.4, 0.4)
    assert (a["sapo"].gate_temperature_positive, a["sapo"].gate_temperature_negative) == (1.0, 1.05)
    assert (a["grpo"].kl_coef, a["grpo_r1"].kl_coef, a["rloo"].kl_coef) == (0.04, 0.001, 0.03)
    assert (a["two_sided_clip"].clip_delta, a["grpo_r1"].clip_high) == (4.0, 10.0)


def test_config_and_functions_know_the_same_names() -> None:
    hints = get_type_hints(AlgorithmConfig)
    for key, names in {
        "policy_loss": PolicyLossKind,
        "kl_estimator": KlEstimator,
        "loss_aggregation": Aggregation,
        "importance_correction": ImportanceCorrection,
        "importance_level": ImportanceLevel,
    }.items():
        assert get_args(hints[key]) == get_args(names)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["algorithm.clip_delta=4", "algorithm.policy_loss=gspo"], "algorithm.policy_loss must be clipped with"),
        (["algorithm.importance_cap=0.5"], "must be around 1"),
        (["algorithm.importance_correction=mask", "algorithm.importance_floor=1.5"], "must be around 1"),
    ],
)
def test_impossible_objectives_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, overrides)
