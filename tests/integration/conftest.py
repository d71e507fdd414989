"""A Ray of the tests' own, and small real runs of the command line."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "conf" / "quickstart.yaml"
# A run of seconds: everything real, only less of it.
SMALL = [
    "rollout.engine=transformers",
    "rollout.group_size=4",
    "rollout.max_completion_tokens=48",
    "train.num_prompts_per_step=4",
    "data.eval.size=8",
    "learner.micro_batch_tokens=1024",
    "cluster.address=local",
]


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    import ray

    from r1ray.driver.placement import start_local_ray

    start_local_ray(num_cpus=2, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


def train_command(run_dir: Path, *overrides: str) -> list[str]:
    executable = Path(sys.executable).parent / "r1ray"
    return [str(executable), "train", str(QUICKSTART), f"run.dir={run_dir}", *SMALL, *overrides]


def run_train(run_dir: Path, *overrides: str, timeout_s: float = 400) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    return subprocess.run(
        train_command(run_dir, *overrides),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment,
        check=False,
    )


def metrics_of(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def tools() -> Any:
    """Hand the helpers above to tests, which cannot import each other."""
    from types import SimpleNamespace

    return SimpleNamespace(train_command=train_command, run_train=run_train, metrics_of=metrics_of, root=ROOT)
