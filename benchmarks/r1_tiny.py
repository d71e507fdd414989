"""Does each stage of R1's pipeline do in small what the paper says it does?

Runs conf/r1/tiny.yaml and its ablations once per seed, reads every evaluation, and reports means over the seeds with
95% t-intervals. Differences are taken within a seed, so what the seeds share does not widen them.

    .venv/bin/python benchmarks/r1_tiny.py --seeds 0 1 2 --at-once 2
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

from provenance import RESULTS, ROOT, provenance

PIPELINES = ("conf/r1/tiny.yaml", "conf/r1/tiny_ablations.yaml")
# Two-sided 95% quantiles of Student's t by degrees of freedom.
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
CURVE = (
    *("step", "train/reward_mean", "train/accuracy_mean", "reward/language_mean", "train/format_mean", "train/loss"),
    *("train/completion_tokens_mean", "reward/reward_model_mean", "eval/pass_at_1", "eval/loss", "eval/accuracy"),
    "reward/r1ray.data.embedded.rater:note_quality_reward_mean",
)
STUDENTS = ("student_distilled", "student_rl")
ABLATIONS = ("dev2_no_language", "student_rl", "r1_hacked")

Figures = dict[str, float]
Models = dict[str, Figures]


def run_seeds(directories: Mapping[int, Path], values: Sequence[str], *, at_once: int) -> None:
    """Run both pipelines for every seed; what is done already is skipped."""
    mine = sorted(os.sched_getaffinity(0))
    cores: Queue[list[int]] = Queue()
    for number in range(at_once):
        cores.put(mine[number::at_once])

    def run(seed: int) -> None:
        own, log = cores.get(), directories[seed].with_suffix(".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        pinned = ["taskset", "--cpu-list", ",".join(map(str, own)), Path(sys.executable).with_name("r1ray")]
        for config in PIPELINES:
            command = [*pinned, "pipeline", ROOT / config, f"dir={directories[seed]}", f"seed={seed}", *values]
            with log.open("ab") as output:
                subprocess.run([*map(str, command)], check=True, stdout=output, stderr=subprocess.STDOUT)
        cores.put(own)

    with ThreadPoolExecutor(at_once) as pool:
        for done in [pool.submit(run, seed) for seed in directories]:
            done.result()


def stage_seconds(directory: Path) -> Figures:
    """Return the seconds of each stage, those of the ablations among them."""
    stages = json.loads((directory / "pipeline.json").read_text())["stages"]
    return {stage["stage"]: stage["wall_s"] for stage in stages}


def of_the_pipeline(seconds: Figures) -> float:
    """Sum up what the pipeline itself took, without the ablations."""
    return sum(s for stage, s in seconds.items() if stage.removeprefix("evaluate_") not in ABLATIONS)


def evaluations(directory: Path) -> Models:
    """Return the metrics of every evaluated model, by the name of its stage."""
    found = {}
    for file in sorted(directory.glob("evaluate_*/summary.json")):
        found[file.parent.name.removeprefix("evaluate_")] = json.loads(file.read_text())["metrics"]
    return found


def metric_lines(directory: Path, stage: str) -> list[Figures]:
    """Return the metrics of a training stage, step by step."""
    return [json.loads(line) for line in (directory / stage / "metrics.jsonl").read_text().splitlines()]


def curves(directory: Path) -> dict[str, list[Figures]]:
    """Return what is worth a picture of every training stage."""
    return {
        file.parent.name: [
            {name: round(line[name], 5) for name in CURVE if line.get(name) is not None}
            for line in metric_lines(directory, file.parent.name)
        ]
        for file in sorted(directory.glob("*/metrics.jsonl"))
    }


def compute(directory: Path, stage: str) -> Figures:
    """Return what a training stage took: seconds without evaluation, and the learner's floating-point operations."""
    lines = metric_lines(directory, stage)
    return {
        "train_s": sum(line.get("time/step_s", 0.0) for line in lines),
        "learner_flops": sum(line.get("learner/model_flops", 0.0) for line in lines),
    }


def sampled(directory: Path) -> dict[str, Any]:
    """Return what became of the samples of a stage, without the path of its model."""
    summary: dict[str, Any] = json.loads((directory / "summary.json").read_text())
    return {name: value for name, value in summary.items() if name != "model"}


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Return mean, 95% t-interval and the values themselves."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "values": list(values)}
    half = T_95[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "interval_95": [mean - half, mean + half], "values": list(values)}


def difference(seeds: Sequence[Models], metric: str, later: str, earlier: str) -> dict[str, Any]:
    """Return `later - earlier` of a metric within each seed."""
    return interval([models[later][metric] - models[earlier][metric] for models in seeds])


