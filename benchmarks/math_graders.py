"""How fast is r1ray's math grader beside plain math-verify called in a loop, on one core?

Both judge the same completions; the grader works through its killable child. Passes alternate in one run.

    .venv/bin/python benchmarks/math_graders.py [--data FILE.jsonl]
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from math_verify import parse, verify
from provenance import ROOT

from r1ray.rewards.accuracy import AccuracyReward
from r1ray.types import Completion, Prompt, Verdict

GOLDEN = ROOT / "tests" / "golden" / "math_answers.jsonl"
Pair = tuple[str, str]


def read_pairs(data: Path | None, count: int) -> list[Pair]:
    """Return (gold, completion): those of the tests, or right and wrong answers made of a dataset's golds."""
    rows = [json.loads(line) for line in (data or GOLDEN).read_text().splitlines()]
    if data is None:
        pairs = [(row["gold"], row["completion"]) for row in rows if row["task"] == "math"]
    else:
        golds = [str(row["answer"]) for row in rows]
        pairs = [(gold, rf"<think>..</think> So it is $\boxed{{{gold}}}$.") for gold in golds]
        pairs += [(gold, rf"So it is $\boxed{{{other}}}$.") for gold, other in pairwise(golds)]
    random.Random(0).shuffle(pairs)
    return pairs[:count]


def measure(data: Path | None = None, *, count: int = 800, rounds: int = 3) -> dict[str, Any]:
    """Return the completions a second of both, and the median ratio of paired passes."""
    logging.disable(logging.CRITICAL)
    pairs = read_pairs(data, count)
    reward = AccuracyReward(time_limit_s=5.0, memory_limit_bytes=2 << 30)

    def ours(gold: str, completion: str) -> bool:
        prompt = Prompt("p", "", "", (), gold)
        return reward(prompt, Completion("g", "p", 0, completion, (), (), (), "stop")).verdict is Verdict.CORRECT

    def plain(gold: str, completion: str) -> bool:
        wanted, given = parse(rf"\boxed{{{gold}}}", parsing_timeout=None), parse(completion, parsing_timeout=None)
        return bool(verify(wanted, given, timeout_seconds=None))

    for judge in (ours, plain):
        judge(r"\frac{1}{2}", r"\boxed{0.5}")
    # Each pass over completions that neither side has seen, so that no cache answers.
    chunks = [pairs[i::rounds] for i in range(rounds)]
    passes = [(_rate(ours, chunk), _rate(plain, chunk)) for chunk in chunks]
    reward.close()
    logging.disable(logging.NOTSET)
    return {
        "completions": len(pairs),
        "r1ray_per_s": median(ours_rate for ours_rate, _ in passes),
        "math_verify_per_s": median(plain_rate for _, plain_rate in passes),
        "ratio": median(ours_rate / plain_rate for ours_rate, plain_rate in passes),
    }


def _rate(judge: Callable[[str, str], bool], pairs: list[Pair]) -> float:
    began = time.perf_counter()
    for gold, completion in pairs:
        judge(gold, completion)
    return len(pairs) / (time.perf_counter() - began)


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="JSONL with an `answer` column")
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.data), indent=1))


if __name__ == "__main__":
    main()
