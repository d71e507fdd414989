"""`r1ray grade` as users run it: a process of its own, real graders, interruptions."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from r1ray.tracking.rollouts import RolloutLog, rows_from_group
from r1ray.tracking.run_dir import RunDirectory
from r1ray.types import Completion, Grade, GradedCompletion, Group, Prompt, Verdict

R1RAY = [sys.executable, "-m", "r1ray.cli"]
DEADLINE_S = 120
NUM_ROWS = 900
ACCURACY = "rewards.terms=[{name: accuracy}]"


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def grade(ray_address: str):
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        given = [*map(str, arguments), f"cluster.address={ray_address}", "rewards.num_workers=1"]
        return subprocess.run([*R1RAY, "grade", *given], capture_output=True, text=True, timeout=DEADLINE_S)

    return run


def test_every_row_is_answered_by_what_it_brings(tmp_path: Path, grade):
    doubling = {"kind": "stdio", "cases": [{"stdin": "2\n", "stdout": "4\n"}], "time_limit_s": 2}
    thought = "<think>We add two and two, which makes four.</think> "
    rows = [
        {"id": "math", "task": "math", "completion": rf"{thought}\boxed{{4}}", "answer": "4", "target_language": "en"},
        {"id": "chinese", "task": "math", "completion": rf"{thought}\boxed{{4}}", "answer": 4, "target_language": "zh"},
        {"id": "choice", "task": "choice", "completion": "The answer is (B).", "answer": "B"},
        {"id": "code", "task": "code", "completion": "```python\nprint(2 * int(input()))\n```", "tests": doubling},
        {"id": "endless", "task": "code", "completion": "```python\nwhile True: pass\n```", "tests": doubling},
        {"id": "language", "task": "text", "completion": thought + "Four.", "target_language": "en"},
        {"id": "nothing", "task": "text", "completion": "Four."},
        {"id": "gold", "task": "math", "completion": r"\boxed{4}", "answer": ""},
    ]
    write_rows(tmp_path / "in.jsonl", rows)
    done = grade(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert done.returncode == 0, done.stderr
    out = {row["id"]: row for row in read_rows(tmp_path / "out.jsonl")}
    assert list(out) == [row["id"] for row in rows]
    assert {key: (row["reward"], row["verdict"]) for key, row in out.items()} == {
        "math": (1.0, "correct"),
        "chinese": (1.0, "correct"),
        "choice": (1.0, "correct"),
        "code": (1.0, "correct"),
        "endless": (0.0, "timeout"),
        "language": (1.0, "correct"),
        "nothing": (0.0, "error"),
        "gold": (0.0, "error"),
    }
    assert out["math"]["breakdown"] == {"accuracy": 1.0, "language": 1.0}
    assert out["chinese"]["breakdown"] == {"accuracy": 1.0, "language": 0.0}
    assert "no answer, tests or target_language" in out["nothing"]["detail"]
    assert "8 completions" in done.stdout


def test_an_interrupted_run_loses_nothing_and_goes_on(tmp_path: Path, grade, ray_address: str):
    rows = [{"id": i, "completion": rf"\boxed{{\frac{{{i}}}{{7}}}}", "answer": f"{i}/7"} for i in range(NUM_ROWS)]
    write_rows(tmp_path / "in.jsonl", rows)
    out, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    arguments = [*map(str, (tmp_path / "in.jsonl", out)), ACCURACY, "rewards.num_workers=1"]
    lengths = []
    for number, address in ((signal.SIGKILL, ray_address), (signal.SIGINT, "local")):
        command = [*R1RAY, "grade", *arguments, f"cluster.address={address}"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        before = len(read_rows(partial)) if partial.exists() else 0
        until = time.monotonic() + DEADLINE_S
        while not partial.exists() or partial.read_bytes().count(b"\n") < before + 100:
            assert time.monotonic() < until
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate(timeout=DEADLINE_S)
        lengths.append(partial.read_bytes().count(b"\n"))
        assert not out.exists()
    assert process.returncode == 130
    assert "the same command goes on" in errors
    assert 100 < lengths[0] < lengths[1] < NUM_ROWS
    done = grade(tmp_path / "in.jsonl", out, ACCURACY)
    assert done.returncode == 0, done.stderr
    assert "going on after" in done.stdout
    graded = read_rows(out)
    assert [row["id"] for row in graded] == list(range(NUM_ROWS))
    assert {row["verdict"] for row in graded} == {"correct"}
    assert not partial.exists()


def test_the_completions_of_a_run_are_graded_again(tmp_path: Path, grade):
    run = RunDirectory(str(tmp_path / "run"))
    run.write_text("config.yaml", "")
    prompt = Prompt("p", "2+2?", "User: 2+2?", (1,), "4")
    stored = [(r"\boxed{4}", Verdict.CORRECT), (r"\boxed{5}", Verdict.WRONG), (r"\boxed{8/2}", Verdict.WRONG)]
    graded = tuple(
        GradedCompletion(Completion("1/p", "p", i, text, (7,), (-1.0,), (0,), "stop"), Grade(0.0, {}, verdict))
        for i, (text, verdict) in enumerate(stored)
    )
    RolloutLog(run).write(1, rows_from_group(1, Group("1/p", prompt, graded)))
    done = grade(tmp_path / "run", tmp_path / "out.jsonl", ACCURACY)
    assert done.returncode == 0, done.stderr
    out = read_rows(tmp_path / "out.jsonl")
    assert [row["id"] for row in out] == ["1/1/p/0", "1/1/p/1", "1/1/p/2"]
    assert Counter((row["stored_verdict"], row["verdict"]) for row in out) == {
        ("correct", "correct"): 1,
        ("wrong", "wrong"): 1,
        ("wrong", "correct"): 1,
    }
    assert "agreement with the stored verdicts: 66.7%" in done.stdout


def test_what_cannot_be_graded_is_said_before_anything_starts(tmp_path: Path, grade):
    write_rows(tmp_path / "in.jsonl", [{"completion": "4", "answer": "4"}])
    (tmp_path / "old.jsonl").write_text("")
    for arguments, message in [
        ((tmp_path / "none.jsonl", tmp_path / "out.jsonl"), "none.jsonl cannot be read"),
        ((tmp_path / "in.jsonl", tmp_path / "old.jsonl"), "exists: name another file"),
        ((tmp_path / "in.jsonl", tmp_path / "out.jsonl", "rewards.terms=[{name: acuracy}]"), "did you mean 'accuracy'"),
    ]:
        done = grade(*arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"in.jsonl", "old.jsonl"}
