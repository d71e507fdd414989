import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from r1ray.pipeline.artifacts import Artifact, write_artifact, write_started
from r1ray.pipeline.report import overall_state, write_pipeline_report
from r1ray.pipeline.report_completions import choose_prompts
from r1ray.pipeline.report_records import read_records
from r1ray.pipeline.report_statistics import statistics
from r1ray.pipeline.spec import Pipeline, load_pipeline
from r1ray.pipeline.state import StageState, State
from r1ray.tracking.metrics import MetricsLog
from r1ray.tracking.rollouts import RolloutLog, rows_from_group
from r1ray.tracking.run_dir import RunDirectory
from r1ray.types import Completion, Grade, GradedCompletion, Group, Prompt, Verdict

ATTACK = "</script><script>alert(1)</script><!--<img src=x onerror=alert(1)>"

YAML = """
name: small-r1
seed: 7
stages:
  r1_zero: {}
  cold_start: {set: {stage: cold_start, model: {path: "artifact://r1_zero"}}}
  dev1:
    set:
      stage: sft
      sft: {max_tokens: 1024}
      data: {train: {source: parquet, name: "artifact://cold_start"}}
  r1: {set: {model: {path: "artifact://dev1"}, data: {train: {source: parquet, name: "artifact://cold_start"}}}}
evaluation:
  models:
    - {name: Base, set: {model: {path: embedded}}}
    - {name: R1-Zero, stage: r1_zero}
    - {name: R1, stage: r1}
"""


