"""The picture of a pipeline: where each stage stands and how the arrows run between them.

Stages stand in columns by depth; an evaluation stands under the stage whose model it evaluates. An arrow that passes
columns keeps a lane of its own in each. Only places are computed here; the page draws them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from r1ray.pipeline.references import references
from r1ray.pipeline.report_records import StageRecord

BOX_WIDTH, BOX_HEIGHT, EVALUATION_HEIGHT = 146, 64, 58
_COLUMN_GAP, _ROW_GAP, _LANE_HEIGHT, _MARGIN = 36, 26, 10, 6
_SWEEPS = 6


@dataclass(slots=True)
class _Item:
    """A box with its evaluations, or a lane for an arrow that passes."""

    height: int
    stage: str | None = None
    before: list[_Item] = field(default_factory=list)
    after: list[_Item] = field(default_factory=list)
    y: float = 0.0


def lay_out(records: Sequence[StageRecord]) -> dict[str, Any]:
    """Return `{"width", "height", "boxes", "arrows"}`: boxes with `x`, `y`, arrows with an SVG path and their kind."""
    hung = hung_evaluations(records)
    standing = [record for record in records if all(record not in evaluations for evaluations in hung.values())]
    depths = stage_depths(standing)
    columns: list[list[_Item]] = [[] for _ in range(max(depths.values(), default=-1) + 1)]
    items = {r.name: _Item(_height(len(hung.get(r.name, ()))), r.name) for r in standing}
    for record in standing:
        columns[depths[record.name]].append(items[record.name])
    routes = _routes(standing, items, columns, depths)
    _order(columns)
    height = max((_place(column) for column in columns), default=0)
    for column in columns:
        shift = (height - _place(column)) / 2 + _MARGIN
        for item in column:
            item.y += shift
    return {
        "width": len(columns) * (BOX_WIDTH + _COLUMN_GAP) - _COLUMN_GAP + 2 * _MARGIN,
        "height": height + 2 * _MARGIN,
        "box_width": BOX_WIDTH,
        "boxes": _boxes(standing, hung, items, depths),
        "arrows": [_arrow(route, kinds, depths) for route, kinds in routes],
    }


def hung_evaluations(records: Sequence[StageRecord]) -> dict[str, list[StageRecord]]:
    """Return the evaluations of each stage's model."""
    hung: dict[str, list[StageRecord]] = {}
    for record in records:
        if record.kind == "evaluate" and record.model_stage is not None:
            hung.setdefault(record.model_stage, []).append(record)
    return hung


def stage_depths(records: Sequence[StageRecord]) -> dict[str, int]:
    """Return the number of stages on the longest way to each."""
    depths: dict[str, int] = {}
    for record in records:
        depths[record.name] = 1 + max((depths[name] for name in record.made_from if name in depths), default=-1)
    return depths


def _height(evaluations: int) -> int:
    return BOX_HEIGHT + evaluations * EVALUATION_HEIGHT


def _routes(
    records: Sequence[StageRecord],
    items: Mapping[str, _Item],
    columns: list[list[_Item]],
    depths: Mapping[str, int],
) -> list[tuple[list[_Item], list[str]]]:
    """Return each arrow's boxes and lanes from its source to its target, with the kinds of what it carries."""
    routes = []
    for record in records:
        for source in (name for name in record.made_from if name in items):
            route = [items[source]]
            for depth in range(depths[source] + 1, depths[record.name]):
                lane = _Item(_LANE_HEIGHT)
                columns[depth].append(lane)
                route.append(lane)
            route.append(items[record.name])
            for one, other in pairwise(route):
                one.after.append(other)
                other.before.append(one)
            kinds = dict.fromkeys(ref.kind for ref in references(record.stage.config) if ref.stage == source)
            routes.append((route, list(kinds)))
    return routes


def _order(columns: list[list[_Item]]) -> None:
    """Sort each column by the mean place of its neighbours, forth and back, so that few arrows cross."""
    for sweep in range(_SWEEPS):
        forth = sweep % 2 == 0
        for column in columns if forth else reversed(columns):
            rank = {id(item): index / len(each) for each in columns for index, item in enumerate(each)}
            means = {}
            for item in column:
                near = item.before if forth else item.after
                means[id(item)] = sum(rank[id(one)] for one in near) / len(near) if near else rank[id(item)]
            column.sort(key=lambda item, means=means: means[id(item)])  # type: ignore[misc]


def _place(column: Sequence[_Item]) -> int:
    """Stack a column's items from 0 and return its height."""
    y = 0
    for item in column:
        item.y = y
        y += item.height + _ROW_GAP
    return max(y - _ROW_GAP, 0)


def _left(depth: int) -> int:
    return _MARGIN + depth * (BOX_WIDTH + _COLUMN_GAP)


def _boxes(
    standing: Sequence[StageRecord],
    hung: Mapping[str, Sequence[StageRecord]],
    items: Mapping[str, _Item],
    depths: Mapping[str, int],
) -> list[dict[str, Any]]:
    boxes = []
    for record in standing:
        x, y = _left(depths[record.name]), items[record.name].y
        boxes.append({"stage": record.name, "x": x, "y": y, "height": BOX_HEIGHT, "depth": depths[record.name]})
        for number, evaluation in enumerate(hung.get(record.name, ())):
            top = y + BOX_HEIGHT + number * EVALUATION_HEIGHT
            boxes.append(
                {"stage": evaluation.name, "x": x, "y": top, "height": EVALUATION_HEIGHT, "under": record.name}
            )
    return boxes


def _arrow(route: Sequence[_Item], kinds: Sequence[str], depths: Mapping[str, int]) -> dict[str, Any]:
    source, target = route[0], route[-1]
    assert source.stage is not None, "lanes lie between boxes"
    assert target.stage is not None, "lanes lie between boxes"
    depth = depths[source.stage]
    x, y = _left(depth) + BOX_WIDTH, _port(source, source.after, route[1])
    path = f"M{x} {y:.1f}"
    for number, item in enumerate(route[1:], 1):
        left = _left(depth + number)
        is_lane = item is not target
        end = item.y + item.height / 2 if is_lane else _port(target, target.before, route[-2])
        middle = (x + left) / 2
        path += f"C{middle:.1f} {y:.1f} {middle:.1f} {end:.1f} {left} {end:.1f}"
        x, y = left, end
        if is_lane:
            x += BOX_WIDTH
            path += f"H{x}"
    return {"from": source.stage, "to": target.stage, "kind": ", ".join(kinds), "path": path}


def _port(box: _Item, neighbours: Sequence[_Item], neighbour: _Item) -> float:
    """Return the height at which an arrow meets a box: ports stand in the order of what they lead to."""
    ordered = sorted(neighbours, key=lambda item: item.y)
    place = next(index for index, item in enumerate(ordered) if item is neighbour)
    return box.y + BOX_HEIGHT * (place + 1) / (len(ordered) + 1)
