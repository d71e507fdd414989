"""Runs of flattened elements as boxes, and through torch.distributed.checkpoint."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from r1ray.learner.flat_shards import FlatShard, boxes_of_run


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_saved_run_is_read_as_a_tensor_and_a_tensor_as_a_run(tmp_path: Path) -> None:
    whole = torch.arange(35.0).view(5, 7)
    save({"w": FlatShard((5, 7), 0, whole.flatten())}, checkpoint_id=tmp_path, no_dist=True)
    target, run = torch.zeros(5, 7), torch.zeros(18)
    load({"w": target}, checkpoint_id=tmp_path, no_dist=True)
    load({"w": FlatShard((5, 7), 4, run)}, checkpoint_id=tmp_path, no_dist=True)
    assert torch.equal(target, whole)
    assert torch.equal(run, torch.arange(4.0, 22.0))


def test_a_run_through_rows_is_a_part_whole_rows_and_a_part() -> None:
    assert boxes_of_run((5, 7), 4, 20) == [
        ((0, 4), (1, 3), 4),
        ((1, 0), (2, 7), 7),
        ((3, 0), (1, 3), 21),
    ]


@given(st.lists(st.integers(1, 5), max_size=4), st.data())
def test_boxes_hold_the_run_in_order(shape: list[int], data: st.DataObject) -> None:
    whole = torch.arange(torch.Size(shape).numel()).view(shape)
    start = data.draw(st.integers(0, whole.numel() - 1))
    count = data.draw(st.integers(0, whole.numel() - start))
    found = []
    for offsets, sizes, first in boxes_of_run(tuple(shape), start, count):
        box = whole[tuple(slice(o, o + n) for o, n in zip(offsets, sizes, strict=True))]
        assert int(box.flatten()[0]) == first
        found += box.flatten().tolist()
    assert found == list(range(start, start + count))