class Tags(HTMLParser):
    """Collects what a browser would take for elements."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    spec = tmp_path / "small.yaml"
    spec.write_text(YAML)
    return load_pipeline(spec, [f"dir={tmp_path / 'run'}"])


def _states(pipeline: Pipeline, *, done: tuple[str, ...] = ()) -> dict[str, StageState]:
    pipeline.directory.mkdir(parents=True, exist_ok=True)
    states = {}
    for stage in pipeline.stages:
        artifact = Artifact("f", "model", "o", {}, {}, "2026-01-02T03:04:05+00:00", 60.0)
        if stage.name in done:
            stage.directory.mkdir(exist_ok=True)
            write_artifact(stage.directory, artifact)
        states[stage.name] = (
            StageState(State.DONE, "", "f", {}, artifact)
            if stage.name in done
            else StageState(State.WAITING, "needs others", None, {})
        )
    return states


def _all(pipeline: Pipeline) -> dict[str, StageState]:
    return _states(pipeline, done=tuple(stage.name for stage in pipeline.stages))


def _evaluated(pipeline: Pipeline, stage: str, metrics: Mapping[str, float], *, prompts: int = 16) -> None:
    summary = {"stage": "evaluate", "prompts": prompts, "samples_per_prompt": 4, "metrics": metrics}
    RunDirectory(pipeline.stage(stage).directory).write_text("summary.json", json.dumps(summary))


def _answered(
    pipeline: Pipeline,
    stage: str,
    answers: Mapping[str, str],
    *,
    domain: str = "math",
    language: str | None = None,
    question: str = "2+2?",
) -> None:
    rows = []
    for name, text in answers.items():
        metadata = {"target_language": language} if language else {}
        prompt = Prompt(name, question, question, (1,), answer="4", metadata=metadata, domain=domain)
        graded = []
        for index, reward in enumerate((1.0, 0.0)):
            completion = Completion(f"0/{name}", name, index, text, (5, 6, 7), (0.0,) * 3, (0,) * 3, "stop", "w")
            verdict = Verdict.CORRECT if reward else Verdict.WRONG
            graded.append(GradedCompletion(completion, Grade(reward, {"accuracy": reward}, verdict, "")))
        rows += rows_from_group(0, Group(f"0/{name}", prompt, tuple(graded)))
    RolloutLog(RunDirectory(pipeline.stage(stage).directory)).write(0, rows)


def _content(page: Path) -> Any:
    text = page.read_text(encoding="utf-8")
    return json.loads(text.split('id="content">')[1].split("</script>")[0])


def _report(pipeline: Pipeline, states: Mapping[str, StageState]) -> tuple[Any, Any]:
    page = write_pipeline_report(pipeline, states)
    assert page == pipeline.directory / "report.html"
    return _content(page), json.loads((pipeline.directory / "pipeline.json").read_text())


def _cells(content: Any, metric: str) -> list[tuple[str | None, str | None, bool]]:
    rows = [row for group in content["table"]["groups"] for row in group["rows"]]
    (row,) = [row for row in rows if row["metric"] == metric]
    return [(cell["text"], cell["error"], cell["best"]) for cell in row["cells"]]


def test_the_table_has_a_column_a_model_in_order_and_marks_the_best_of_each_row(pipeline: Pipeline) -> None:
    _evaluated(
        pipeline,
        "evaluate_base",
        {
            "eval/pass_at_1": 0.125,
            "eval/pass_at_1_stderr": 0.0312,
            "eval/truncated_fraction": 0.5,
            "eval/completion_tokens_mean": 1234.4,
            "eval/helpful/reward_model_mean": -1.5,
        },
    )
    _evaluated(
        pipeline, "evaluate_r1_zero", {"eval/pass_at_1": 0.71, "eval/math/pass_at_1": 0.8, "eval/truncated_fraction": 0}
    )
    content, _ = _report(pipeline, _all(pipeline))
    assert [column["name"] for column in content["table"]["columns"]] == ["Base", "R1-Zero", "R1"]
    assert [column["from"] for column in content["table"]["columns"]] == ["embedded", "r1_zero", "r1"]
    assert _cells(content, "eval/pass_at_1") == [("12.5", "3.1", False), ("71.0", None, True), (None, None, False)]
    assert _cells(content, "eval/truncated_fraction") == [
        ("50.0", None, False),
        ("0.0", None, True),
        (None, None, False),
    ]
    assert _cells(content, "eval/completion_tokens_mean")[0] == ("1,234", None, False)
    assert _cells(content, "eval/helpful/reward_model_mean")[0] == ("-1.500", None, False)
    titles = [group["title"] for group in content["table"]["groups"]]
    assert titles == ["pass@1, %", "reward model, mean", "mean completion tokens", "cut off at the token limit, %"]
    assert [row["label"] for row in content["table"]["groups"][0]["rows"]] == ["", "math"]
    assert content["table"]["notes"] == ["16 prompts, 4 samples each."]


def test_models_with_equal_figures_have_no_best_and_shared_bests_are_all_marked(pipeline: Pipeline) -> None:
    for stage, rate in (("evaluate_base", 0.5), ("evaluate_r1_zero", 0.9001), ("evaluate_r1", 0.9004)):
        _evaluated(pipeline, stage, {"eval/format_rate": rate, "eval/pass_at_1": 0.25})
    content, _ = _report(pipeline, _all(pipeline))
    assert [best for _, _, best in _cells(content, "eval/format_rate")] == [False, True, True]
    assert [best for _, _, best in _cells(content, "eval/pass_at_1")] == [False, False, False]


def test_models_that_were_evaluated_otherwise_are_told_apart(pipeline: Pipeline) -> None:
    _evaluated(pipeline, "evaluate_base", {"eval/pass_at_1": 0.5}, prompts=1)
    _evaluated(pipeline, "evaluate_r1", {"eval/pass_at_1": 0.5}, prompts=2000)
    content, _ = _report(pipeline, _all(pipeline))
    assert content["table"]["notes"][:2] == ["Base: 1 prompt, 4 samples each.", "R1: 2,000 prompts, 4 samples each."]


def test_figures_are_in_pipeline_json_with_paths_inside_the_directory(pipeline: Pipeline) -> None:
    _evaluated(pipeline, "evaluate_r1_zero", {"eval/pass_at_1": 0.5})
    RunDirectory(pipeline.stage("r1_zero").directory).write_text("report.html", "a page")
    _, figures = _report(pipeline, _all(pipeline))
    assert (figures["name"], figures["seed"], figures["state"], figures["wall_s"]) == ("small-r1", 7, "done", 420.0)
    stages = {stage["stage"]: stage for stage in figures["stages"]}
    assert stages["r1"]["made_from"] == ["dev1", "cold_start"]
    assert stages["r1_zero"]["report"] == "r1_zero/report.html"
    assert (stages["r1"]["directory"], stages["r1"]["report"], stages["r1"]["wall_s"]) == ("r1", None, 60.0)
    assert stages["evaluate_r1_zero"]["summary"]["metrics"] == {"eval/pass_at_1": 0.5}
    assert figures["models"][:2] == [
        {"name": "Base", "stage": None, "evaluation": "evaluate_base", "metrics": {}},
        {"name": "R1-Zero", "stage": "r1_zero", "evaluation": "evaluate_r1_zero", "metrics": {"eval/pass_at_1": 0.5}},
    ]
    assert str(pipeline.directory) not in json.dumps(figures)


def test_a_pipeline_that_has_not_begun_makes_a_page(pipeline: Pipeline) -> None:
    content, figures = _report(pipeline, _states(pipeline))
    assert figures["state"] == "stopped at evaluate_base: waiting, needs others"
    assert content["completions"] == {"models": [], "in_all": 0, "domains": {}, "prompts": []}
    assert content["stages"]["dev1"]["begun"] is False
    assert "artifact://cold_start" in content["stages"]["dev1"]["config"]


def test_a_stage_that_broke_off_is_half_done_whatever_its_state_was_before(pipeline: Pipeline) -> None:
    states = _states(pipeline, done=("evaluate_base", "r1_zero", "evaluate_r1_zero"))
    states["cold_start"] = StageState(State.READY, "", "f", {})
    write_started(pipeline.stage("cold_start").directory, "f")
    assert overall_state(read_records(pipeline, states)) == "stopped at cold_start: half done"


def test_missing_and_torn_files_take_only_their_own_place(pipeline: Pipeline) -> None:
    states = _all(pipeline)
    zero = RunDirectory(pipeline.stage("r1_zero").directory)
    zero.write_text("metrics.jsonl", '{"step": 1, "train/kl": 0.5}\nnot json\n{"step": 2}\n')
    zero.write_text("summary.json", '{"steps": 2, "tor')
    zero.write_bytes("config.yaml", b"\xff\xfe")
    RunDirectory(pipeline.stage("dev1").directory).write_text("summary.json", "[1]")
    RunDirectory(pipeline.stage("dev1").directory).write_text(
        "metrics.jsonl",
        '{"train/loss": 1}\n{"step": NaN}\n{"step": 3, "train/loss": 2.5, "train/lr": "a lot"}\n{"step": 4, "trai',
    )
    (pipeline.stage("cold_start").directory / "artifact.json").write_text("{")
    states["cold_start"] = StageState(State.OUT_OF_DATE, "its configuration has changed", "f", {})
    _evaluated(pipeline, "evaluate_r1", {"eval/pass_at_1": float("nan")})
    _answered(pipeline, "evaluate_base", {"p/1": "4"})
    RunDirectory(pipeline.stage("evaluate_r1").directory).write_bytes("rollouts/step_000000.parquet", b"PAR1 torn")
    content, figures = _report(pipeline, states)
    curves = {each["stage"]: each["curves"] for each in content["training"]}
    assert curves["r1_zero"] == {"step": []}
    assert curves["dev1"] == {"step": [3], "train/loss": [2.5]}
    assert content["completions"]["models"] == ["Base"]
    assert content["state"] == "stopped at cold_start: out of date, its configuration has changed"
    assert figures["models"][2]["metrics"] == {}


def test_completions_stand_side_by_side_on_the_prompts_that_all_models_got(pipeline: Pipeline) -> None:
    _answered(pipeline, "evaluate_base", {"p/1": "four", "p/2": "a", "p/3": "b"}, language="de")
    _answered(
        pipeline, "evaluate_r1", {"p/1": "<think>2+2</think>\n\\boxed{4}", "p/3": "<think>endless"}, language="de"
    )
    content, _ = _report(pipeline, _all(pipeline))
    shown = content["completions"]
    assert (shown["models"], shown["in_all"]) == (["Base", "R1"], 2)
    assert [prompt["prompt_id"] for prompt in shown["prompts"]] == ["p/1", "p/3"]
    first = shown["prompts"][0]
    assert (first["question"], first["answer"], first["language"]) == ("2+2?", "4", "de")
    base, r1 = first["samples"]
    assert (base["think"], base["rest"]) == ("", "four")
    assert (r1["think"], r1["rest"], r1["unclosed"]) == ("2+2", "\\boxed{4}", False)
    assert (r1["verdict"], r1["reward"], r1["tokens"], r1["correct"], r1["samples"]) == ("correct", 1.0, 3, 1, 2)
    assert shown["prompts"][1]["samples"][1]["unclosed"] is True


def test_hostile_text_reaches_the_page_as_text_only(pipeline: Pipeline) -> None:
    states = _all(pipeline)
    write_pipeline_report(pipeline, states)
    plain, hostile = Tags(), Tags()
    plain.feed((pipeline.directory / "report.html").read_text(encoding="utf-8"))
    _answered(
        pipeline, "evaluate_base", {"p/1": ATTACK, ATTACK: ATTACK}, question=ATTACK, domain=ATTACK, language=ATTACK
    )
    RunDirectory(pipeline.stage("r1").directory).write_text("config.yaml", ATTACK)
    RunDirectory(pipeline.stage("cold_start").directory).write_text(
        "summary.json", json.dumps({"domains": {ATTACK: {"kept": 1, "dropped": {ATTACK: 2}}}})
    )
    content, _ = _report(pipeline, states)
    page = (pipeline.directory / "report.html").read_text(encoding="utf-8")
    hostile.feed(page)
    assert hostile.found == plain.found
    assert content["completions"]["prompts"][0]["samples"][0]["rest"] == ATTACK
    assert page.count("__R1RAY_") == 0
    assert "innerHTML" not in page


def test_the_page_asks_for_nothing_from_elsewhere(pipeline: Pipeline) -> None:
    page = write_pipeline_report(pipeline, _all(pipeline)).read_text(encoding="utf-8")
    assert re.findall(r"https?://[^\"' ]+", page) == ["http://www.w3.org/2000/svg"]
    assert "default-src 'none'" in page


def test_each_training_stage_has_its_curves_and_its_summary(pipeline: Pipeline) -> None:
    log = MetricsLog(RunDirectory(pipeline.stage("dev1").directory))
    log.write(1, {"train/loss": 2.0, "eval/loss": 3.0, "time/step_s": 1.0})
    log.write(2, {"train/loss": 1.0, "train/lr": 1e-5})
    log.close()
    summary = {"stage": "sft", "loss_before": 2.5, "loss_after": 0.5, "accuracy_after": 0.75, "wall_s": 3.0}
    RunDirectory(pipeline.stage("dev1").directory).write_text("summary.json", json.dumps(summary))
    content, _ = _report(pipeline, _all(pipeline))
    (dev1,) = [stage for stage in content["training"] if stage["stage"] == "dev1"]
    assert dev1["curves"] == {
        "step": [1, 2],
        "train/loss": [2.0, 1.0],
        "eval/loss": [3.0, None],
        "train/lr": [None, 1e-5],
    }
    texts = [(fact["label"], fact["text"]) for fact in dev1["facts"]]
    assert texts == [("loss", "2.5 → 0.5"), ("accuracy after", "75.0%")]


def test_stages_stand_left_of_what_is_made_from_them_and_evaluations_under_their_models(pipeline: Pipeline) -> None:
    content, _ = _report(pipeline, _all(pipeline))
    boxes = {box["stage"]: box for box in content["graph"]["boxes"]}
    assert [boxes[name]["depth"] for name in ("evaluate_base", "r1_zero", "cold_start", "dev1", "r1")] == [
        0,
        0,
        1,
        2,
        3,
    ]
    lefts = [boxes[name]["x"] for name in ("r1_zero", "cold_start", "dev1", "r1")]
    assert lefts == sorted(set(lefts))
    zero, below = boxes["r1_zero"], boxes["evaluate_r1_zero"]
    assert (below["x"], below["y"], below["under"]) == (zero["x"], zero["y"] + zero["height"], "r1_zero")
    arrows = [(arrow["from"], arrow["to"], arrow["kind"]) for arrow in content["graph"]["arrows"]]
    assert arrows == [
        ("r1_zero", "cold_start", "model"),
        ("cold_start", "dev1", "data"),
        ("dev1", "r1", "model"),
        ("cold_start", "r1", "data"),
    ]
    # The last passes the column of dev1, above or below its box.
    lane = float(content["graph"]["arrows"][3]["path"].split("H")[0].split(" ")[-1])
    assert not boxes["dev1"]["y"] <= lane <= boxes["dev1"]["y"] + boxes["dev1"]["height"]


def test_boxes_of_a_column_do_not_overlap(pipeline: Pipeline) -> None:
    boxes = _report(pipeline, _all(pipeline))[0]["graph"]["boxes"]
    for one in boxes:
        for other in boxes:
            if one is not other and one["x"] == other["x"]:
                assert one["y"] + one["height"] <= other["y"] or other["y"] + other["height"] <= one["y"]


def test_data_statistics_become_a_table_by_domain_and_bars_of_reasons(pipeline: Pipeline) -> None:
    summary = {
        "stage": "cold_start",
        "total": {"prompts": 30, "kept": 12, "keep_rate": 0.4},
        "domains": {
            "code": {"prompts": 10, "kept": 2, "keep_rate": 0.2, "dropped": {"wrong": 5, "too_long": 0}},
            "math": {"prompts": 20, "kept": 10, "keep_rate": 0.5, "dropped": {"wrong": 6, "mixed_language": 7}},
        },
        "supplied": 1200,
    }
    RunDirectory(pipeline.stage("cold_start").directory).write_text("summary.json", json.dumps(summary))
    (shown,) = _report(pipeline, _all(pipeline))[0]["data"]
    (table,) = shown["tables"]
    assert [column["label"] for column in table["columns"]] == ["prompts", "kept", "keep rate"]
    assert [[row["name"], *row["cells"]] for row in table["rows"]] == [
        ["code", "10", "2", "20.0%"],
        ["math", "20", "10", "50.0%"],
        ["total", "30", "12", "40.0%"],
    ]
    (bars,) = shown["bars"]
    assert bars["items"] == [
        {"label": "wrong", "count": 11, "parts": [["code", 5], ["math", 6]]},
        {"label": "mixed language", "count": 7, "parts": [["math", 7]]},
    ]
    assert shown["facts"] == [{"label": "supplied", "metric": "supplied", "text": "1,200"}]


@pytest.mark.parametrize(
    "summary",
    [
        {},
        {"domains": {}},
        {"domains": {"math": 3, "code": {"kept": None}}},
        {"total": 5},
        {"total": {"dropped": {"wrong": 3}}},
        {"a": {"b": {"c": {"d": 1}}}, "list": [1, {"x": 2}], "text": "t", "flag": True},
    ],
)
def test_summaries_of_any_shape_are_shown(summary: dict[str, Any]) -> None:
    assert set(statistics(summary)) == {"facts", "tables", "bars"}


def test_prompts_are_chosen_from_every_kind_and_spread_over_it() -> None:
    kinds = {f"math/{i:02}": ("math", "") for i in range(20)} | {f"chat/{i}": ("chat", "zh") for i in range(3)}
    chosen = choose_prompts(kinds, count=6)
    assert chosen == ["chat/0", "chat/1", "chat/2", "math/00", "math/09", "math/19"]
    assert choose_prompts(dict(reversed(kinds.items())), count=6) == chosen
    assert choose_prompts({}, count=6) == []
    assert len(choose_prompts({str(i): (str(i), "") for i in range(40)}, count=9)) == 9
