"""What the models of a pipeline answer to the same prompts, side by side.

Prompts are chosen by where they stand, never by how a model did: the page is not to flatter anyone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import pyarrow as pa

from r1ray.pipeline.report_records import StageRecord
from r1ray.template import THINK_CLOSE, THINK_OPEN
from r1ray.tracking.report_samples import shorten, split_thinking, spread
from r1ray.tracking.rollouts import RolloutLog
from r1ray.tracking.run_dir import RunDirectory

MAX_PROMPTS = 9
_COLUMNS = (
    "prompt_id",
    "sample_index",
    "question",
    "answer",
    "completion",
    "completion_ids",
    "finish_reason",
    "reward",
    "verdict",
    "detail",
    "breakdown",
)
# What a file that is torn, or of another version, raises.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, pa.ArrowException)


@dataclass(slots=True)
class _Asked:
    """One prompt of an evaluation: its kind, and how many completions were right."""

    domain: str
    language: str
    verdicts: list[str] = field(default_factory=list)


def side_by_side(records: Sequence[StageRecord]) -> dict[str, Any]:
    """Return `{"models", "in_all", "domains", "prompts"}`; a prompt has one completion a model.

    `models` are those whose evaluation left completions, `in_all` counts the prompts that all of them got, `domains`
    counts those of the first by domain.
    """
    asked = {record: found for record in records if record.stage.model is not None and (found := _asked(record))}
    if not asked:
        return {"models": [], "in_all": 0, "domains": {}, "prompts": []}
    first = next(iter(asked.values()))
    common = {name: one for name, one in first.items() if all(name in other for other in asked.values())}
    chosen = choose_prompts({name: (one.domain, one.language) for name, one in common.items()})
    columns = {record: _samples(record, chosen, found) for record, found in asked.items()}
    domains = [one.domain for one in first.values()]
    return {
        "models": [record.stage.model for record in asked],
        "in_all": len(common),
        "domains": {name: domains.count(name) for name in sorted(set(domains))},
        "prompts": [_prompt(name, common[name], columns) for name in chosen],
    }


def choose_prompts(kinds: Mapping[str, tuple[str, str]], *, count: int = MAX_PROMPTS) -> list[str]:
    """Return up to `count` prompts: of each kind in turn, those of one kind evenly spread over its sorted names.

    Args:
        kinds: domain and target language of each prompt.
        count: how many to choose.
    """
    by_kind: dict[tuple[str, str], list[str]] = {}
    for name in sorted(kinds):
        by_kind.setdefault(kinds[name], []).append(name)
    kinds_shown = spread(sorted(by_kind), count)
    if not kinds_shown:
        return []
    queues = [spread(by_kind[kind], max(2, -(-count // len(kinds_shown)))) for kind in kinds_shown]
    rounds = [name for names in zip_longest(*queues) for name in names if name is not None][:count]
    return sorted(rounds, key=lambda name: (kinds[name], name))


def _asked(record: StageRecord) -> dict[str, _Asked]:
    log = RolloutLog(RunDirectory(record.stage.directory))
    found: dict[str, _Asked] = {}
    try:
        for row in log.read(log.steps()[-1], columns=("prompt_id", "domain", "metadata", "verdict")).to_pylist():
            if row["prompt_id"] not in found:
                found[row["prompt_id"]] = _Asked(row["domain"], _language(row["metadata"]))
            found[row["prompt_id"]].verdicts.append(row["verdict"])
    except (IndexError, *_UNREADABLE):
        return {}
    return found


def _language(metadata: str) -> str:
    values = json.loads(metadata)
    return str(values.get("target_language") or "") if isinstance(values, dict) else ""


def _samples(record: StageRecord, prompts: Sequence[str], asked: Mapping[str, _Asked]) -> dict[str, dict[str, Any]]:
    """Return the first completion of each prompt."""
    log = RolloutLog(RunDirectory(record.stage.directory))
    samples: dict[str, dict[str, Any]] = {}
    try:
        rows = log.read(log.steps()[-1], columns=_COLUMNS, prompt_ids=prompts).to_pylist()
    except (IndexError, *_UNREADABLE):
        return {}
    for row in sorted(rows, key=lambda row: int(row["sample_index"]), reverse=True):
        samples[row["prompt_id"]] = _sample(row, asked[row["prompt_id"]].verdicts)
    return samples


def _sample(row: Mapping[str, Any], verdicts: Sequence[str]) -> dict[str, Any]:
    think, rest = split_thinking(row["completion"])
    return {
        "question": shorten(row["question"]),
        "answer": None if row["answer"] is None else shorten(row["answer"]),
        # Without its tags, whose letters would make every text one that runs from left to right.
        "think": shorten(think.strip().removeprefix(THINK_OPEN).removesuffix(THINK_CLOSE).strip()),
        "unclosed": bool(think) and THINK_CLOSE not in think,
        "rest": shorten(rest.strip()),
        "tokens": len(row["completion_ids"]),
        "finish_reason": row["finish_reason"],
        "reward": row["reward"],
        "verdict": row["verdict"],
        "detail": shorten(row["detail"]),
        "breakdown": dict(row["breakdown"]),
        "correct": sum(verdict == "correct" for verdict in verdicts),
        "samples": len(verdicts),
    }


def _prompt(name: str, asked: _Asked, columns: Mapping[StageRecord, Mapping[str, dict[str, Any]]]) -> dict[str, Any]:
    samples = [samples.get(name) for samples in columns.values()]
    known: dict[str, Any] = next((sample for sample in samples if sample is not None), {})
    return {
        "prompt_id": name,
        "domain": asked.domain,
        "language": asked.language,
        "question": known.get("question", ""),
        "answer": known.get("answer"),
        "samples": [
            None if sample is None else {key: sample[key] for key in sample if key not in ("question", "answer")}
            for sample in samples
        ],
    }