def claims(seeds: Sequence[Models]) -> dict[str, dict[str, Any]]:
    """Return the differences that the paper's claims are about; each says what it should be."""
    accuracy, reasoning_language = "eval/pass_at_1", "eval/math/language_mean"
    wanted: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
        "R1-Zero improves accuracy": ("above 0", lambda: difference(seeds, accuracy, "r1_zero", "base")),
        "R1-Zero mixes languages": ("below 0", lambda: difference(seeds, reasoning_language, "r1_zero", "base")),
        "cold start makes it readable": ("above 0", lambda: difference(seeds, reasoning_language, "dev1", "r1_zero")),
        "reasoning RL improves accuracy": ("above 0", lambda: difference(seeds, accuracy, "dev2", "dev1")),
        "the language reward raises consistency": (
            "above 0",
            lambda: difference(seeds, reasoning_language, "dev2", "dev1"),
        ),
        "without it consistency decays": (
            "below 0",
            lambda: difference(seeds, reasoning_language, "dev2_no_language", "dev1"),
        ),
        "consistency is higher with it than without": (
            "above 0",
            lambda: difference(seeds, reasoning_language, "dev2", "dev2_no_language"),
        ),
        "rejection-sampled SFT keeps accuracy": ("about 0", lambda: difference(seeds, accuracy, "dev3", "dev2")),
        "it broadens: notes": (
            "above 0",
            lambda: difference(seeds, "eval/helpful/note_quality_reward_mean", "dev3", "dev2"),
        ),
        "it broadens: requests": (
            "above 0",
            lambda: difference(seeds, "eval/harmless/request_safe_reward_mean", "dev3", "dev2"),
        ),
        "RL 2 raises the preference reward": (
            "above 0",
            lambda: difference(seeds, "eval/helpful/reward_model_mean", "r1", "dev3"),
        ),
        "RL 2 keeps accuracy": ("about 0", lambda: difference(seeds, accuracy, "r1", "dev3")),
        "long preference RL raises its reward further": (
            "above 0",
            lambda: difference(seeds, "eval/helpful/reward_model_mean", "r1_hacked", "r1"),
        ),
        "and what the rater thinks of it falls": (
            "below 0",
            lambda: difference(seeds, "eval/helpful/note_quality_reward_mean", "r1_hacked", "r1"),
        ),
        "distillation beats RL on the small model, accuracy": (
            "above 0",
            lambda: difference(seeds, accuracy, "student_distilled", "student_rl"),
        ),
    }
    found = {}
    for claim, (should_be, measure) in wanted.items():
        found[claim] = {"should be": should_be, **measure()}
    found["distilled student's consistency, to that of RL"] = {
        "should be": "above 0",
        **difference(seeds, reasoning_language, "student_distilled", "student_rl"),
    }
    return found


def main() -> None:
    """Run, report, write results/r1_tiny.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--dir", type=Path, default=ROOT / "runs" / "r1_tiny")
    parser.add_argument("--out", type=Path, default=RESULTS / "r1_tiny.json")
    parser.add_argument("--at-once", type=int, default=1, help="seeds that run at the same time, each on its own cores")
    parser.add_argument("values", nargs="*", help="further overrides of the pipelines")
    arguments = parser.parse_args()
    directories = {seed: arguments.dir / f"seed_{seed}" for seed in arguments.seeds}
    run_seeds(directories, arguments.values, at_once=arguments.at_once)
    seeds = [evaluations(directory) for directory in directories.values()]
    stages = [stage_seconds(directory) for directory in directories.values()]
    models = {
        model: {metric: interval([s[model][metric] for s in seeds]) for metric in seeds[0][model]} for model in seeds[0]
    }
    result = {
        **provenance(
            __doc__,
            f"benchmarks/r1_tiny.py --seeds {' '.join(map(str, arguments.seeds))} --at-once {arguments.at_once}",
        ),
        "seeds_at_once": arguments.at_once,
        "pipeline_s": interval([of_the_pipeline(seconds) for seconds in stages]),
        "stage_s": {stage: interval([seconds[stage] for seconds in stages]) for stage in stages[0]},
        "claims": claims(seeds),
        "compute_of_students": {
            stage: [compute(directories[seed], stage) for seed in arguments.seeds] for stage in STUDENTS
        },
        "samples": {stage: sampled(directories[arguments.seeds[0]] / stage) for stage in ("cold_start", "samples")},
        "curves_of_first_seed": curves(directories[arguments.seeds[0]]),
        "models": models,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    for claim, found in result["claims"].items():
        low, high = found.get("interval_95", (math.nan, math.nan))
        print(f"{claim:48} {found['mean']:+.3f} [{low:+.3f}, {high:+.3f}]  should be {found.get('should be', '')}")


if __name__ == "__main__":
    main()
