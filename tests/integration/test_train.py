"""Whole runs through the command line: files, resume to the bit, interruption, failures, several modes."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

TIMING = ("time/", "rollout/tokens_per_s", "learner/tokens_per_s", "learner/flops_per_s")


def without_timing(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if not k.startswith(TIMING)} for line in lines]


def wait_for(condition: Any, *, deadline_s: float, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "deadline passed"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, tools: Any) -> Path:
    """Four steps without interruption."""
    run_dir = tmp_path_factory.mktemp("runs") / "unbroken"
    done = tools.run_train(run_dir, "train.steps=4", "checkpoint.every_steps=2", "tracking.tensorboard=true")
    assert done.returncode == 0, done.stderr
    assert "pass@1" in done.stdout
    assert "\x1b" not in done.stdout
    return run_dir


def test_a_run_leaves_its_directory_as_documented(unbroken: Path, tools: Any) -> None:
    lines = tools.metrics_of(unbroken)
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4]
    documented = {
        *("policy_version", "train/reward_mean", "train/accuracy_mean", "train/completion_tokens_mean", "train/kl"),
        *("train/entropy", "train/clip_fraction", "train/grad_norm", "train/logprob_mismatch"),
        *(
            "train/staleness_mean_steps",
            "rollout/tokens_per_s",
            "learner/tokens_per_s",
            "learner/packing_efficiency",
            "learner/micro_batch_fill",
        ),
        *("time/step_s", "time/rollout_s", "time/grade_s", "time/learn_s", "time/sync_s"),
    }
    assert all(documented <= line.keys() for line in lines[1:])
    assert {"eval/pass_at_1"} <= lines[0].keys() & lines[-1].keys()
    summary = json.loads((unbroken / "summary.json").read_text())
    assert summary["steps"] == 4
    assert summary["samples"] == 4 * 4 * 4
    assert (unbroken / "report.html").stat().st_size > 10_000
    assert list((unbroken / "tensorboard").iterdir())
    assert sorted(p.name for p in (unbroken / "checkpoints").iterdir()) == ["step_000002", "step_000004"]


def test_every_completion_is_stored_with_its_grade_and_versions(unbroken: Path) -> None:
    files = sorted((unbroken / "rollouts").iterdir())
    assert [f.name for f in files] == [f"step_{i:06d}.parquet" for i in (1, 2, 3, 4)]
    for step, file in enumerate(files, start=1):
        rows = pq.read_table(file).to_pylist()
        assert len(rows) == 16
        for row in rows:
            assert len(row["completion_ids"]) == len(row["rollout_logprobs"]) == len(row["policy_versions"]) > 0
            assert set(row["policy_versions"]) == {step - 1}
            # Over the limit counts as wrong: reward 0 whatever the parts say.
            parts = dict(row["breakdown"])
            assert row["reward"] == (0.0 if row["finish_reason"] == "length" else parts["accuracy"] + parts["format"])


def test_logprobs_of_engine_and_learner_agree_in_float32(unbroken: Path, tools: Any) -> None:
    assert max(line["train/logprob_mismatch"] for line in tools.metrics_of(unbroken)[1:]) <= 1e-4


def test_the_checkpoint_is_a_model_that_transformers_loads(unbroken: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = unbroken / "checkpoints" / "step_000004" / "model"
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = AutoTokenizer.from_pretrained(folder)("What is 1 + 2", return_tensors="pt").input_ids
    assert model(ids).logits.isfinite().all()


def test_a_killed_run_resumes_to_the_last_bit(unbroken: Path, tmp_path: Path, tools: Any) -> None:
    run_dir = tmp_path / "killed"
    overrides = ("train.steps=4", "checkpoint.every_steps=2")
    process = subprocess.Popen(
        tools.train_command(run_dir, *overrides),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    checkpoint = run_dir / "checkpoints" / "step_000002"
    wait_for(checkpoint.exists, deadline_s=300, process=process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    resumed = tools.run_train(run_dir, *overrides, "resume=true")
    assert resumed.returncode == 0, resumed.stderr
    assert without_timing(tools.metrics_of(run_dir)) == without_timing(tools.metrics_of(unbroken))
    for name in ("step_000003", "step_000004"):
        mine, theirs = (pq.read_table(d / "rollouts" / f"{name}.parquet") for d in (run_dir, unbroken))
        assert mine.equals(theirs)
    weights = "checkpoints/step_000004/model/model.safetensors"
    assert (run_dir / weights).read_bytes() == (unbroken / weights).read_bytes()


@pytest.mark.slow
def test_an_evaluation_that_was_interrupted_is_made_up_on_resume(unbroken: Path, tmp_path: Path, tools: Any) -> None:
    run_dir = tmp_path / "unevaluated"
    shutil.copytree(unbroken, run_dir)
    whole = tools.metrics_of(run_dir)
    cut = {name: value for name, value in whole[-1].items() if not name.startswith(("eval/", "time/eval"))}
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*whole[:-1], cut]))
    done = tools.run_train(run_dir, "train.steps=4", "checkpoint.every_steps=2", "resume=true")
    assert done.returncode == 0, done.stderr
    assert without_timing(tools.metrics_of(run_dir)) == without_timing(whole)
    assert json.loads((run_dir / "summary.json").read_text())["pass_at_1_after"] == whole[-1]["eval/pass_at_1"]


# Ray has a handler of its own for SIGTERM in a process that starts it.
@pytest.mark.parametrize(
    ("how", "more"),
    [pytest.param(signal.SIGINT, (), marks=pytest.mark.slow), (signal.SIGTERM, ("cluster.address=local",))],
)
def test_ctrl_c_and_sigterm_save_a_checkpoint_and_say_how_to_go_on(
    tmp_path: Path, tools: Any, how: signal.Signals, more: tuple[str, ...]
) -> None:
    run_dir = tmp_path / "stopped"
    process = subprocess.Popen(
        tools.train_command(run_dir, "train.steps=500", *more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    metrics = run_dir / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") > 1, deadline_s=300, process=process)
    process.send_signal(how)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "resume=true" in output
    steps = len(metrics.read_text().splitlines()) - 1
    assert [p.name for p in (run_dir / "checkpoints").iterdir()] == [f"step_{steps:06d}"]
    assert (run_dir / "report.html").exists()


def test_a_directory_with_a_run_is_not_overwritten(unbroken: Path, tools: Any) -> None:
    before = (unbroken / "metrics.jsonl").read_bytes()
    done = tools.run_train(unbroken, "train.steps=4")
    assert done.returncode == 2
    assert "resume=true" in done.stderr
    assert (unbroken / "metrics.jsonl").read_bytes() == before


def test_rollouts_run_ahead_within_the_staleness_limit(tmp_path: Path, tools: Any) -> None:
    run_dir = tmp_path / "ahead"
    done = tools.run_train(run_dir, "train.steps=5", "train.max_staleness_steps=2", "cluster.separate_cores=true")
    assert done.returncode == 0, done.stderr
    stale = []
    for step in range(1, 6):
        for row in pq.read_table(run_dir / "rollouts" / f"step_{step:06d}.parquet").to_pylist():
            assert row["policy_versions"] == sorted(row["policy_versions"])
            stale += [step - 1 - version for version in row["policy_versions"]]
    assert min(stale) >= 0
    assert 0 < max(stale) <= 2


def test_minibatches_share_a_rollout_phase(tmp_path: Path, tools: Any) -> None:
    run_dir = tmp_path / "minibatches"
    done = tools.run_train(run_dir, "train.steps=4", "train.steps_per_rollout=2", "learner.num_processes=2")
    assert done.returncode == 0, done.stderr
    lines = tools.metrics_of(run_dir)
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4]
    # The second update of a phase trains on samples one step old, against the old_logprobs of the first.
    assert [line["train/staleness_mean_steps"] for line in lines[1:]] == [0.0, 1.0, 0.0, 1.0]
    assert max(line["train/logprob_mismatch"] for line in lines[1:]) <= 1e-4
    assert [line["rollout/samples"] for line in lines[1:]] == [32.0, 0.0, 32.0, 0.0]
    assert (run_dir / "rollouts" / "step_000001.parquet").exists()
    assert not (run_dir / "rollouts" / "step_000002.parquet").exists()


def test_a_killed_rollout_worker_is_replaced_and_its_work_done_again(tmp_path: Path, tools: Any) -> None:
    run_dir = tmp_path / "survivor"
    process = subprocess.Popen(
        tools.train_command(run_dir, "train.steps=6"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    metrics = run_dir / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") > 1, deadline_s=300, process=process)
    (worker,) = tools.worker_processes("RolloutWorker")
    worker.kill()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    kinds = [json.loads(line)["kind"] for line in (run_dir / "events.jsonl").read_text().splitlines()]
    assert kinds.count("rollout_worker_failed") == kinds.count("rollout_worker_restarted") == 1
    assert [line["step"] for line in tools.metrics_of(run_dir)] == list(range(7))


def test_a_killed_learner_starts_again_from_the_checkpoint(unbroken: Path, tmp_path: Path, tools: Any) -> None:
    run_dir = tmp_path / "reborn"
    process = subprocess.Popen(
        tools.train_command(run_dir, "train.steps=4", "checkpoint.every_steps=2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    wait_for((run_dir / "checkpoints" / "step_000002").exists, deadline_s=300, process=process)
    (learner,) = tools.worker_processes("LearnerWorker")
    learner.kill()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "learner process 0 of 1 died" in output
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    assert [e["kind"] for e in events if e["kind"].startswith("learner")] == ["learner_died", "learner_restarted"]
    # Not to the last bit: the engine lived on, and what it still decoded shared batches with what came again.
    lines, expected = (without_timing(tools.metrics_of(d)) for d in (run_dir, unbroken))
    for line, other in zip(lines, expected, strict=True):
        assert line == pytest.approx(other, rel=1e-4, abs=1e-5)


def test_vllm_runs_the_same_loop(tmp_path: Path, tools: Any) -> None:
    pytest.importorskip("vllm")
    run_dir = tmp_path / "vllm"
    done = tools.run_train(run_dir, "rollout.engine=vllm", "train.steps=2")
    assert done.returncode == 0, done.stderr
    lines = tools.metrics_of(run_dir)
    assert max(line["train/logprob_mismatch"] for line in lines[1:]) <= 1e-4
    assert max(line["sync/probe_diff"] for line in lines[1:]) <= 1e-4
