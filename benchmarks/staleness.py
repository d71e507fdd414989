"""Does training on completions up to two steps old reach the same held-out accuracy in less time per step?

Runs conf/async_cpu.yaml, where rollout and learning have cores of their own, with `train.max_staleness_steps` 0 and
2 in turn, on this machine in one go.

    .venv/bin/python benchmarks/staleness.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from provenance import RESULTS, ROOT, provenance

CONFIG = "conf/async_cpu.yaml"


def run(staleness: int, overrides: list[str]) -> dict[str, Any]:
    """Train once; returns held-out accuracy, seconds per step and how old the tokens were."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        command = [str(Path(sys.executable).parent / "r1ray"), "train", CONFIG, f"run.dir={run_dir}"]
        subprocess.run(
            [*command, f"train.max_staleness_steps={staleness}", "cluster.address=local", *overrides],
            check=True,
            cwd=ROOT,
            stdout=sys.stderr,
        )
        summary = json.loads((run_dir / "summary.json").read_text())
        steps = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()][1:]
    seconds = [step["time/step_s"] for step in steps]
    return {
        "pass_at_1_before": summary["pass_at_1_before"],
        "pass_at_1_after": summary["pass_at_1_after"],
        # The first step waits for engines that have never run.
        "step_s_mean": sum(seconds[1:]) / len(seconds[1:]),
        "step_s_median": median(seconds[1:]),
        "staleness_mean_steps": sum(s["train/staleness_mean_steps"] for s in steps) / len(steps),
        "completion_tokens": [step["train/completion_tokens_mean"] for step in steps],
        "reward": [step["train/reward_mean"] for step in steps],
        "step_s": seconds,
    }


def main() -> None:
    """Run both in turn and write results/staleness.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_intermixed_args()
    rounds = []
    for _ in range(arguments.rounds):
        fresh, stale = run(0, arguments.overrides), run(2, arguments.overrides)
        rounds.append(
            {"step_s_ratio": stale["step_s_mean"] / fresh["step_s_mean"], "staleness_0": fresh, "staleness_2": stale}
        )
        for name in ("staleness_0", "staleness_2"):
            side = rounds[-1][name]
            print(f"{name}: pass@1 {side['pass_at_1_after']:.1%}, {side['step_s_mean']:.2f} s a step", flush=True)
    result = {
        **provenance(__doc__, " ".join(["benchmarks/staleness.py", *sys.argv[1:]])),
        "step_s_ratio_median": median(r["step_s_ratio"] for r in rounds),
        "rounds": rounds,
    }
    path = arguments.out / "staleness.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"seconds per step, 2 over 0: {result['step_s_ratio_median']:.2f}; written to {path}")


if __name__ == "__main__":
    main()
