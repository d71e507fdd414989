import re
import subprocess
import sys
from pathlib import Path

import pytest

from r1ray.config.load import load_config, to_yaml
from r1ray.errors import ConfigError
from r1ray.pipeline.preflight import check_pipeline
from r1ray.pipeline.spec import load_pipeline

ROOT = Path(__file__).parents[3]
ALL = sorted((ROOT / "conf").rglob("*.yaml"))
PIPELINES = [path for path in ALL if "\nstages:\n" in path.read_text()]
SHIPPED = [path for path in ALL if path not in PIPELINES]


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "minimal.yaml"
    path.write_text("run: {name: minimal}\n")
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_shipped_config_loads_and_round_trips(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(to_yaml(config))
    assert load_config(resolved) == config


@pytest.mark.parametrize("path", PIPELINES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_shipped_pipeline_loads_and_its_references_hold(path: Path) -> None:
    check_pipeline(load_pipeline(path), [])


def test_there_are_shipped_configs() -> None:
    names = {p.name for p in SHIPPED}
    assert {"quickstart.yaml", "random_reward.yaml", "smollm2_135m.yaml", "qwen2.5_32b.yaml"} <= names
    assert {"pipeline.yaml", "tiny.yaml", "qwen2.5_0.5b.yaml", "qwen2.5_7b.yaml", "deepseek_v3.yaml"} <= {
        p.name for p in PIPELINES
    }


def test_a_pipeline_is_not_trained_but_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tiny\.yaml is a pipeline: run it with `r1ray pipeline "):
        load_config(ROOT / "conf/r1/tiny.yaml")


def test_paper_hyperparameters_stand_in_the_r1_zero_config() -> None:
    # arXiv:2501.12948 v2: 8,192 completions a phase in 16 minibatches of 512.
    config = load_config(ROOT / "conf/r1_zero/qwen2.5_32b.yaml")
    per_phase = config.train.num_prompts_per_step * config.train.steps_per_rollout * config.rollout.group_size
    assert per_phase == 8192
    assert (config.learner.lr, config.algorithm.kl_coef) == (3e-6, 0.001)
    assert (config.train.steps, config.algorithm.reference_refresh_steps) == (10400, 400)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rollout.group_size=1", "rollout.group_size must be >= 2, got 1: GRPO compares completions within a group"),
        ("rollout.groupsize=3", "unknown key rollout.groupsize: did you mean rollout.group_size?"),
        ("group_size=3", "unknown key group_size: did you mean rollout.group_size?"),
        ("rolout.engine=vllm", "unknown key rolout: did you mean rollout?"),
        ("train.steps=many", "train.steps: Value 'many' of type 'str' could not be converted to Integer"),
        ("rollout.engine=vlm", "rollout.engine: Invalid value 'vlm', expected one of ['vllm', 'transformers']"),
        ("train.steps", "override 'train.steps' must have the form key=value"),
        ("rollout.top_p=0.9", "rollout.top_p must be 1 in training, got 0.9"),
        ("learner.micro_batch_tokens=100", "learner.micro_batch_tokens must be >= data.max_prompt_tokens"),
        ("algorithm.clip_delta=1.1", "algorithm.clip_delta must be > 1 + algorithm.clip_high = 1.2, got 1.1"),
        ("rollout.group_timeout_s=0", "rollout.group_timeout_s must be > 0, got 0.0: nothing waits without a deadline"),
        ("rewards.terms=[]", "rewards.terms must name at least one reward"),
        ("data.train.source=reasoning_gym", "data.train.size must be set for reasoning_gym, got None"),
    ],
)
def test_bad_overrides_name_the_key_and_the_remedy(minimal: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(minimal, [override])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cluster.device=cpu", "sync.backend=nccl"], "sync.backend must be auto or gloo with cluster.device=cpu"),
        (["cluster.device=cpu", "cluster.placement=colocated"], "cluster.placement must be auto or separate"),
        (["rollout.engine=transformers", "rollout.tensor_parallel=2"], "rollout.tensor_parallel must be 1"),
        (["cluster.placement=colocated", "train.max_staleness_steps=1"], "train.max_staleness_steps must be 0"),
    ],
)
def test_impossible_combinations_are_refused(minimal: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(minimal, overrides)
    assert message in str(error.value)


def test_missing_file_suggests_a_neighbour(minimal: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean .*minimal\.yaml"):
        load_config(minimal.with_name("minmal.yaml"))


def test_extends_lays_a_file_over_another(minimal: Path) -> None:
    child = minimal.with_name("child.yaml")
    child.write_text("extends: minimal.yaml\ntrain: {steps: 7}\n")
    config = load_config(child, ["train.steps=8"])
    assert (config.run.name, config.run.dir, config.train.steps) == ("minimal", "runs/minimal", 8)


def test_extends_in_a_circle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(ConfigError, match="circle"):
        load_config(tmp_path / "a.yaml")


def test_config_imports_nothing_heavy() -> None:
    heavy = ("torch", "ray", "vllm", "transformers")
    code = f"import sys, r1ray.cli, r1ray.config.load; print(*(m for m in {heavy} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_further_files_and_overrides_apply_in_order(minimal: Path, tmp_path: Path) -> None:
    preset = tmp_path / "preset.yaml"
    preset.write_text("algorithm: {kl_coef: 0.5, clip_high: 0.3}\n")
    config = load_config(minimal, ["algorithm.clip_high=0.9", str(preset), "algorithm.kl_coef=0.25"])
    assert (config.algorithm.clip_high, config.algorithm.kl_coef, config.run.name) == (0.3, 0.25, "minimal")


def test_a_file_may_extend_several_others(minimal: Path, tmp_path: Path) -> None:
    (tmp_path / "preset.yaml").write_text("algorithm: {kl_coef: 0.5}\nrun: {name: preset}\n")
    both = tmp_path / "both.yaml"
    both.write_text("extends: [minimal.yaml, preset.yaml]\nalgorithm: {clip_low: 0.1}\n")
    config = load_config(both)
    assert (config.algorithm.kl_coef, config.algorithm.clip_low, config.run.name) == (0.5, 0.1, "preset")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["learner.zero_stage=4"], "learner.zero_stage must be 1, 2 or 3, got 4"),
        (["learner.backend=deepspeed", "learner.tensor_parallel=2"], "learner.tensor_parallel must be 1 with"),
        (["learner.tensor_parallel=2"], "learner.num_processes must be a multiple of"),
        (["learner.compile=true", "learner.activation_checkpointing=selective"], "must be none or full with"),
        (["learner.lora.rank=4"], "algorithm.reference_refresh_steps must be 0 with learner.lora.rank > 0"),
        (["algorithm.advantage=pass_at_k", "algorithm.pass_at_k=99"], "algorithm.pass_at_k must be >= 1 and <"),
        (["algorithm.importance_floor=3"], "algorithm.importance_cap must be > algorithm.importance_floor"),
        (["algorithm.advantage=pass_at_k", "algorithm.kl_in=reward"], "algorithm.kl_in must be loss with"),
        (["algorithm.policy_loss=reinforce", "train.steps_per_rollout=2"], "train.steps_per_rollout must be 1 with"),
        (["learner.fused_kernels=true", "cluster.device=cpu"], "learner.fused_kernels must be false with"),
        (["nowhere.yaml"], "config file nowhere.yaml does not exist"),
    ],
)
def test_what_the_learner_and_the_objective_cannot_do_is_refused(
    minimal: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(minimal, overrides)
