"""The report of a pipeline: one self-contained page over all of its stages, and the same in figures.

stages on disk -> records -> graph, table of models, curves, completions, statistics -> report.html, pipeline.json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from r1ray.pipeline.artifacts import write_json
from r1ray.pipeline.report_completions import side_by_side
from r1ray.pipeline.report_graph import lay_out
from r1ray.pipeline.report_models import evaluated_metrics, model_table
from r1ray.pipeline.report_records import StageRecord, figures, read_records
from r1ray.pipeline.report_statistics import statistics
from r1ray.pipeline.spec import Pipeline
from r1ray.pipeline.state import StageState, State
from r1ray.tracking.jsonl import finite
from r1ray.tracking.page import build_page
from r1ray.tracking.report import Panel, downsample
from r1ray.tracking.run_dir import RunDirectory

PIPELINE_FILE = "pipeline.json"
REPORT_FILE = "report.html"

_LEARNED = (
    Panel("", "Loss", (("train/loss", "training"), ("eval/loss", "held-out"))),
    Panel("", "Held-out accuracy", (("eval/accuracy", "accuracy"),), "percent"),
    Panel("", "Learning rate", (("train/lr", "lr"),), zero=True),
)
_PANELS = {
    "grpo": (
        Panel("", "Reward", (("train/reward_mean", "mean"),)),
        Panel("", "Accuracy", (("train/accuracy_mean", "training"), ("eval/pass_at_1", "held-out")), "percent"),
        Panel("", "Format", (("train/format_mean", "training"), ("eval/format_rate", "held-out")), "percent"),
        Panel(
            "",
            "Language consistency",
            (("reward/language_mean", "training"), ("eval/language_mean", "held-out")),
            "percent",
        ),
        Panel(
            "",
            "Completion tokens",
            (("train/completion_tokens_mean", "training"), ("eval/completion_tokens_mean", "held-out")),
            zero=True,
        ),
        Panel("", "KL to reference", (("train/kl", "KL"),), zero=True),
    ),
    "sft": _LEARNED,
    "reward_model": _LEARNED,
}
# The kinds whose output is prompts or samples.
_DATA_KINDS = ("cold_start", "rejection", "preferences")


def write_pipeline_report(pipeline: Pipeline, states: Mapping[str, StageState]) -> Path:
    """Write pipeline.json and report.html from what is on disk.

    Returns:
        The page.
    """
    records = read_records(pipeline, states)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(pipeline.directory / PIPELINE_FILE, finite(_figures_of(pipeline, records, now)))
    template = files("r1ray.pipeline").joinpath("report_template.html").read_text(encoding="utf-8")
    page = build_page(template, title=pipeline.name, content=_content(pipeline, records, now))
    RunDirectory(pipeline.directory).write_text(REPORT_FILE, page)
    return pipeline.directory / REPORT_FILE


def _figures_of(pipeline: Pipeline, records: Sequence[StageRecord], now: str) -> dict[str, Any]:
    return {
        "name": pipeline.name,
        "seed": pipeline.seed,
        "generated_at": now,
        "state": overall_state(records),
        "wall_s": _total_s(records),
        "stages": [
            {
                "stage": record.name,
                "kind": record.kind,
                "made_from": record.made_from,
                "state": record.state.value,
                "why": record.why,
                "wall_s": record.wall_s,
                "finished_at": record.artifact.finished_at if record.artifact else None,
                "directory": record.stage.directory.relative_to(pipeline.directory).as_posix(),
                "report": record.report,
                "summary": figures(record.summary),
            }
            for record in records
        ],
        "models": [
            {
                "name": record.stage.model,
                "stage": record.model_stage,
                "evaluation": record.name,
                "metrics": evaluated_metrics(record),
            }
            for record in records
            if record.stage.model is not None
        ],
    }


def overall_state(records: Sequence[StageRecord]) -> str:
    """Return `done`, or the first stage that is not."""
    for record in records:
        if record.state is not State.DONE:
            return f"stopped at {record.name}: {record.state.value}" + (f", {record.why}" if record.why else "")
    return "done"


def _total_s(records: Sequence[StageRecord]) -> float:
    return round(sum(record.wall_s or 0.0 for record in records), 1)


def _content(pipeline: Pipeline, records: Sequence[StageRecord], now: str) -> dict[str, Any]:
    return {
        "name": pipeline.name,
        "seed": pipeline.seed,
        "generated_at": now,
        "finished_at": max((r.artifact.finished_at for r in records if r.artifact), default=None),
        "wall_s": _total_s(records),
        "state": overall_state(records),
        "done": all(record.state is State.DONE for record in records),
        "stages": {record.name: _stage(record) for record in records},
        "graph": lay_out(records),
        "table": model_table(records),
        "training": [_training(record) for record in records if record.kind in _PANELS],
        "completions": side_by_side(records),
        "data": [_data(record) for record in records if record.kind in _DATA_KINDS and record.summary],
    }


def _stage(record: StageRecord) -> dict[str, Any]:
    return {
        "kind": record.kind,
        "model": record.stage.model,
        "made_from": record.made_from,
        "state": record.state.value,
        "why": record.why,
        "wall_s": record.wall_s,
        "finished_at": record.artifact.finished_at if record.artifact else None,
        "report": record.report,
        "pass_at_1": evaluated_metrics(record).get("eval/pass_at_1"),
        "base": None if record.kind == "evaluate" or record.model_stage else record.stage.config.model.path,
        "config": record.config,
        "begun": record.begun,
    }


def _training(record: StageRecord) -> dict[str, Any]:
    panels = _PANELS[record.kind]
    shown = {name for panel in panels for name, _ in panel.metrics} | {"eval/pass_at_1_stderr"}
    curves = downsample(record.lines)
    return {
        "stage": record.name,
        "panels": [asdict(panel) for panel in panels],
        "curves": {name: values for name, values in curves.items() if name == "step" or name in shown},
        "facts": statistics(record.summary)["facts"],
    }


def _data(record: StageRecord) -> dict[str, Any]:
    return {"stage": record.name, **statistics(record.summary)}
