"""Sampled and graded completions on disk, such that nothing is sampled twice, wherever a job is interrupted.

    candidates/journal.jsonl          finished groups of shards that are not complete, one a line
    candidates/shard_000001.parquet   `prompts_per_shard` groups: every completion with its grade

A group is a prompt with all of its completions. It is in the journal as soon as its last completion is graded. Which
shard it belongs to is decided by its prompt's place, so that files depend neither on timing nor on interruptions.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import groupby
from typing import Any

import pyarrow.parquet as pq

from r1ray.errors import DataError
from r1ray.tracking.jsonl import JsonlFile
from r1ray.tracking.rollouts import RolloutRow, rows_as_parquet, rows_from_group
from r1ray.tracking.run_dir import RunDirectory
from r1ray.types import Completion, Grade, GradedCompletion, Group, Prompt, Verdict

FOLDER = "candidates"
JOURNAL = f"{FOLDER}/journal.jsonl"
# What is read again; log-probabilities and versions of each token are kept for those who look for themselves.
_READ = [
    field.name for field in fields(RolloutRow) if field.name not in ("rollout_logprobs", "policy_versions", "advantage")
]
FINGERPRINT_FILE = f"{FOLDER}/fingerprint.json"


class Candidates:
    """The groups of one job."""

    def __init__(
        self, run_dir: RunDirectory, prompt_ids: Sequence[str], *, prompts_per_shard: int, fingerprint: str
    ) -> None:
        """Find what an interrupted job has left.

        Args:
            run_dir: of the job.
            prompt_ids: all prompts of the job, in order; unique.
            prompts_per_shard: groups of one parquet file.
            fingerprint: of everything that decides on what is sampled.

        Raises:
            DataError: what is there was sampled with other settings.
        """
        self._run_dir = run_dir
        self._shard_of = {prompt_id: place // prompts_per_shard for place, prompt_id in enumerate(prompt_ids)}
        self._members = [
            prompt_ids[start : start + prompts_per_shard] for start in range(0, len(prompt_ids), prompts_per_shard)
        ]
        self._check(fingerprint)
        self._journal = JsonlFile(run_dir, JOURNAL)
        written = {name for name in run_dir.names(FOLDER) if name.endswith(".parquet")}
        self.done = {prompt_id for prompt_id, shard in self._shard_of.items() if _file(shard) in written}
        # By shard and prompt. A job that ended between writing a shard and its journal left groups in both.
        self._open: dict[int, dict[str, Any]] = {}
        for line in self._journal.read():
            if line["prompt_id"] not in self.done:
                self._open.setdefault(self._shard_of[line["prompt_id"]], {})[line["prompt_id"]] = line
        self.done.update(prompt_id for lines in self._open.values() for prompt_id in lines)
        for shard in list(self._open):
            self._write_if_complete(shard)

    def _check(self, fingerprint: str) -> None:
        if not self._run_dir.has(FINGERPRINT_FILE):
            self._run_dir.write_text(FINGERPRINT_FILE, json.dumps({"fingerprint": fingerprint}) + "\n")
        elif json.loads(self._run_dir.read_text(FINGERPRINT_FILE))["fingerprint"] != fingerprint:
            raise DataError(
                f"{self._run_dir.url} holds completions of another model, prompts or sampling: name another "
                "run.dir, or go on with the settings (and prompts_per_shard) that the job began with"
            )

    def add(self, group: Group, failed: Sequence[GradedCompletion]) -> None:
        """Keep a finished group; `failed` are its completions that could not be graded."""
        whole = Group(group.group_id, group.prompt, (*group.graded, *failed))
        rows = [_as_json(row) for row in rows_from_group(0, whole)]
        prompt_id = group.prompt.prompt_id
        line = {"prompt_id": prompt_id, "rows": rows}
        self._journal.append(line)
        self.done.add(prompt_id)
        shard = self._shard_of[prompt_id]
        self._open.setdefault(shard, {})[prompt_id] = line
        self._write_if_complete(shard)

    def _write_if_complete(self, shard: int) -> None:
        members = self._members[shard]
        lines = self._open[shard]
        if len(lines) < len(members):
            return
        rows = [_from_json(row) for prompt_id in members for row in lines[prompt_id]["rows"]]
        self._run_dir.write_bytes(_file(shard), rows_as_parquet(rows))
        del self._open[shard]
        self._journal.rewrite([line for lines in self._open.values() for line in lines.values()])

    def groups(self) -> Iterator[Group]:
        """Yield every group of the written shards in the order of the prompts, without log-probabilities."""
        for shard in range(len(self._members)):
            table = pq.read_table(io.BytesIO(self._run_dir.read_bytes(_file(shard))), columns=_READ)
            rows: list[dict[str, Any]] = table.to_pylist()
            for _, members in groupby(rows, key=lambda row: row["prompt_id"]):
                yield _group(list(members))

    def close(self) -> None:
        """Close the journal; it stays for a later run."""
        self._journal.close()


def _file(shard: int) -> str:
    return f"{FOLDER}/shard_{shard + 1:06d}.parquet"


def _as_json(row: RolloutRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__dataclass_fields__}


def _from_json(values: Mapping[str, Any]) -> RolloutRow:
    lists = {name: tuple(values[name]) for name in ("completion_ids", "rollout_logprobs", "policy_versions")}
    return RolloutRow(**{**values, **lists})


def _group(rows: Sequence[Mapping[str, Any]]) -> Group:
    first = rows[0]
    prompt = Prompt(
        prompt_id=first["prompt_id"],
        question=first["question"],
        text=first["prompt_text"],
        prompt_ids=(),
        answer=first["answer"],
        task=first["task"],
        domain=first["domain"],
        metadata=json.loads(first["metadata"]),
    )
    ordered = sorted(rows, key=lambda row: row["sample_index"])
    return Group(first["group_id"], prompt, tuple(_graded(row) for row in ordered))


def _graded(row: Mapping[str, Any]) -> GradedCompletion:
    completion = Completion(
        group_id=row["group_id"],
        prompt_id=row["prompt_id"],
        sample_index=row["sample_index"],
        text=row["completion"],
        completion_ids=tuple(row["completion_ids"]),
        rollout_logprobs=(),
        policy_versions=(),
        finish_reason=row["finish_reason"],
        worker=row["worker"],
    )
    grade = Grade(row["reward"], dict(row["breakdown"]), Verdict(row["verdict"]), row["detail"])
    return GradedCompletion(completion, grade)
