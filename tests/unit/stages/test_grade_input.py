import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r1ray.errors import DataError
from r1ray.stages.grade_input import open_rows, read_row
from r1ray.tracking.rollouts import RolloutLog, rows_from_group
from r1ray.tracking.run_dir import RunDirectory
from r1ray.types import Completion, Grade, GradedCompletion, Group, Prompt, Verdict

ROW = {"id": "a", "task": "math", "completion": "4", "prompt": "2+2?", "answer": "4", "target_language": "en"}


def test_a_row_becomes_a_request():
    row = read_row(3, ROW)
    assert (row.index, row.row_id, row.fault) == (3, "a", "")
    assert row.request.prompt == Prompt(
        "a", "2+2?", "2+2?", (), "4", "math", metadata={"target_language": "en"}, domain="math"
    )
    assert row.request.completion.text == "4"


@pytest.mark.parametrize(
    ("changes", "task", "domain"),
    [
        ({}, "math", "math"),
        ({"task": None, "tests": {"kind": "stdio"}}, "code", "code"),
        ({"task": None}, "math", "math"),
        ({"task": "choice"}, "choice", "stem"),
        ({"task": "text", "domain": "logic"}, "text", "logic"),
    ],
)
def test_a_row_without_a_task_or_domain_gets_the_usual_one(changes, task, domain):
    prompt = read_row(0, ROW | changes).request.prompt
    assert (prompt.task, prompt.domain) == (task, domain)


def test_gold_numbers_and_chat_messages_are_taken_as_text():
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "2+2?"}]
    prompt = read_row(0, ROW | {"answer": 4, "prompt": messages}).request.prompt
    assert (prompt.answer, prompt.question) == ("4", "2+2?")


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ([1], "row 1 must be a JSON object, got list"),
        (ROW | {"task": "poem"}, "task must be one of math, choice, code, text, got 'poem'"),
        (ROW | {"completion": None}, "completion must be text, got None"),
        (ROW | {"answer": ["4"]}, "answer must be text or a number"),
    ],
)
def test_a_row_at_fault_says_what_is_wrong(values, fault):
    row = read_row(0, values)
    assert row.request is None
    assert fault in row.fault


def test_jsonl_rows_come_in_order_and_broken_lines_are_rows_too(tmp_path: Path):
    lines = [json.dumps(ROW), "", "{broken", json.dumps({**ROW, "id": None})]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    for name in ("in.jsonl", "in.jsonl.gz"):
        source = open_rows(str(tmp_path / name))
        rows = list(source)
        assert source.count == len(rows) == 3
        assert [row.row_id for row in rows] == ["a", None, 2]
        assert "line 3 is not JSON" in rows[1].fault


def test_parquet_rows_are_read(tmp_path: Path):
    pq.write_table(pa.Table.from_pylist([ROW, ROW | {"id": "b"}]), tmp_path / "in.parquet")
    source = open_rows(str(tmp_path / "in.parquet"))
    assert source.count == 2
    assert [row.row_id for row in source] == ["a", "b"]


def test_the_completions_of_a_run_are_read_with_their_verdicts(tmp_path: Path):
    run_dir = RunDirectory(str(tmp_path))
    run_dir.write_text("config.yaml", "")
    prompt = Prompt("p", "2+2?", "User: 2+2?", (1,), "4", "code", {"tests": {"kind": "stdio"}}, domain="code")
    completion = Completion("1/p", "p", 5, "text", (7, 8), (-1.0, -1.0), (2, 2), "length")
    graded = GradedCompletion(completion, Grade(0.5, {"accuracy": 0.5}, Verdict.WRONG))
    RolloutLog(run_dir).write(3, rows_from_group(3, Group("1/p", prompt, (graded,))))
    source = open_rows(str(tmp_path))
    (row,) = source
    assert source.count == 1
    assert (row.row_id, row.stored, row.request.step) == ("3/1/p/5", (Verdict.WRONG, 0.5), 2)
    assert (row.request.prompt.metadata, row.request.prompt.domain) == (prompt.metadata, "code")
    assert (row.request.completion.completion_ids, row.request.completion.finish_reason) == ((7, 8), "length")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "cannot be read.*give a JSONL or parquet file, or a run directory"),
        ("empty.jsonl", b"\n\n", "holds no completions"),
        ("bad.parquet", b"text", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_rows(str(tmp_path / name))


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="is not a run directory"):
        open_rows(str(tmp_path))


def test_the_fingerprint_follows_the_content(tmp_path: Path):
    file = tmp_path / "in.jsonl"
    prints = set()
    for answer in ("4", "5"):
        file.write_text(json.dumps(ROW | {"answer": answer}))
        prints |= {open_rows(str(file)).fingerprint, open_rows(str(file)).fingerprint}
    assert len(prints) == 2
