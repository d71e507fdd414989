import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from r1ray.errors import DataError
from r1ray.stages.grade_input import Row
from r1ray.stages.grade_output import GradeJournal
from r1ray.types import Grade, Verdict

RIGHT = Grade(1.5, {"accuracy": 1.0, "format": 0.5}, Verdict.CORRECT, "answer '4'")
WRONG = Grade(0.0, {"accuracy": 0.0, "format": 0.0}, Verdict.WRONG)


def journal(out: Path, *, rows: int = 3, fingerprint: str = "f", overwrite: bool = False) -> GradeJournal:
    return GradeJournal(out, rows=rows, fingerprint=fingerprint, overwrite=overwrite)


def row(index: int, stored: tuple[Verdict, float] | None = None) -> Row:
    return Row(index, f"r{index}", None, stored=stored)


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_grades_come_out_in_the_order_of_the_input(tmp_path: Path):
    out = tmp_path / "new" / "out.jsonl"
    grades = journal(out)
    for index in (2, 0, 1):
        grades.add(row(index), RIGHT if index == 2 else WRONG)
    assert not out.exists()
    grades.finish()
    assert [line["id"] for line in lines(out)] == ["r0", "r1", "r2"]
    assert lines(out)[2] == {
        "id": "r2",
        "reward": 1.5,
        "breakdown": {"accuracy": 1.0, "format": 0.5},
        "verdict": "correct",
        "detail": "answer '4'",
    }
    assert [file.name for file in out.parent.iterdir()] == ["out.jsonl"]


def test_an_interrupted_journal_is_gone_on_with(tmp_path: Path):
    out = tmp_path / "out.jsonl"
    first = journal(out)
    first.add(row(1, (Verdict.WRONG, 0.0)), RIGHT)
    first.close()
    with (tmp_path / "out.jsonl.partial").open("ab") as file:
        file.write(b'{"index": 2, "id": "r2", "rew')
    second = journal(out)
    assert [index in second for index in range(3)] == [False, True, False]
    assert (len(second), second.verdicts, second.reward_sum) == (1, {"correct": 1}, 1.5)
    assert second.agreement == {("wrong", "correct"): 1}
    second.add(row(0), WRONG)
    second.add(row(2), WRONG)
    second.finish()
    assert [line["verdict"] for line in lines(out)] == ["wrong", "correct", "wrong"]


def test_a_journal_of_another_input_is_not_gone_on_with(tmp_path: Path):
    out = tmp_path / "out.jsonl"
    first = journal(out)
    first.add(row(1), RIGHT)
    first.close()
    for changes in ({"fingerprint": "g"}, {"rows": 4}):
        with pytest.raises(DataError, match="holds grades of another input or by other rewards"):
            journal(out, **changes)
    second = journal(out, fingerprint="g", overwrite=True)
    assert len(second) == 0
    second.close()


def test_a_file_that_is_there_is_not_replaced_unasked(tmp_path: Path):
    out = tmp_path / "out.jsonl"
    out.write_text("mine")
    with pytest.raises(DataError, match="exists: name another file, or say --overwrite"):
        journal(out)
    grades = journal(out, rows=1, overwrite=True)
    grades.add(row(0), RIGHT)
    assert out.read_text() == "mine"
    grades.finish()
    assert len(lines(out)) == 1


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        journal(tmp_path / "file" / "out.jsonl")


def test_grades_are_written_to_parquet(tmp_path: Path):
    out = tmp_path / "out.parquet"
    grades = journal(out, rows=2)
    grades.add(row(1, (Verdict.CORRECT, 1.0)), RIGHT)
    grades.add(Row(0, 7, None, stored=(Verdict.WRONG, 0.0)), WRONG)
    grades.finish()
    assert pq.read_table(out).to_pylist()[1] == {
        "id": "r1",
        "reward": 1.5,
        "breakdown": [("accuracy", 1.0), ("format", 0.5)],
        "verdict": "correct",
        "detail": "answer '4'",
        "stored_verdict": "correct",
        "stored_reward": 1.0,
    }
