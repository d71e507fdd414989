from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pytest

from r1ray.tracking.rollouts import SCHEMA, RolloutLog, RolloutRow, rows_from_group
from r1ray.tracking.run_dir import RunDirectory
from r1ray.types import Group

GroupMaker = Callable[..., Group]


@pytest.fixture
def group(make_group: GroupMaker) -> Group:
    return make_group({0: ("<think>a</think> 4", 1.0), 2: ("ü \n", 0.0)})


@pytest.fixture(params=["local", "memory"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> RolloutLog:
    return RolloutLog(RunDirectory(tmp_path if request.param == "local" else f"memory://{uuid4().hex}/run"))


def test_columns_are_the_fields_of_a_row_in_order() -> None:
    assert SCHEMA.names == [field.name for field in fields(RolloutRow)]


def test_what_is_written_reads_back_equal(log: RolloutLog, group: Group) -> None:
    log.write(4, rows_from_group(4, group, advantages=[1.0, -1.0], sample_drop_reasons={2: "overlong"}))
    table = log.read(4)
    assert table.schema.equals(SCHEMA)
    first, second = table.to_pylist()
    assert first == {
        "step": 4,
        "group_id": "1/p",
        "prompt_id": "p",
        "sample_index": 0,
        "question": "2+2?",
        "prompt_text": "User: 2+2?",
        "answer": "4",
        "task": "math",
        "domain": "math",
        "metadata": "{}",
        "completion": "<think>a</think> 4",
        "completion_ids": [5, 6, 7],
        "rollout_logprobs": [-0.5, -0.25, -1.0],
        "policy_versions": [3, 3, 4],
        "finish_reason": "stop",
        "worker": "rollout-0",
        "reward": 1.0,
        "verdict": "correct",
        "detail": "extracted 4",
        "breakdown": [("accuracy", 1.0), ("format", 0.5)],
        "advantage": 1.0,
        "used": True,
        "drop_reason": None,
    }
    assert (second["completion"], second["used"], second["drop_reason"]) == ("ü \n", False, "overlong")


def test_a_dropped_group_has_a_reason_and_no_advantages(group: Group) -> None:
    rows = rows_from_group(1, group, drop_reason="equal rewards")
    assert [(row.used, row.advantage, row.drop_reason) for row in rows] == [(False, None, "equal rewards")] * 2


def test_advantages_of_another_length_are_refused(group: Group) -> None:
    with pytest.raises(ValueError, match="zip"):
        rows_from_group(1, group, advantages=[1.0])


def test_text_without_a_utf8_form_is_stored_with_a_replacement(log: RolloutLog, make_group: GroupMaker) -> None:
    group = make_group({0: ("a\ud800b", 0.0)})
    log.write(1, rows_from_group(1, group))
    assert log.read(1)["completion"].to_pylist() == ["a?b"]


def test_many_rows_and_no_rows_are_stored(log: RolloutLog, group: Group) -> None:
    log.write(1, rows_from_group(1, group) * 1500)
    log.write(2, [])
    assert log.read(1, columns=["sample_index"]).num_rows == 3000
    assert log.read(2).schema.equals(SCHEMA)
    assert isinstance(log.read(2), pa.Table)


def test_truncate_deletes_the_files_of_later_steps(log: RolloutLog) -> None:
    for step in (1, 9, 10, 1_000_000):
        log.write(step, [])
    assert log.steps() == [1, 9, 10, 1_000_000]
    log.truncate_after(9)
    assert log.steps() == [1, 9]
