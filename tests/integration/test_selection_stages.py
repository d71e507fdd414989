"""Rejection, cold start and preferences: real sampling of the embedded model, a real HTTP server as the judge."""

import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray

from r1ray.config.load import load_config
from r1ray.errors import ConfigError, DataError, GraderError
from r1ray.rewards.accuracy import AccuracyReward
from r1ray.stages.rejection import sample_and_select
from r1ray.types import Completion, Prompt, Verdict

PROMPTS = 24


def command(tools: Any, run_dir: Path, stage: str, *more: str) -> list[str]:
    return tools.train_command(
        run_dir,
        f"stage={stage}",
        f"data.train.size={PROMPTS}",
        "rollout.max_completion_tokens=100",
        "selection.samples_per_prompt=4",
        "selection.max_kept_per_prompt=2",
        "selection.prompts_per_shard=8",
        "preferences.prompts_per_shard=8",
        *more,
    )


def run(tools: Any, run_dir: Path, stage: str, *more: str) -> subprocess.CompletedProcess[str]:
    return tools.run_here(command(tools, run_dir, stage, *more))


def rows(run_dir: Path, file: str = "data/samples.parquet") -> list[dict[str, Any]]:
    return pq.read_table(run_dir / file).to_pylist()


def candidates(run_dir: Path) -> list[dict[str, Any]]:
    files = sorted((run_dir / "candidates").glob("shard_*.parquet"))
    # Which worker sampled it is no property of a sample.
    return [
        {k: v for k, v in row.items() if k != "worker"} for file in files for row in pq.read_table(file).to_pylist()
    ]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, tools: Any) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    supplied = folder / "supplied.jsonl"
    lines = [{"question": f"Write {i}.", "completion": f"<think>\n\n</think>\n\n{i}"} for i in range(40)]
    # The first is what the held-out set asks.
    lines[0]["question"] = "What is one and two and three and four and five and six?"
    supplied.write_text("".join(json.dumps(line) + "\n" for line in lines))
    evaluation = folder / "evaluation.jsonl"
    evaluation.write_text(json.dumps({"question": lines[0]["question"].lower(), "answer": "21"}) + "\n")
    run_dir = folder / "cold_start"
    done = run(
        tools,
        run_dir,
        "cold_start",
        f"selection.general=[{{source: jsonl, name: {supplied}, domain: writing}}]",
        f"selection.decontaminate=[{{source: jsonl, name: {evaluation}}}]",
        "selection.general_share=0.75",
    )
    assert done.returncode == 0, done.stderr
    assert "samples by domain" in done.stdout
    return run_dir


def test_every_completion_is_kept_or_has_one_reason(unbroken: Path) -> None:
    total = json.loads((unbroken / "summary.json").read_text())["total"]
    assert total["prompts"] == PROMPTS
    assert total["sampled"] == len(candidates(unbroken)) == 4 * PROMPTS
    assert total["kept"] + sum(total["dropped"].values()) == total["sampled"]
    assert total["kept"] == sum(row["source"] == "sampled" for row in rows(unbroken))
    assert total["keep_rate"] == total["kept"] / total["sampled"]


def test_what_is_kept_is_right_and_in_r1s_form(unbroken: Path) -> None:
    accuracy = AccuracyReward(time_limit_s=5, memory_limit_bytes=2**31)
    sampled = [row for row in rows(unbroken) if row["source"] == "sampled"]
    assert sampled
    for row in sampled:
        assert re.fullmatch(r"<think>\n.+\n</think>\n\n\d+", row["completion"], re.DOTALL)
        prompt = Prompt(row["prompt_id"], row["question"], "", (), row["answer"])
        completion = Completion("g", "p", 0, row["completion"], (), (), (), "stop")
        assert accuracy(prompt, completion).verdict is Verdict.CORRECT
        assert row["verdict"] == "correct"
        assert dict(row["breakdown"]) == {"accuracy": 1.0, "format": 1.0}
        assert json.loads(row["sampling"])["temperature"] == 1.0
    assert max(sum(r["prompt_id"] == row["prompt_id"] for r in sampled) for row in sampled) <= 2


def test_supplied_samples_have_their_share_and_those_of_the_evaluation_are_left_out(unbroken: Path) -> None:
    found = rows(unbroken)
    supplied = [row for row in found if row["source"] == "supplied"]
    sampled = len(found) - len(supplied)
    assert len(supplied) == min(39, 3 * sampled)
    assert not any("one and two" in row["question"] for row in supplied)
    assert {row["domain"] for row in supplied} == {"writing"}


