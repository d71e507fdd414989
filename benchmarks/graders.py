"""How fast are the graders beside their plain counterparts, how do they scale, and do they survive 10,000 completions?

One run answers four questions:
  - code: a completion with 10 test cases against 10 bare `subprocess.run([python, ...])` of the same program;
  - math: r1ray's grader against plain math-verify in a loop, per core;
  - scaling: completions a second of the grader pool with 1, 2 and more workers;
  - mixed: `r1ray grade` over 10,000 completions of every kind, 5% of them pathological: are all answered, is the
    verdict of each as expected, does memory stay flat.

    .venv/bin/python benchmarks/graders.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import code_graders
import math_graders
import psutil
import ray
from mixed_completions import rows
from provenance import RESULTS, provenance

from r1ray.config.schema import RewardsConfig, RewardTerm, SandboxConfig
from r1ray.driver.placement import start_local_ray
from r1ray.rewards.pool import GraderPool
from r1ray.stages.grade_input import read_row

SAMPLE_S = 2.0
TIME_LIMIT_S = 2.0


def measure_scaling(workers: list[int], count: int) -> dict[str, float]:
    """Return completions graded a second by pools of several sizes, on the same honest completions."""
    requests = [read_row(i, row).request for i, row in enumerate(rows(count, pathological=0.0, seed=1))]
    chosen = [request for request in requests if request is not None]
    rates = {}
    start_local_ray(num_cpus=max(workers), log_to_driver=False)
    try:
        for number in workers:
            rewards = RewardsConfig(terms=[RewardTerm("accuracy")], num_workers=number, time_limit_s=TIME_LIMIT_S)
            pool = GraderPool(rewards, SandboxConfig(), on_event=lambda kind, **fields: None)
            _grade_all(pool, chosen[: 50 * number])
            began = time.perf_counter()
            _grade_all(pool, chosen)
            rates[str(number)] = len(chosen) / (time.perf_counter() - began)
            pool.shutdown()
            print(f"{number} workers: {rates[str(number)]:.1f} completions/s", flush=True)
    finally:
        ray.shutdown()
    return rates


def _grade_all(pool: GraderPool, requests: list[Any]) -> None:
    pool.submit(requests)
    while pool.outstanding_items:
        pool.poll(1.0)


def measure_mixed(count: int) -> dict[str, Any]:
    """Grade `count` completions with the command that users run; watch its processes meanwhile."""
    made = list(rows(count, pathological=0.05, seed=0))
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "in.jsonl", Path(folder) / "out.jsonl"
        source.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "expected"}) + "\n" for row in made))
        command = [str(Path(sys.executable).parent / "r1ray"), "grade", str(source), str(out), "cluster.address=local"]
        began = time.perf_counter()
        process = subprocess.Popen([*command, f"rewards.time_limit_s={TIME_LIMIT_S}"], stdout=sys.stderr)
        samples = _watch(process)
        seconds = time.perf_counter() - began
        graded = [json.loads(line) for line in out.read_text().splitlines()]
    verdicts = Counter(row["verdict"] for row in graded)
    unexpected = [
        {"id": row["id"], "expected": row["expected"], "verdict": grade["verdict"], "detail": grade["detail"]}
        for row, grade in zip(made, graded, strict=True)
        if grade["verdict"] not in row["expected"]
    ]
    return {
        "completions": count,
        "answered": len(graded),
        "exit_code": process.returncode,
        "seconds": seconds,
        "completions_per_s": count / seconds,
        "verdicts": dict(verdicts),
        "unexpected": unexpected,
        "memory_bytes": samples,
    }


def _watch(process: subprocess.Popen[bytes]) -> dict[str, list[int]]:
    """Sample the memory of driver, grader actors and their children until the process ends."""
    driver = psutil.Process(process.pid)
    samples: dict[str, list[int]] = {"driver": [], "graders": [], "children": []}
    while process.poll() is None:
        kinds: Counter[str] = Counter()
        for each in [driver, *driver.children(recursive=True)]:
            try:
                title = " ".join(each.cmdline())
                kind = "driver" if each.pid == driver.pid else "graders" if "_GraderActor" in title else ""
                kind = "children" if "math_child" in title else kind
                kinds[kind] += each.memory_info().rss
            except psutil.Error:
                continue
        for kind, values in samples.items():
            values.append(kinds[kind])
        time.sleep(SAMPLE_S)
    return samples


def main() -> None:
    """Answer all four questions and write results/graders.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="completions of the mixed part")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, os.cpu_count() or 1])
    parser.add_argument("--data", type=Path, help="JSONL with math answers; default: the tests' own")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    result = {
        **provenance(__doc__, " ".join(["benchmarks/graders.py", *sys.argv[1:]])),
        "code": code_graders.measure(),
        "math": math_graders.measure(arguments.data),
        "pool_completions_per_s": measure_scaling(sorted(set(arguments.workers)), count=1000),
        "mixed": measure_mixed(arguments.count),
    }
    path = arguments.out / "graders.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
