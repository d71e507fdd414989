"""A small real pipeline through the command line: stopped in the middle, gone on with, done."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

EXECUTABLE = str(Path(sys.executable).parent / "r1ray")

Call = Callable[..., subprocess.CompletedProcess[str]]


def write(folder: Path, root: Path, address: str) -> Path:
    quickstart = str(root / "conf" / "quickstart.yaml")
    pipeline = {
        "name": "small",
        "dir": str(folder / "out"),
        "config": [quickstart],
        "set": {
            "rollout": {"engine": "transformers", "group_size": 4, "max_completion_tokens": 96},
            "train": {"steps": 6, "num_prompts_per_step": 4},
            "data": {"eval": {"size": 8}},
            "eval": {"every_steps": 0},
            "checkpoint": {"every_steps": 2},
            "learner": {"micro_batch_tokens": 1024},
            "cluster": {"address": address},
        },
        "stages": {
            # Listed before the stage it needs.
            "dev": {
                "set": {
                    "stage": "sft",
                    "template": {"name": "r1"},
                    "data": {"train": {"source": "parquet", "name": "artifact://pick"}},
                    "sft": {"max_tokens": 256, "batch_size": 4, "epochs": 1, "held_out_fraction": 0.2},
                }
            },
            "zero": {},
            "pick": {
                "set": {
                    "stage": "cold_start",
                    "model": {"path": "artifact://zero"},
                    "data": {"train": {"size": 24}},
                    "selection": {"general_share": 0.0, "max_kept_per_prompt": 4, "min_language_consistency": 0.0},
                }
            },
        },
        "evaluation": {
            "config": [quickstart],
            "models": [{"name": "R1-Zero", "stage": "zero"}, {"name": "Dev", "stage": "dev"}],
        },
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(pipeline, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def call(tools: Any) -> Call:
    return lambda *words: tools.run_here(["r1ray", "pipeline", *words])


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, tools: Any) -> tuple[Path, str]:
    """A pipeline whose first stage has been stopped after some steps, and what it said."""
    folder = tmp_path_factory.mktemp("pipeline")
    path = write(folder, tools.root, tools.ray_address)
    process = subprocess.Popen(
        [EXECUTABLE, "pipeline", str(path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    metrics, end = folder / "out" / "zero" / "metrics.jsonl", time.monotonic() + 400
    while not metrics.exists() or metrics.read_text().count("\n") < 3:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "deadline passed"
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    return path, output


@pytest.fixture(scope="module")
def finished(stopped: tuple[Path, str], call: Call) -> tuple[Path, str]:
    """The same pipeline, gone on with by the same command."""
    path, _ = stopped
    done = call(str(path))
    assert done.returncode == 0, done.stderr + done.stdout
    return path, done.stdout


def test_an_interrupted_pipeline_says_how_to_go_on_and_shows_where_it_is(stopped: tuple[Path, str]) -> None:
    path, output = stopped
    assert "stage zero: stopped by the user" in output
    assert "the whole pipeline by the same command" in output
    assert (path.parent / "out" / "report.html").exists()


def test_the_same_command_resumes_the_stage_and_runs_the_rest(finished: tuple[Path, str], call: Call) -> None:
    path, output = finished
    assert "zero: grpo, going on where it stopped" in output
    lines = [json.loads(line) for line in (path.parent / "out/zero/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(7))
    status = json.loads(call("status", str(path), "--json").stdout)
    assert [row["stage"] for row in status["stages"]] == ["zero", "evaluate_zero", "pick", "dev", "evaluate_dev"]
    assert {row["state"] for row in status["stages"]} == {"done"}


def test_a_finished_pipeline_runs_nothing_again(finished: tuple[Path, str], call: Call) -> None:
    path, _ = finished
    before = {file: file.stat().st_mtime_ns for file in (path.parent / "out").rglob("artifact.json")}
    done = call(str(path))
    assert done.returncode == 0
    assert done.stdout.count(": done") == 5
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_the_report_shows_every_model_and_stage(finished: tuple[Path, str]) -> None:
    path, _ = finished
    page = (path.parent / "out" / "report.html").read_text()
    for shown in ("R1-Zero", "Dev", "cold_start", "held-out"):
        assert shown in page
    figures = json.loads((path.parent / "out" / "pipeline.json").read_text())
    assert [model["name"] for model in figures["models"]] == ["R1-Zero", "Dev"]


def test_the_trained_model_answers_in_r1s_form(finished: tuple[Path, str]) -> None:
    path, _ = finished
    summary = json.loads((path.parent / "out/dev/summary.json").read_text())
    assert summary["loss_after"] < summary["loss_before"]


def test_a_dry_run_checks_and_does_nothing(finished: tuple[Path, str], call: Call) -> None:
    path, _ = finished
    done = call(str(path), "--dry-run", "--from", "pick")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run anew") == 3
    assert done.stdout.count("skip") == 2
    wrong = call(
        str(path), "--dry-run", "stages.pick.set.data.train.source=jsonl", "stages.pick.set.data.train.name=no.jsonl"
    )
    assert wrong.returncode == 2
    assert "stage pick: " in wrong.stderr
    assert "no.jsonl" in wrong.stderr
