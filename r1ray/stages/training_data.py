"""Writes selected samples as parquet that the SFT stage reads, with where each comes from.

data/samples.parquet: question, completion, and provenance: prompt, model, sampling, grades
"""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from r1ray.config.schema import Config
from r1ray.config.stage_sections import SelectionConfig
from r1ray.data.examples import open_examples, texts_of
from r1ray.data.records import Record
from r1ray.errors import DataError
from r1ray.stages.selection import Judged, Selector
from r1ray.tracking.run_dir import RunDirectory
from r1ray.types import DOMAIN_OF_TASK, Prompt

DATA_FILE = "data/samples.parquet"
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "question": pa.string(),
        "completion": pa.string(),
        "domain": pa.string(),
        "task": pa.string(),
        "answer": pa.string(),
        "target_language": pa.string(),
        # sampled or supplied
        "source": pa.string(),
        "prompt_id": pa.string(),
        "model": pa.string(),
        "sampling": pa.string(),
        "completion_tokens": pa.int32(),
        "reward": pa.float64(),
        "breakdown": pa.map_(pa.string(), pa.float64()),
        "verdict": pa.string(),
        "rewritten": pa.bool_(),
    }
)


@dataclass(frozen=True, slots=True)
class Supplied:
    """A sample that somebody supplied."""

    record: Record
    completion: str


def supplied_samples(config: SelectionConfig) -> list[Supplied]:
    """Return the rows of `selection.general`.

    Raises:
        DataError: a dataset is not there, has no end, or holds no completions.
    """
    found = []
    for number, dataset in enumerate(config.general):
        source = open_examples(dataset, "sft")
        if source.size is None:
            raise DataError(f"selection.general[{number}] must have an end: set its size")
        for index in range(source.size):
            record = source[index]
            texts = texts_of(record, dataset.columns, "sft")
            found += [Supplied(record, text) for text, _ in texts or ()]
    return found


class DataWriter:
    """Collects rows and writes them, shuffled, as one file."""

    def __init__(self, run_dir: RunDirectory, config: Config) -> None:
        """Write into the run directory of `config`."""
        self._run_dir = run_dir
        self._config = config
        r = config.rollout
        sampling = {"temperature": r.temperature, "top_p": r.top_p, "seed": config.run.seed}
        self._sampling = json.dumps({**sampling, "max_completion_tokens": r.max_completion_tokens})
        self._rows: list[dict[str, Any]] = []

    def add_sampled(self, prompt: Prompt, one: Judged) -> None:
        """Add a kept completion of a prompt."""
        completion, grade = one.graded.completion, one.graded.grade
        self._rows.append(
            {
                "id": f"{prompt.prompt_id}/{completion.sample_index}",
                "question": prompt.question,
                "completion": one.text,
                "domain": prompt.domain,
                "task": prompt.task,
                "answer": prompt.answer,
                "target_language": prompt.metadata.get("target_language"),
                "source": "sampled",
                "prompt_id": prompt.prompt_id,
                "model": self._config.model.path,
                "sampling": self._sampling,
                "completion_tokens": len(completion.completion_ids),
                "reward": grade.reward,
                "breakdown": list(grade.breakdown.items()),
                "verdict": grade.verdict.value,
                "rewritten": one.rewritten,
            }
        )

    def add_supplied(self, supplied: Sequence[Supplied], wanted: int, selector: Selector) -> tuple[int, Counter[str]]:
        """Add supplied samples, drawn by the run's seed; return how many, and why others were dropped."""
        order = list(supplied)
        random.Random(f"{self._config.run.seed}/supplied").shuffle(order)
        added, dropped = 0, Counter[str]()
        for one in order:
            if added == wanted:
                break
            reason = selector.contaminated(one.record.question, one.completion)
            if reason is not None:
                dropped[reason] += 1
                continue
            record = one.record
            self._rows.append(
                {
                    "id": record.prompt_id,
                    "question": record.question,
                    "completion": one.completion,
                    "domain": record.domain or DOMAIN_OF_TASK.get(record.task, record.task),
                    "task": record.task,
                    "answer": record.answer,
                    "target_language": record.metadata.get("target_language"),
                    "source": "supplied",
                    "prompt_id": record.prompt_id,
                }
            )
            added += 1
        return added, dropped

    def finish(self) -> int:
        """Write the file, in an order by the run's seed, and return the number of its rows."""
        random.Random(f"{self._config.run.seed}/order").shuffle(self._rows)
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA), sink, compression="zstd")
        self._run_dir.write_bytes(DATA_FILE, sink.getvalue())
        return len(self._rows)
