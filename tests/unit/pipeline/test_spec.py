"""The YAML of a pipeline: what it becomes, and what is refused."""

import subprocess
import sys

import pytest

from r1ray.errors import ConfigError
from r1ray.pipeline.preflight import check_pipeline
from r1ray.pipeline.references import references


def test_a_stage_takes_files_then_values_for_all_then_its_own(lab) -> None:
    lab.values["set"] = {"train": {"steps": 5, "num_prompts_per_step": 6}}
    lab.values["stages"]["zero"] = {"set": {"train": {"steps": 7}}}
    zero = lab.load("seed=3").stage("zero")
    assert (zero.config.train.steps, zero.config.train.num_prompts_per_step) == (7, 6)
    assert zero.config.model.path == "embedded"
    assert zero.config.run.seed == 3
    assert zero.config.run.dir == str(zero.directory)


def test_overrides_reach_one_stage_or_all(lab) -> None:
    pipeline = lab.load("stages.zero.set.train.steps=2", "set.rollout.group_size=4")
    assert pipeline.stage("zero").config.train.steps == 2
    assert {stage.config.rollout.group_size for stage in pipeline.stages} == {4}


def test_files_are_named_relative_to_the_pipeline(lab) -> None:
    (lab.folder / "own.yaml").write_text("train: {steps: 11}\n")
    lab.values["stages"]["zero"] = {"config": ["own.yaml"]}
    assert lab.load().stage("zero").config.train.steps == 11


def test_models_are_evaluated_right_after_their_stage_and_others_first(lab) -> None:
    lab.values["evaluation"]["models"].append({"name": "The base", "set": {"model": {"path": "embedded"}}})
    stages = lab.load().stages
    assert [stage.name for stage in stages] == ["evaluate_the_base", "zero", "evaluate_zero", "pick", "dev"]
    assert [stage.model for stage in stages] == ["The base", None, "R1-Zero", None, None]
    assert stages[2].config.model.path == "artifact://zero"


def test_an_evaluation_waits_for_the_reward_model_that_it_measures_with(lab) -> None:
    lab.values["stages"]["judge"] = {"set": {"stage": "reward_model", "model": {"path": "artifact://zero"}}}
    terms = [{"name": "reward_model", "options": {"model": "artifact://judge"}}]
    lab.values["stages"]["judge"]["set"] |= {"reward_model": {"max_tokens": 256}}
    lab.values["evaluation"]["set"] = {"rewards": {"terms": terms}}
    assert [stage.name for stage in lab.load().stages] == ["zero", "pick", "dev", "judge", "evaluate_zero"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": {}}, "stages must name at least one stage"),
        ({"stages": {"Zero!": {}}}, "a name must be lower-case letters"),
        ({"stages": {"superseded": {}}}, "a name must be lower-case letters"),
        (
            {"stages": {"zero": {"set": {"trian": {"steps": 1}}}}},
            "stage zero: .*unknown key trian: did you mean train?",
        ),
        ({"stages": {"zero": {"set": {"train": {"steps": 0}}}}}, "stage zero: train.steps must be >= 1"),
        ({"stages": {"zero": {"config": ["nowhere.yaml"]}}}, r"nowhere\.yaml does not exist"),
        ({"stages": {"zero": {"sets": {}}}}, "sets"),
        ({"stage": {}}, "unknown key stage: did you mean stages?"),
        ({"dir": "s3://bucket/r1"}, "dir must be a directory that every node can read"),
        ({"evaluation": {"models": [{"name": "X", "stage": "nobody"}]}}, "stage must be one of zero, pick, dev"),
        ({"evaluation": {"models": [{"stage": "zero"}]}}, "name"),
    ],
)
def test_mistakes_are_named(lab, change: dict, message: str) -> None:
    lab.values |= change
    with pytest.raises(ConfigError, match=message):
        lab.load()


@pytest.mark.parametrize(
    ("stage", "values", "message"),
    [
        (
            "pick",
            {"model": {"path": "artifact://dev"}},
            "stage pick: model.path must name an earlier stage, one of zero",
        ),
        ("dev", {"model": {"path": "artifact://pick"}}, "stage dev: model.path must be a model, but pick makes a data"),
        ("dev", {"run": {"name": "x"}, "template": {"system": "artifact://zero"}}, "stands where no output of a stage"),
    ],
)
def test_references_that_cannot_hold_are_refused_before_anything_runs(lab, stage, values, message) -> None:
    given = lab.values["stages"][stage].setdefault("set", {})
    given |= values
    pipeline = lab.load()
    with pytest.raises(ConfigError, match=message):
        check_pipeline(pipeline, [])


def test_reading_a_pipeline_imports_nothing_heavy(lab) -> None:
    lab.load()
    code = (
        "import sys\nfrom r1ray.pipeline.spec import load_pipeline\n"
        f"load_pipeline({str(lab.folder / 'pipeline.yaml')!r})\n"
        "assert not {'torch', 'ray', 'transformers', 'vllm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_stage_listed_before_what_it_needs_comes_after_it(lab) -> None:
    lab.values["stages"]["zero"] = {"set": {"model": {"path": "artifact://base"}}}
    lab.values["stages"]["base"] = {}
    assert [stage.name for stage in lab.load().stages] == ["base", "zero", "evaluate_zero", "pick", "dev"]


def test_instructions_of_a_judge_are_an_input_though_its_model_is_a_name_elsewhere(lab) -> None:
    judge = {"base_url": "http://judge/v1", "model": "m", "mode": "helpfulness", "prompt_file": "judge.txt"}
    lab.values["stages"]["zero"] = {"set": {"rewards": {"terms": [{"name": "llm_judge", "options": judge}]}}}
    found = {reference.key: reference.value for reference in references(lab.load().stage("zero").config)}
    assert found["rewards.terms[0].options.prompt_file"] == "judge.txt"
    assert "rewards.terms[0].options.model" not in found