@pytest.mark.parametrize(
    "how", [*(pytest.param(s, marks=pytest.mark.slow) for s in (signal.SIGINT, signal.SIGTERM)), signal.SIGKILL]
)
def test_nothing_is_sampled_twice(unbroken: Path, tools: Any, tmp_path: Path, how: signal.Signals) -> None:
    run_dir = tmp_path / "stopped"
    start = command(tools, run_dir, "cold_start", "selection.general_share=0.0")
    process = subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    folder, end = run_dir / "candidates", time.monotonic() + 400
    while not any(folder.glob("shard_*")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "deadline passed"
        time.sleep(0.01)
    process.send_signal(how)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == (-9 if how is signal.SIGKILL else 130), output
    before = {file.name: file.stat().st_mtime_ns for file in folder.glob("shard_*")}
    sampled = {json.loads(line)["prompt_id"] for line in (folder / "journal.jsonl").read_text().splitlines()}
    for file in before:  # the journal may still hold what has just gone into a shard
        sampled |= set(pq.read_table(folder / file).column("prompt_id").to_pylist())
    assert 0 < len(before) < PROMPTS // 8
    done = tools.run_here([*start, "resume=true"])
    assert done.returncode == 0, done.stderr
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before
    assert f"{len(sampled)} of {PROMPTS} prompts are done" in done.stdout
    # Sampling in other batches may turn a sample whose logits tie; the prompts and their order may not change.
    key = ("prompt_id", "sample_index")
    assert [[row[k] for k in key] for row in candidates(run_dir)] == [
        [row[k] for k in key] for row in candidates(unbroken)
    ]


@pytest.mark.slow
def test_two_workers_sample_what_one_samples(unbroken: Path, tools: Any, tmp_path: Path) -> None:
    done = run(tools, tmp_path / "two", "cold_start", "rollout.num_workers=2", "selection.general_share=0.0")
    assert done.returncode == 0, done.stderr
    texts = [row["completion"] for row in candidates(tmp_path / "two")]
    expected = [row["completion"] for row in candidates(unbroken)]
    assert sum(a == b for a, b in zip(texts, expected, strict=True)) >= 0.98 * len(expected)


def test_other_settings_do_not_go_on_with_what_is_there(unbroken: Path, tools: Any) -> None:
    done = run(tools, unbroken, "cold_start", "resume=true", "rollout.temperature=0.5")
    assert done.returncode == 2
    assert "holds completions of another model, prompts or sampling" in done.stderr


def sampled_already(run_dir: Path, target: Path) -> Path:
    """Copy what a job has sampled, so that another one selects from it and samples nothing."""
    shutil.copytree(run_dir / "candidates", target / "candidates")
    return target


def test_a_selection_that_keeps_nothing_says_why(unbroken: Path, tools: Any, tmp_path: Path) -> None:
    run_dir = sampled_already(unbroken, tmp_path / "none")
    done = run(tools, run_dir, "cold_start", "selection.min_reward=3")
    assert done.returncode == 2
    assert re.search(r"none of 96 completions is kept: \d+ not correct", done.stderr)
    assert candidates(run_dir) == candidates(unbroken)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (["data.train.source=jsonl", "data.train.name=nowhere.jsonl"], DataError, r"nowhere\.jsonl"),
        (["selection.general=[{source: jsonl, name: nowhere.jsonl}]"], DataError, r"nowhere\.jsonl"),
        (["selection.decontaminate=[{name: arithmetic, split: eval}]"], DataError, "must have an end: set its size"),
        (["data.train.size=null"], DataError, r"data\.train must have an end"),
        (["template.name=chat"], ConfigError, "chat template"),
        (
            [f"selection.rewrite.{key}" for key in ("base_url=http://127.0.0.1:9/v1", "model=m", "max_retries=0")],
            GraderError,
            r"selection\.rewrite",
        ),
    ],
)
def test_what_cannot_work_is_said_before_ray_starts(
    tools: Any, tmp_path: Path, given: list[str], error: type[Exception], message: str
) -> None:
    config = load_config(
        tools.root / "conf/quickstart.yaml",
        ["stage=rejection", "data.train.size=4", f"run.dir={tmp_path / 'refused'}", *given],
    )
    with pytest.raises(error, match=message):
        sample_and_select(config)
    assert not ray.is_initialized()
    assert not (tmp_path / "refused").exists()


# -- a judge and a rewriter behind a real HTTP server --------------------------------------------------------------


def shown(text: str, label: str) -> str:
    return re.search(rf"^BEGIN {label} (\w+)\n(.*?)\nEND {label} \1$", text, re.DOTALL | re.MULTILINE)[2]


