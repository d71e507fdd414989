"""A small SVG picture of a run: accuracy and completion length against step, for a README.

Written by hand without a plotting library. Its colours are middle tones on a transparent ground, so that it
reads on white and on dark pages alike, whatever the viewer's colour scheme.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from r1ray.tracking.jsonl import read_jsonl
from r1ray.tracking.metrics import MetricLine, series
from r1ray.tracking.run_dir import METRICS_FILE, RunDirectory

_INK, _GRID, _BLUE, _ORANGE = "#808995", "#80899540", "#3b82d6", "#d9822b"
_WIDTH, _HEIGHT, _PANEL_WIDTH = 860, 300, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 52, 36
_MAX_POINTS = 240

Points = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class _Curve:
    label: str
    colour: str
    points: Points
    dots: bool


@dataclass(frozen=True, slots=True)
class _Panel:
    title: str
    curves: tuple[_Curve, ...]
    tick_label: Callable[[float], str]


def write_curve_picture(run_dir: RunDirectory, path: Path) -> None:
    """Write the picture of a run.

    Args:
        run_dir: the run; needs its metrics.jsonl only.
        path: local file to write, `.svg`.

    Raises:
        ValueError: the path does not end in `.svg`.
    """
    if path.suffix != ".svg":
        raise ValueError(f"the curve picture is SVG: its path must end in .svg, got {path.name!r}")
    path.write_text(curve_picture(read_jsonl(run_dir, METRICS_FILE)), encoding="utf-8")


def curve_picture(lines: Sequence[MetricLine]) -> str:
    """Return the picture as SVG text, under 60 KB for any run."""
    accuracy = _Panel(
        "accuracy",
        (
            _Curve("training", _BLUE, thin(series(lines, "train/accuracy_mean")), dots=False),
            _Curve("held-out pass@1", _ORANGE, thin(series(lines, "eval/pass_at_1")), dots=True),
        ),
        lambda value: f"{value:.0%}",
    )
    length = _Panel(
        "mean completion tokens",
        (
            _Curve("training", _BLUE, thin(series(lines, "train/completion_tokens_mean")), dots=False),
            _Curve("held-out", _ORANGE, thin(series(lines, "eval/completion_tokens_mean")), dots=True),
        ),
        lambda value: f"{value:,.0f}",
    )
    body = _draw(accuracy, x=0) + _draw(length, x=_WIDTH - _PANEL_WIDTH)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
        f' role="img" aria-label="accuracy and mean completion tokens against training step"'
        f' font-family="system-ui, sans-serif" font-size="12" fill="{_INK}">\n{body}</svg>\n'
    )


def thin(points: Points, *, limit: int = _MAX_POINTS) -> Points:
    """Average neighbouring points until at most `limit` are left; the first and the last stay exact."""
    if len(points) <= limit:
        return points
    inner, buckets = points[1:-1], limit - 2
    thinned = [points[0]]
    for index in range(buckets):
        bucket = inner[index * len(inner) // buckets : (index + 1) * len(inner) // buckets]
        thinned.append((bucket[len(bucket) // 2][0], sum(value for _, value in bucket) / len(bucket)))
    return [*thinned, points[-1]]


def nice_ticks(low: float, high: float, *, count: int) -> list[float]:
    """Return about `count` round values whose range covers `low` to `high`."""
    raw = (high - low) / max(count - 1, 1) or 1.0
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def _draw(panel: _Panel, *, x: int) -> str:
    plotted = [point for curve in panel.curves for point in curve.points]
    head = f'<g transform="translate({x} 0)">\n<text x="{_LEFT}" y="16" font-weight="600">{panel.title}</text>\n'
    if not plotted:
        return f'{head}<text x="{_LEFT}" y="{_HEIGHT // 2}">not measured</text>\n</g>\n'
    y_ticks = nice_ticks(0.0, max(value for _, value in plotted), count=5)
    x_ticks = nice_ticks(0.0, max(step for step, _ in plotted), count=6)
    last_step = max(step for step, _ in plotted) or 1

    def place_x(step: float) -> float:
        return _LEFT + (_PANEL_WIDTH - _LEFT - _RIGHT) * step / last_step

    def place_y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value / y_ticks[-1]

    parts = [head]
    for tick in y_ticks:
        y = place_y(tick)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_PANEL_WIDTH - _RIGHT}" stroke="{_GRID}"/>\n')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{panel.tick_label(tick)}</text>\n')
    for tick in (tick for tick in x_ticks if tick <= last_step and tick == int(tick)):
        parts.append(f'<text x="{place_x(tick):.1f}" y="{_HEIGHT - 18}" text-anchor="middle">{tick:,.0f}</text>\n')
    parts.append(f'<text x="{_PANEL_WIDTH - _RIGHT}" y="{_HEIGHT - 2}" text-anchor="end">step</text>\n')
    label_x = _LEFT
    for curve in (curve for curve in panel.curves if curve.points):
        parts.append(f'<circle cx="{label_x + 4}" cy="32" r="4" fill="{curve.colour}"/>\n')
        parts.append(f'<text x="{label_x + 13}" y="36">{curve.label}</text>\n')
        label_x += 90
        parts.append(_draw_curve(curve, place_x, place_y))
    return "".join(parts) + "</g>\n"


def _draw_curve(curve: _Curve, place_x: Callable[[float], float], place_y: Callable[[float], float]) -> str:
    places = [(place_x(step), place_y(value)) for step, value in curve.points]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    drawn = f'<path d="M{path}" fill="none" stroke="{curve.colour}" stroke-width="1.8" stroke-linejoin="round"/>\n'
    if curve.dots:
        drawn += "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{curve.colour}"/>\n' for x, y in places)
    return drawn
