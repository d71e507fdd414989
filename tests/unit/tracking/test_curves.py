import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from r1ray.tracking.curves import curve_picture, nice_ticks, thin, write_curve_picture
from r1ray.tracking.metrics import MetricLine, MetricsLog
from r1ray.tracking.run_dir import RunDirectory


def test_the_picture_is_small_and_well_formed_also_for_a_long_run(tmp_path: Path) -> None:
    run_dir = RunDirectory(tmp_path)
    lines: list[MetricLine] = [
        {
            "step": s,
            "train/accuracy_mean": abs(math.sin(s)),
            "train/completion_tokens_mean": 9e4 + s,
            "eval/pass_at_1": 0.5,
        }
        for s in range(20_000)
    ]
    text = curve_picture(lines)
    assert len(text) < 60_000
    ElementTree.fromstring(text)
    log = MetricsLog(run_dir)
    log.write(0, {"eval/pass_at_1": 0.1})
    log.write(10, {"train/accuracy_mean": 0.4})
    log.close()
    write_curve_picture(run_dir, tmp_path / "curves.svg")
    assert "held-out pass@1" in (tmp_path / "curves.svg").read_text()


@pytest.mark.parametrize("lines", [[], [{"step": 0, "eval/pass_at_1": 0.0}]])
def test_a_picture_of_nearly_nothing_is_well_formed(lines: list[MetricLine]) -> None:
    assert "not measured" in curve_picture(lines)
    ElementTree.fromstring(curve_picture(lines))


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.svg"):
        write_curve_picture(RunDirectory(tmp_path), tmp_path / "curves.png")


def test_thinning_keeps_the_ends_and_averages_between() -> None:
    points = [(step, float(step)) for step in range(10)]
    assert thin(points, limit=10) == points
    assert thin(points, limit=4) == [(0, 0.0), (3, 2.5), (7, 6.5), (9, 9.0)]


def test_ticks_are_round_and_cover_the_range() -> None:
    assert nice_ticks(0.0, 0.7, count=5) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])
    assert nice_ticks(0.0, 100.0, count=5) == [0.0, 25.0, 50.0, 75.0, 100.0]
    assert nice_ticks(0.0, 0.0, count=5) == [0.0, 1.0]
