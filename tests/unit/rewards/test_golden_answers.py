"""Some 1,200 answers labelled by hand, English and Chinese, right and wrong: the grader agrees with the labels."""

import json
from collections import Counter
from pathlib import Path

import pytest

from r1ray.rewards.accuracy import AccuracyReward
from r1ray.types import Completion, Prompt, Verdict

GOLDEN = Path(__file__).parents[2] / "golden" / "math_answers.jsonl"


@pytest.fixture(scope="module")
def rows():
    return [json.loads(line) for line in GOLDEN.read_text().splitlines()]


def test_the_labelled_answers_are_many_and_of_both_kinds(rows):
    assert len(rows) > 1000
    assert min(Counter(row["equal"] for row in rows).values()) > 400


def test_every_label_is_met(rows):
    reward = AccuracyReward(time_limit_s=20.0, memory_limit_bytes=2 << 30)
    missed = []
    for row in rows:
        prompt = Prompt("p", row.get("question", ""), "", (), row["gold"], row["task"])
        result = reward(prompt, Completion("0/p", "p", 0, row["completion"], (), (), (), "stop"))
        if (result.verdict is Verdict.CORRECT) != row["equal"] or result.verdict is Verdict.ERROR:
            missed.append((row["kind"], row["gold"], row["completion"], row["equal"], result.detail))
    reward.close()
    assert not missed
