"""Grades completions from files: `r1ray grade IN OUT`.

    rows --GraderPool--> grades --journal--> OUT

Goes on where an interrupted run stopped. Rows that are at fault are answered with verdict `error`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import ray

from r1ray.config.load import load_config
from r1ray.config.schema import Config, RewardTerm
from r1ray.driver.interrupt import InterruptFlag
from r1ray.driver.placement import attach_ray
from r1ray.errors import Interrupted
from r1ray.rewards.pool import GraderPool
from r1ray.rewards.registry import check_judges, check_rewards
from r1ray.stages.grade_input import Row, map_prompts, open_rows
from r1ray.stages.grade_output import GradeJournal
from r1ray.tracking.grading_console import GradingConsole
from r1ray.types import Grade, Prompt, Verdict

# Completions under way at a time, per grader: enough for its chunks, little enough to stay small.
_WINDOW_PER_WORKER = 64
_POLL_S = 0.2

_GOLD, _LANGUAGE, _BOTH = "gold", "language", "gold and language"
# What rows are graded by where no config names rewards: by what each row brings.
_DEFAULT_TERMS = (
    RewardTerm("accuracy", domains=[_GOLD, _BOTH]),
    RewardTerm("language", domains=[_LANGUAGE]),
    RewardTerm("language", weight=0.0, domains=[_BOTH]),
)
_NOTHING_TO_JUDGE_BY = (
    "nothing to judge by: the row has no answer, tests or target_language; add one, or name rewards in a config"
)


def grade_files(source: str, out: Path, *, config_path: Path | None, overrides: Sequence[str], overwrite: bool) -> None:
    """Grade every completion of `source` into `out`.

    Args:
        source: JSONL or parquet file, or a run directory.
        out: JSONL, or parquet by its name.
        config_path: names the rewards; None grades each row by what it brings (answer, tests, target_language).
        overrides: dotted overrides.
        overwrite: replace what is there.

    Raises:
        R1RayError: with a message for the user; grades made until then are kept.
    """
    config, by_row = _load(config_path, overrides)
    check_rewards(config.rewards, config.sandbox)
    rows = open_rows(source)
    check_judges(config.rewards, config.sandbox)
    journal = GradeJournal(
        out, rows=rows.count, fingerprint=_fingerprint(rows.fingerprint, config), overwrite=overwrite
    )
    with ExitStack() as stack:
        stack.callback(journal.close)
        console = stack.enter_context(GradingConsole(rows.count, done=len(journal), verdicts=journal.verdicts))
        interrupt = stack.enter_context(InterruptFlag(console.message))
        wanted = map_prompts(rows, _by_what_it_brings) if by_row else iter(rows)
        todo = (row for row in wanted if row.index not in journal)
        if len(journal) < rows.count:
            _grade(todo, journal, config, console, interrupt, stack)
        journal.finish()
        console.summary(out, verdicts=journal.verdicts, reward_sum=journal.reward_sum, agreement=journal.agreement)


def _load(config_path: Path | None, overrides: Sequence[str]) -> tuple[Config, bool]:
    """Return the config, and whether rows are graded by what they bring."""
    if config_path is None:
        overrides = [f"rewards.num_workers={os.cpu_count() or 1}", *overrides]
    config = load_config(config_path, overrides)
    by_row = config_path is None and not any(override.startswith("rewards.terms") for override in overrides)
    if by_row:
        config = replace(config, rewards=replace(config.rewards, terms=list(_DEFAULT_TERMS)))
    return config, by_row


def _fingerprint(rows: str, config: Config) -> str:
    rewards = {key: value for key, value in asdict(config.rewards).items() if not key.startswith("num_")}
    return hashlib.sha256(json.dumps([rows, rewards], sort_keys=True).encode()).hexdigest()


def _by_what_it_brings(prompt: Prompt) -> Prompt:
    gold = prompt.answer is not None or "tests" in prompt.metadata
    language = "target_language" in prompt.metadata
    return replace(prompt, domain=_BOTH if gold and language else _GOLD if gold else _LANGUAGE if language else "")


def _grade(
    todo: Iterator[Row],
    journal: GradeJournal,
    config: Config,
    console: GradingConsole,
    interrupt: InterruptFlag,
    stack: ExitStack,
) -> None:
    """Send rows to graders and grades to the journal until all are there."""
    if attach_ray(config):
        stack.callback(ray.shutdown)
    pool = GraderPool(config.rewards, config.sandbox, on_event=console.event)
    stack.callback(pool.shutdown)
    window = _WINDOW_PER_WORKER * config.rewards.num_workers
    waiting: dict[str, Row] = {}
    more = True
    while more or waiting:
        if interrupt.is_set():
            raise Interrupted(f"stopped with {len(journal)} grades in {journal.path}: the same command goes on")
        fresh = list(islice(todo, window - len(waiting)))
        more = bool(fresh) or len(waiting) >= window
        for row in fresh:
            if row.request is None or row.request.prompt.domain == "":
                journal.add(row, Grade(0.0, {}, Verdict.ERROR, f"cannot grade: {row.fault or _NOTHING_TO_JUDGE_BY}"))
            else:
                waiting[row.request.completion.group_id] = row
        pool.submit([row.request for row in fresh if str(row.index) in waiting and row.request is not None])
        for completion, grade in pool.poll(_POLL_S):
            journal.add(waiting.pop(completion.group_id), grade)
        journal.flush()
        console.update(len(journal), journal.verdicts)
