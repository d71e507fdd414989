"""What is refused before anything is spent: data, models, rewards of a stage."""

import json
from pathlib import Path

import pytest

from r1ray.config.load import load_config
from r1ray.config.schema import Config
from r1ray.errors import ConfigError, DataError, GraderError, ModelError
from r1ray.pipeline.preflight import check_stage_inputs

QUICKSTART = Path(__file__).parents[3] / "conf" / "quickstart.yaml"


def config(*overrides: str) -> Config:
    return load_config(QUICKSTART, overrides)


def model(folder: Path, architecture: str) -> str:
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    return str(folder)


def test_a_stage_with_all_it_needs_passes() -> None:
    check_stage_inputs("zero", config())


def test_outputs_that_are_still_to_be_made_are_not_looked_for() -> None:
    terms = "rewards.terms=[{name: reward_model, options: {model: 'artifact://judge'}}]"
    check_stage_inputs("late", config("model.path=artifact://zero", terms))


@pytest.mark.parametrize("option", ["{name: format, options: {stlye: r1}}", "{name: 'nowhere:reward'}"])
def test_rewards_beside_one_that_is_still_to_be_made_are_checked(option: str) -> None:
    terms = f"rewards.terms=[{{name: reward_model, options: {{model: 'artifact://judge'}}}}, {option}]"
    with pytest.raises(ConfigError, match="stage late: "):
        check_stage_inputs("late", config("model.path=artifact://zero", terms))


def test_options_of_a_reward_model_that_is_still_to_be_made_are_checked() -> None:
    terms = "rewards.terms=[{name: reward_model, options: {model: 'artifact://judge', scope: nothing}}]"
    with pytest.raises(ConfigError, match=r"stage late: .*scope"):
        check_stage_inputs("late", config("model.path=artifact://zero", terms))


def test_every_row_is_read_before_anything_is_spent(tmp_path: Path) -> None:
    data = tmp_path / "labels.jsonl"
    rows = [{"question": "q", "completion": "a", "label": label} for label in (1, 0, "unsafe")]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ("data.train.source=jsonl", f"data.train.name={data}", "reward_model.max_tokens=256", "sft.max_tokens=256")
    with pytest.raises(DataError, match=r"stage judge: .*column 'label' must hold 1 or 0 .*'unsafe'"):
        check_stage_inputs("judge", config("stage=reward_model", "reward_model.kind=pointwise", *given))


@pytest.mark.parametrize("key", ["data.train", "data.eval"])
def test_missing_data_is_named_with_its_stage(key: str) -> None:
    with pytest.raises(DataError, match=r"stage zero: .*nowhere\.jsonl"):
        check_stage_inputs("zero", config(f"{key}.source=jsonl", f"{key}.name=nowhere.jsonl"))


def test_a_reward_model_is_no_policy(tmp_path: Path) -> None:
    path = model(tmp_path, "Qwen3ForSequenceClassification")
    with pytest.raises(ModelError, match=r"stage zero: model\.path must be a language model .*Qwen3ForSequence"):
        check_stage_inputs("zero", config(f"model.path={path}"))


def test_a_policy_is_no_reward_model(tmp_path: Path) -> None:
    path = model(tmp_path, "Qwen3ForCausalLM")
    with pytest.raises(ModelError, match=r"must be a reward model .*Qwen3ForCausalLM"):
        check_stage_inputs("zero", config(f"rewards.terms=[{{name: reward_model, options: {{model: '{path}'}}}}]"))


def test_supervised_stages_need_no_answers_but_what_they_learn_from(tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text(json.dumps({"question": "q", "chosen": "a", "rejected": "b"}) + "\n")
    given = ("data.train.source=jsonl", f"data.train.name={data}", "reward_model.max_tokens=256", "sft.max_tokens=256")
    check_stage_inputs("judge", config("stage=reward_model", *given))
    with pytest.raises(DataError, match=r"stage dev: .* has no column 'completion'"):
        check_stage_inputs("dev", config("stage=sft", *given))


@pytest.mark.parametrize(("stage", "key"), [("preferences", "preferences.judge"), ("cold_start", "selection.rewrite")])
def test_judges_and_rewriters_that_are_down_are_noticed(stage: str, key: str) -> None:
    given = (f"{key}.base_url=http://127.0.0.1:9/v1", f"{key}.model=m", f"{key}.max_retries=0", f"{key}.timeout_s=2")
    with pytest.raises(GraderError, match="stage late: "):
        check_stage_inputs("late", config(f"stage={stage}", "data.train.size=4", *given))


def test_an_endpoint_that_is_down_is_noticed() -> None:
    options = "{base_url: 'http://127.0.0.1:9/v1', model: judge, max_retries: 0, timeout_s: 2}"
    with pytest.raises(GraderError, match="stage zero: "):
        check_stage_inputs("zero", config(f"rewards.terms=[{{name: llm_judge, options: {options}}}]"))
