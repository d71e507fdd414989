"""What did a training run gain on held-out prompts, and how sure is that?

Turns a finished run directory into a result to keep: accuracy before and after, the gain with its 95% confidence
interval, the curve, seconds, command, hardware and commit.

    .venv/bin/r1ray train conf/smollm2_135m.yaml run.dir=runs/smollm2_135m
    .venv/bin/python benchmarks/record_run.py runs/smollm2_135m "r1ray train conf/smollm2_135m.yaml"
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from provenance import RESULTS, provenance

from r1ray.tracking.curves import write_curve_picture
from r1ray.tracking.run_dir import RunDirectory

CURVE = (
    *("step", "train/reward_mean", "train/accuracy_mean", "train/format_mean", "train/completion_tokens_mean"),
    *("train/kl", "train/entropy", "train/logprob_mismatch", "eval/pass_at_1", "time/step_s"),
)


def main() -> None:
    """Write results/NAME.json and results/NAME.svg."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("command", help="what was run")
    parser.add_argument("--name", help="of the result; default: that of the run directory")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    summary = json.loads((arguments.run_dir / "summary.json").read_text())
    lines = [json.loads(line) for line in (arguments.run_dir / "metrics.jsonl").read_text().splitlines()]
    gain = summary["pass_at_1_after"] - summary["pass_at_1_before"]
    # Both evaluations as independent samples: wider than a paired interval would be.
    half_width = 1.96 * math.hypot(summary["pass_at_1_stderr_before"], summary["pass_at_1_stderr_after"])
    summary.pop("report")
    result = {
        **provenance(__doc__, arguments.command),
        "gain": gain,
        "gain_95_percent_interval": [gain - half_width, gain + half_width],
        "summary": summary,
        "curve": [{name: line[name] for name in CURVE if name in line} for line in lines],
    }
    name = arguments.name or arguments.run_dir.name
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    write_curve_picture(RunDirectory(arguments.run_dir), arguments.out / f"{name}.svg")
    low, high = result["gain_95_percent_interval"]
    print(f"{name}: pass@1 {summary['pass_at_1_before']:.1%} -> {summary['pass_at_1_after']:.1%}, ", end="")
    print(f"gain {100 * gain:+.1f} points, 95% interval [{100 * low:+.1f}, {100 * high:+.1f}]")


if __name__ == "__main__":
    main()
