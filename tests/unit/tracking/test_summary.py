import json
from pathlib import Path

from r1ray.tracking.metrics import MetricLine
from r1ray.tracking.run_dir import RunDirectory
from r1ray.tracking.summary import build_summary, write_summary

LINES: list[MetricLine] = [
    {
        "step": 0,
        "eval/pass_at_1": 0.1,
        "eval/format_rate": 0.2,
        "eval/completion_tokens_mean": 50.0,
        "time/eval_s": 3.0,
    },
    {"step": 1, "rollout/samples": 8, "rollout/completion_tokens": 400, "time/step_s": 4.0},
    {
        "step": 2,
        "rollout/samples": 8,
        "rollout/completion_tokens": 600,
        "time/step_s": 6.0,
        "eval/pass_at_1": 0.6,
        "eval/pass_at_1_stderr": 0.03,
        "eval/format_rate": None,
        "time/eval_s": 2.0,
    },
]


def test_summary_file_has_the_names_that_other_tools_rely_on(tmp_path: Path) -> None:
    run_dir = RunDirectory(tmp_path)
    write_summary(run_dir, build_summary(LINES, event_counts={"timeout": 2}, report="runs/x/report.html"))
    assert json.loads(run_dir.read_text("summary.json")) == {
        "pass_at_1_before": 0.1,
        "pass_at_1_after": 0.6,
        "pass_at_1_stderr_before": None,
        "pass_at_1_stderr_after": 0.03,
        "format_rate_before": 0.2,
        "format_rate_after": None,
        "completion_tokens_mean_before": 50.0,
        "completion_tokens_mean_after": None,
        "train_s": 10.0,
        "eval_s": 5.0,
        "steps": 2,
        "samples": 16,
        "completion_tokens": 1000,
        "samples_per_s": 1.6,
        "completion_tokens_per_s": 100.0,
        "events": {"timeout": 2},
        "report": "runs/x/report.html",
    }


def test_a_run_without_steps_has_zeros_and_nothing_after() -> None:
    summary = build_summary(LINES[:1], event_counts={}, report=None)
    assert (summary.steps, summary.samples_per_s, summary.completion_tokens_per_s) == (0, 0.0, 0.0)
    assert (summary.pass_at_1_before, summary.pass_at_1_after) == (0.1, None)


def test_a_single_evaluation_in_the_end_is_after() -> None:
    summary = build_summary(LINES[1:], event_counts={}, report=None)
    assert (summary.pass_at_1_before, summary.pass_at_1_after) == (None, 0.6)


def test_a_run_of_no_lines_has_a_summary() -> None:
    assert build_summary([], event_counts={}, report=None).steps == 0
