"""Which stages of a pipeline run, resume, are skipped or moved aside."""

import json
from pathlib import Path

import pytest

from r1ray.errors import ConfigError, LearnerError
from r1ray.pipeline.artifacts import ARTIFACT_FILE
from r1ray.pipeline.run import plan, run_pipeline
from r1ray.pipeline.state import Inspector, State

ALL = ["zero", "evaluate_zero", "pick", "dev"]


def run(lab, *overrides: str, **options: str) -> list[str]:
    """Run and return the stages that ran."""
    lab.ran.clear()
    run_pipeline(lab.load(*overrides), say=lambda text: None, **options)
    return [name for name, _ in lab.ran]


def test_stages_run_in_order_each_with_the_outputs_it_needs(lab) -> None:
    assert run(lab) == ALL
    out = (lab.folder / "out").absolute()
    assert lab.configs["pick"].model.path == str(out / "zero/checkpoints/step_000002/model")
    assert lab.configs["evaluate_zero"].model.path == str(out / "zero/checkpoints/step_000002/model")
    assert lab.configs["dev"].data.train.name == str(out / "pick/data")


def test_what_is_done_is_skipped(lab) -> None:
    run(lab)
    assert run(lab) == []


def test_a_stage_that_failed_goes_on_and_what_was_done_before_it_is_not_touched(lab) -> None:
    lab.fails_at = "pick"
    with pytest.raises(LearnerError, match="stage pick: learner process 0 of 1 died"):
        run(lab)
    lab.fails_at = None
    assert run(lab) == ["pick", "dev"]
    assert lab.ran[0] == ("pick", True)


def test_a_changed_configuration_redoes_the_stage_and_what_depends_on_its_content(lab) -> None:
    run(lab)
    # The cold start comes out the same: what follows it stays.
    assert run(lab, "stages.pick.set.selection.samples_per_prompt=7") == ["pick"]
    lab.content["pick"] = "other samples"
    assert run(lab, "stages.pick.set.selection.samples_per_prompt=8") == ["pick", "dev"]
    assert sorted(p.name for p in (lab.folder / "out/superseded").iterdir()) == ["dev-1", "pick-1", "pick-2"]
    kept = lab.folder / "out/superseded/pick-2/data/shard.parquet"
    assert kept.read_text() == "pick"


def test_what_only_says_how_a_stage_runs_redoes_nothing(lab) -> None:
    run(lab)
    assert run(lab, "set.rollout.num_workers=3", "set.checkpoint.every_steps=5") == []
    operational = ("learner.micro_batch_tokens=5000", "rewards.batch_timeout_s=9", "sync.timeout_s=9")
    assert run(lab, *(f"set.{value}" for value in operational)) == []


def test_a_rewriter_may_move_to_another_host_but_not_appear(lab) -> None:
    there = [f"set.selection.rewrite.{key}" for key in ("base_url=http://here/v1", "model=m", "timeout_s=5")]
    run(lab)
    assert run(lab, *there)[0] == "zero"
    assert run(lab, "set.selection.rewrite.base_url=http://there/v1", "set.selection.rewrite.model=m") == []


def test_a_half_done_stage_of_another_configuration_is_not_resumed(lab) -> None:
    lab.fails_at = "pick"
    with pytest.raises(LearnerError):
        run(lab)
    lab.fails_at = None
    assert run(lab, "stages.pick.set.selection.samples_per_prompt=7") == ["pick", "dev"]
    assert lab.ran[0] == ("pick", False)


@pytest.mark.parametrize("harm", ["missing", "changed"])
def test_a_damaged_output_is_made_again(lab, harm: str) -> None:
    run(lab)
    file = lab.folder / "out/pick/data/shard.parquet"
    if harm == "missing":
        file.unlink()
    else:
        file.write_text("torn")
    assert run(lab) == ["pick"]
    assert run(lab) == []


def test_a_changed_data_file_redoes_what_reads_it(lab) -> None:
    data = lab.folder / "prompts.jsonl"
    data.write_text('{"question": "1 + 1?", "answer": "2"}\n')
    lab.values["stages"]["zero"] = {"set": {"data": {"train": {"source": "jsonl", "name": str(data)}}}}
    assert run(lab) == ALL
    assert run(lab) == []
    data.write_text('{"question": "1 + 2?", "answer": "3"}\n')
    assert run(lab) == ["zero"]


def test_from_redoes_a_stage_and_all_that_depend_on_it(lab) -> None:
    run(lab)
    assert run(lab, first="pick") == ["pick", "dev"]
    assert not any(resumed for _, resumed in lab.ran)


def test_only_runs_one_stage_and_needs_its_inputs(lab) -> None:
    with pytest.raises(ConfigError, match="stage pick needs zero: run the pipeline without --only first"):
        run(lab, only="pick")
    assert run(lab, only="zero") == ["zero"]
    assert run(lab, only="pick") == ["pick"]
    with pytest.raises(ConfigError, match="no stage 'nothing': stages are zero, evaluate_zero, pick, dev"):
        run(lab, only="nothing")
    with pytest.raises(ConfigError, match="--from or --only, not both"):
        run(lab, only="zero", first="zero")


def test_a_plan_says_what_would_be_done_and_does_nothing(lab) -> None:
    assert [what for _, _, what in plan(lab.load())] == ["run"] * 4
    assert lab.ran == []
    lab.fails_at = "pick"
    with pytest.raises(LearnerError):
        run(lab)
    assert [what for _, _, what in plan(lab.load())] == ["skip", "skip", "resume", "run"]
    assert [what for _, _, what in plan(lab.load(), first="zero")] == ["run anew"] * 4
    assert [what for _, _, what in plan(lab.load(), only="dev")] == ["", "", "", "run"]


def test_states_tell_what_waits_and_why(lab) -> None:
    run(lab, only="zero")
    states = Inspector(lab.load()).all()
    assert {name: state.state for name, state in states.items()} == {
        "zero": State.DONE,
        "evaluate_zero": State.READY,
        "pick": State.READY,
        "dev": State.WAITING,
    }
    assert states["dev"].why == "needs pick"


def test_two_processes_do_not_run_one_pipeline(lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def again(config) -> None:
        monkeypatch.setattr("r1ray.pipeline.run.run_stage", lab.play)
        run_pipeline(lab.load(), say=lambda text: None)

    monkeypatch.setattr("r1ray.pipeline.run.run_stage", again)
    with pytest.raises(ConfigError, match="another process runs the pipeline"):
        run(lab)


def test_the_record_of_an_output_names_every_file_with_its_hash(lab) -> None:
    run(lab)
    record = json.loads((lab.folder / "out/zero" / ARTIFACT_FILE).read_text())
    assert record["kind"] == "model"
    assert record["output"] == "checkpoints/step_000002/model"
    # sha256 of {"text": "zero"}
    assert record["files"] == {"config.json": "28f12ab2898f7625f2a563297d7bb474c087a7bcd475331dddee527285f98ce3"}
    assert (lab.folder / "out/zero" / record["output"] / "config.json").read_text() == '{"text": "zero"}'


def test_outputs_moved_with_their_pipeline_stay_whole(lab) -> None:
    run(lab)
    (lab.folder / "out").rename(lab.folder / "moved")
    assert run(lab, f"dir={lab.folder / 'moved'}") == []


def test_relative_directories_reach_stages_as_absolute_ones(lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lab.folder)
    assert run(lab, "dir=here") == ALL
    assert Path(lab.configs["dev"].data.train.name).is_absolute()
