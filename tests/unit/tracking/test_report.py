import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from r1ray.tracking.events import EventLog
from r1ray.tracking.metrics import MetricLine, MetricsLog
from r1ray.tracking.report import MAX_POINTS, PANELS, downsample, write_report
from r1ray.tracking.report_samples import MAX_STEPS, shorten, split_thinking, spread
from r1ray.tracking.rollouts import RolloutLog, rows_from_group
from r1ray.tracking.run_dir import RunDirectory
from r1ray.types import Group

ATTACK = "</script><script>alert(1)</script><!--<img src=x onerror=alert(1)>&lt;\u2028"


class ScriptCollector(HTMLParser):
    """Collects what a browser would take for elements and for the content of each script."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.tags: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "script"

    def handle_data(self, text: str) -> None:
        if self._inside:
            attributes, before = self.scripts[-1]
            self.scripts[-1] = (attributes, before + text)


def _parse(page: str) -> tuple[Any, ScriptCollector]:
    collector = ScriptCollector()
    collector.feed(page)
    (embedded,) = [text for attributes, text in collector.scripts if attributes.get("type") == "application/json"]
    return json.loads(embedded), collector


def _report(run_dir: RunDirectory) -> tuple[Any, ScriptCollector]:
    assert write_report(run_dir) == run_dir.path("report.html")
    return _parse(run_dir.read_text("report.html"))


@pytest.fixture
def run_dir() -> RunDirectory:
    return RunDirectory(f"memory://{uuid4().hex}/my-run")


def test_rewards_have_a_section_before_other_metrics(run_dir: RunDirectory) -> None:
    log = MetricsLog(run_dir)
    log.write(1, {"own/x": 1.0, "reward/language_mean": 0.5, "grade/timeout_fraction": 0.1})
    log.close()
    panels = _report(run_dir)[0]["panels"]
    sections = [(panel["section"], panel["title"]) for panel in panels][-3:]
    assert sections == [
        ("Rewards and verdicts", "grade/timeout_fraction"),
        ("Rewards and verdicts", "reward/language_mean"),
        ("Other metrics", "own/x"),
    ]


def test_the_page_holds_every_curve_and_draws_each_named_metric(run_dir: RunDirectory) -> None:
    metrics = MetricsLog(run_dir)
    names = sorted({name for panel in PANELS for name, _ in panel.metrics} | {"time/step_s", "time/rollout_s", "own/x"})
    for step in range(3):
        metrics.write(step, {name: step + index / 100 for index, name in enumerate(names)})
    content, _ = _report(run_dir)
    assert content["curves"]["step"] == [0, 1, 2]
    for index, name in enumerate(names):
        assert content["curves"][name] == pytest.approx([step + index / 100 for step in range(3)])
    drawn = {metric for panel in content["panels"] for metric, _ in panel["metrics"]}
    assert set(names) <= drawn


def test_headline_config_and_events_are_on_the_page(run_dir: RunDirectory) -> None:
    run_dir.write_text("config.yaml", "run:\n  name: first\nmodel:\n  path: some/model\n")
    metrics = MetricsLog(run_dir)
    metrics.write(0, {"eval/pass_at_1": 0.25})
    metrics.write(1, {"eval/pass_at_1": 0.5})
    EventLog(run_dir).write("worker_restart", step=1, worker="rollout-0")
    content, _ = _report(run_dir)
    assert content["name"] == "first"
    assert ["model", "some/model"] in content["config_head"]
    assert (content["summary"]["pass_at_1_before"], content["summary"]["pass_at_1_after"]) == (0.25, 0.5)
    assert content["summary"]["events"] == {"worker_restart": 1}
    assert content["events"][0]["fields"] == [["worker", "rollout-0"]]
    assert "path: some/model" in content["config"]


def test_a_directory_without_anything_makes_a_page(run_dir: RunDirectory) -> None:
    content, _ = _report(run_dir)
    assert content["name"] == "my-run"
    assert (content["steps"], content["events"], content["curves"]) == ([], [], {"step": []})


def test_hostile_text_reaches_the_page_as_text_only(run_dir: RunDirectory, make_group: Callable[..., Group]) -> None:
    group = make_group({0: (ATTACK, 1.0)}, question=ATTACK)
    RolloutLog(run_dir).write(1, rows_from_group(1, group))
    EventLog(run_dir).write("timeout", reason=ATTACK)
    run_dir.write_text("config.yaml", json.dumps({"run": {"name": ATTACK}}))
    plain = RunDirectory(f"memory://{uuid4().hex}/plain")
    _, expected = _report(plain)
    content, collector = _report(run_dir)
    assert collector.tags == expected.tags
    assert content["name"] == ATTACK
    sample = content["steps"][0]["samples"][0]
    assert (sample["question"], sample["rest"]) == (ATTACK, ATTACK)
    assert content["events"][0]["fields"] == [["reason", ATTACK]]
    page = run_dir.read_text("report.html")
    assert page.count("__R1RAY_") == 0
    assert "innerHTML" not in page
    # The drawing script is the same, whatever the run holds.
    assert collector.scripts[-1] == expected.scripts[-1]


def test_the_page_asks_for_nothing_from_elsewhere(run_dir: RunDirectory) -> None:
    write_report(run_dir)
    page = run_dir.read_text("report.html")
    assert re.findall(r"https?://[^\"' ]+", page) == ["http://www.w3.org/2000/svg"]
    assert "default-src 'none'" in page


def test_a_placeholder_in_the_run_name_is_not_filled_in(run_dir: RunDirectory) -> None:
    run_dir.write_text("config.yaml", "run: {name: __R1RAY_CONTENT__}")
    content, _ = _report(run_dir)
    assert content["name"] == "__R1RAY_CONTENT__"


def test_samples_show_the_widest_group_first_and_run_from_best_to_worst(
    run_dir: RunDirectory, make_group: Callable[..., Group]
) -> None:
    even = make_group({0: ("a", 1.0), 1: ("b", 1.0)}, group_id="1/a")
    mixed = make_group({0: ("wrong", 0.0), 1: ("<think>t</think>right", 1.0)}, group_id="1/b")
    rows = rows_from_group(1, even) + rows_from_group(1, mixed, advantages=[-1.0, 1.0])
    RolloutLog(run_dir).write(1, rows)
    content, _ = _report(run_dir)
    (step,) = content["steps"]
    assert (step["step"], step["total"], step["verdicts"]) == (1, 4, {"correct": 3, "wrong": 1})
    assert [sample["rest"] for sample in step["samples"]] == ["right", "wrong", "a", "b"]
    first = step["samples"][0]
    assert (first["think"], first["tokens"], first["policy"]) == ("<think>t</think>", 3, [3, 4])
    assert (first["breakdown"], first["advantage"]) == ({"accuracy": 1.0, "format": 0.5}, 1.0)


def test_a_long_run_with_long_hostile_completions_stays_below_three_megabytes(
    tmp_path: Path, make_group: Callable[..., Group]
) -> None:
    run_dir = RunDirectory(tmp_path)
    rollouts, metrics = RolloutLog(run_dir), MetricsLog(run_dir)
    samples = {index: ("<é思" * 20_000, float(index)) for index in range(4)}
    rows = rows_from_group(1, make_group(samples))
    for step in range(60):
        rollouts.write(step, rows)
    for step in range(3000):
        metrics.write(step, {f"area/metric_{index}": step / 3 for index in range(40)})
    metrics.close()
    content, _ = _report(run_dir)
    assert run_dir.local_path("report.html").stat().st_size < 3_000_000
    assert len(content["steps"]) == MAX_STEPS
    assert (content["steps"][0]["step"], content["steps"][-1]["step"]) == (0, 59)
    assert all(step["samples"] for step in content["steps"])


def test_downsampling_averages_training_and_keeps_the_first_and_the_last_evaluation() -> None:
    lines: list[MetricLine] = [{"step": step, "train/kl": float(step)} for step in range(4001)]
    lines[0]["eval/pass_at_1"] = 0.1
    lines[1]["eval/pass_at_1"] = 0.2
    lines[4000]["eval/pass_at_1"] = 0.9
    curves = downsample(lines)
    assert len(curves["step"]) == MAX_POINTS
    # Steps 1 to 10 share the second place, which stands where its evaluation was.
    assert (curves["step"][:3], curves["step"][-1]) == ([0, 1, 20], 4000)
    assert curves["train/kl"][:2] == [0.0, 5.5]
    assert curves["eval/pass_at_1"][:3] == [0.1, 0.2, None]
    assert curves["eval/pass_at_1"][-1] == 0.9


def test_thinking_and_rest_make_up_the_completion() -> None:
    assert split_thinking("<think>a</think> 4") == ("<think>a</think>", " 4")
    assert split_thinking("<think>a</think>b</think> 4") == ("<think>a</think>b</think>", " 4")
    assert split_thinking("<think>never ends") == ("<think>never ends", "")
    assert split_thinking("just 4") == ("", "just 4")


def test_spread_keeps_both_ends() -> None:
    assert spread(range(100), 4) == [0, 33, 66, 99]
    assert spread([1, 2], 4) == [1, 2]


def test_long_text_says_how_much_is_left_out() -> None:
    assert shorten("x" * 8000) == "x" * 8000
    assert "[... 1,000 characters left out ...]" in shorten("x" * 9000)