def test_a_rewrite_counts_only_if_it_is_still_right(unbroken: Path, tools: Any, tmp_path: Path, endpoint: Any) -> None:
    def reply(text: str, number: int) -> str:
        solution = shown(text, "SOLUTION")
        answer = solution.rpartition("\n")[2].strip()
        thought = "We add the three numbers, and so we find the sum that was asked for."
        if number % 3 == 0:
            answer = "1" + answer
        closing = "" if number % 3 == 1 else "\n</think>"
        return f"<think>\n{thought}{closing}\n\nThe answer is {answer}"

    endpoint.reply = reply
    run_dir = sampled_already(unbroken, tmp_path / "rewritten")
    done = run(
        tools,
        run_dir,
        "cold_start",
        f"selection.rewrite.base_url={endpoint.url}",
        "selection.rewrite.model=m",
        "selection.general_share=0.0",
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads((run_dir / "summary.json").read_text())["rewriting"]
    found = rows(run_dir)
    assert counts["rewritten"] == sum(row["rewritten"] for row in found) > 0
    assert counts["kept the original: another answer"] > 0
    assert counts["kept the original: not in R1's form"] > 0
    assert sum(counts.values()) == len(found)
    for row in found:
        assert ("We add the three numbers" in row["completion"]) == row["rewritten"]
        assert row["completion"].endswith(row["answer"])


def longer_wins(text: str, number: int) -> str:
    """Prefer the longer reply, and the one shown first a little more."""
    first, second = len(shown(text, "A")), len(shown(text, "B"))
    return "[[A>>B]]" if first > second + 3 else "[[B>>A]]" if second > first + 3 else "[[A>B]]"


PAIRS = ("preferences.judge.model=m", "preferences.samples_per_prompt=4", "preferences.max_pairs_per_prompt=2")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, tools: Any) -> Path:
    """Pairs, judged by a server that then goes away."""
    served = tools.Endpoint()
    served.reply = longer_wins
    run_dir = tmp_path_factory.mktemp("judged") / "pairs"
    given = (*PAIRS, f"preferences.judge.base_url={served.url}", "preferences.max_length_bias=10")
    try:
        done = run(tools, run_dir, "preferences", *given)
        assert done.returncode == 0, done.stderr
        asked = len(served.bodies)
        again = run(tools, run_dir, "preferences", *given, "resume=true")
        assert again.returncode == 0, again.stderr
        # One question is asked to see whether the endpoint is there; what it has said before is kept.
        assert len(served.bodies) == asked + 1
    finally:
        served.close()
    return run_dir


def test_pairs_are_judged_in_both_orders_and_kept_above_the_margin(judged: Path) -> None:
    summary = json.loads((judged / "summary.json").read_text())
    pairs = rows(judged, "data/preferences.parquet")
    assert len(pairs) == summary["pairs"] > 0
    assert summary["pairs_judged"] == summary["pairs"] + summary["dropped_by_margin"]
    # Replies of like length go by the place alone, which evens out to a margin of 0.
    assert summary["dropped_by_margin"] > 0
    for pair in pairs:
        assert pair["margin"] == 2.0
        assert len(pair["judgements"]) == 4
        one, other = (pair[k].rpartition("</think>")[2].strip() for k in ("chosen", "rejected"))
        assert len(one) > len(other) + 3


def test_labels_are_the_majority_of_the_judgements(judged: Path, tools: Any, tmp_path: Path, endpoint: Any) -> None:
    endpoint.reply = lambda text, number: "[[UNSAFE]]" if "guess" in shown(text, "RESPONSE") else "[[SAFE]]"
    run_dir = sampled_already(judged, tmp_path / "labels")
    given = ("preferences.kind=pointwise", "preferences.num_judgements=3")
    done = run(tools, run_dir, "preferences", *PAIRS, *given, f"preferences.judge.base_url={endpoint.url}")
    assert done.returncode == 0, done.stderr
    found = rows(run_dir, "data/preferences.parquet")
    assert {row["label"] for row in found} == {0, 1}
    assert all(row["label"] == int("guess" not in row["completion"]) for row in found)


def test_a_judge_that_fails_too_often_ends_the_stage_and_nothing_is_lost(
    judged: Path, tools: Any, tmp_path: Path, endpoint: Any
) -> None:
    endpoint.reply = lambda text, number: "It is.\n[[A>B]]" if number < 30 else "I cannot say."
    run_dir = sampled_already(judged, tmp_path / "failing")
    done = run(tools, run_dir, "preferences", *PAIRS, f"preferences.judge.base_url={endpoint.url}")
    assert done.returncode == 1
    assert re.search(r"the judge failed for \d+ of \d+, more than rewards\.max_error_fraction=0\.1", done.stderr)
    assert candidates(run_dir) == candidates(judged)
