"""The learner and the quickstart on one CUDA device."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
ROOT = Path(__file__).parents[2]


def train(run_dir: Path, *overrides: str) -> list[dict[str, float]]:
    executable = str(Path(sys.executable).parent / "r1ray")
    command = [executable, "train", str(ROOT / "conf/quickstart.yaml"), f"run.dir={run_dir}", "cluster.address=local"]
    done = subprocess.run([*command, *overrides], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_the_quickstart_reaches_its_target_on_a_gpu(tmp_path: Path) -> None:
    lines = train(tmp_path / "run", "rollout.engine=transformers", "cluster.device=cuda")
    assert lines[0]["eval/pass_at_1"] <= 0.3
    assert lines[-1]["eval/pass_at_1"] >= 0.9


def test_first_steps_on_cuda_and_cpu_agree(tmp_path: Path) -> None:
    small = ("rollout.engine=transformers", "train.steps=1", "train.num_prompts_per_step=4", "data.eval.size=8")
    on_gpu = train(tmp_path / "gpu", *small, "cluster.device=cuda")
    on_cpu = train(tmp_path / "cpu", *small, "cluster.device=cpu")
    assert on_gpu[1]["train/logprob_mismatch"] <= 1e-4
    # The same first completions up to rare ties, hence nearly the same gradient.
    assert on_gpu[1]["train/grad_norm"] == pytest.approx(on_cpu[1]["train/grad_norm"], rel=0.2)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="separate placement needs two CUDA devices")
def test_nccl_sync_between_two_gpus(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    lines = train(tmp_path / "run", "train.steps=2", "cluster.device=cuda", "cluster.placement=separate")
    assert max(line["sync/probe_diff"] for line in lines[1:]) <= 1e-3


def test_ipc_sync_on_one_gpu(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    overrides = (
        "train.steps=2",
        "cluster.device=cuda",
        "cluster.placement=colocated",
        "rollout.gpu_memory_fraction=0.3",
    )
    lines = train(tmp_path / "run", *overrides)
    assert max(line["sync/probe_diff"] for line in lines[1:]) <= 1e-3
