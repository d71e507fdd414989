from pathlib import Path

import pytest

from r1ray.tracking.metrics import MetricLine, MetricsLog, metric_names, series
from r1ray.tracking.run_dir import RunDirectory


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)


def test_a_line_holds_the_step_first_then_sorted_names_and_null_for_nan(run_dir: RunDirectory) -> None:
    log = MetricsLog(run_dir)
    log.write(3, {"train/kl": float("nan"), "policy_version": 3, "eval/pass_at_1": 0.5, "train/lr": float("-inf")})
    log.close()
    expected = '{"step": 3, "eval/pass_at_1": 0.5, "policy_version": 3, "train/kl": null, "train/lr": null}\n'
    assert run_dir.read_text("metrics.jsonl") == expected


def test_a_step_has_one_line_only_also_across_processes(run_dir: RunDirectory) -> None:
    log = MetricsLog(run_dir)
    log.write(1, {"a": 1.0})
    log.close()
    with pytest.raises(ValueError, match="one line a step"):
        log.write(1, {"a": 1.0})
    with pytest.raises(ValueError, match="one line a step"):
        MetricsLog(run_dir).write(0, {"a": 1.0})


def test_truncate_drops_later_steps_and_writing_goes_on(run_dir: RunDirectory) -> None:
    log = MetricsLog(run_dir)
    for step in range(5):
        log.write(step, {"a": step})
    log.truncate_after(2)
    assert log.last_step == 2
    log.write(3, {"a": 30})
    log.close()
    assert log.read() == [{"step": 0, "a": 0}, {"step": 1, "a": 1}, {"step": 2, "a": 2}, {"step": 3, "a": 30}]


def test_truncate_before_the_first_step_leaves_nothing(run_dir: RunDirectory) -> None:
    log = MetricsLog(run_dir)
    log.write(5, {"a": 1})
    log.truncate_after(4)
    assert log.last_step is None
    assert log.read() == []


def test_series_leaves_out_what_was_not_measured() -> None:
    lines: list[MetricLine] = [{"step": 0, "a": 1.0}, {"step": 1, "a": None, "b": 2}, {"step": 2, "a": 0}]
    assert series(lines, "a") == [(0, 1.0), (2, 0.0)]
    assert metric_names(lines) == ["a", "b"]
