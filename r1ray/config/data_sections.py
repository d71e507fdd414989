"""The data sections of the configuration: sources of prompts and samples, and what their columns hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class ColumnsConfig:
    """Which column of a dataset holds what; `metadata` columns travel to custom rewards."""

    question: str = "question"
    answer: str | None = "answer"
    id: str | None = None
    task: str | None = None
    domain: str | None = None
    # What supervised stages learn from. sft: completions. reward_model: the better and the worse completion of a pair,
    # or a completion and its label (1 good, 0 bad).
    completion: str = "completion"
    chosen: str = "chosen"
    rejected: str = "rejected"
    label: str = "label"
    metadata: list[str] = field(default_factory=list)


@dataclass
class SourceConfig:
    """One source of prompts."""

    # `embedded`: a task that ships with r1ray; `jsonl` and `parquet`: local path or fsspec URL;
    # `hf`: datasets.load_dataset or load_from_disk; `reasoning_gym`: a generator by name.
    source: Literal["embedded", "jsonl", "parquet", "hf", "reasoning_gym"] = "embedded"
    # Task, generator or hub dataset name; file path for jsonl and parquet.
    name: str = "arithmetic"
    subset: str | None = None
    split: str = "train"
    # Use at most this many rows; generators need it to know where an epoch ends.
    size: int | None = None
    seed: int = 0
    # Which rewards apply (`rewards.terms[].domains`), where no column says it: math, code, stem, logic, general or a
    # name of your own; null: by the task.
    domain: str | None = None
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    # Extra keyword arguments for reasoning_gym generators.
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class PartConfig(SourceConfig):
    """One part of a mixture."""

    # Its weight among the parts that apply.
    share: float = 1.0
    # Optimizer steps that take prompts from it: the first, and the first that no longer does (null: none).
    from_step: int = 0
    until_step: int | None = None


@dataclass
class DatasetConfig(SourceConfig):
    """One source of prompts, or several mixed."""

    # Where there are parts, the dataset is their mixture, and everything else here is left aside.
    parts: list[PartConfig] = field(default_factory=list)


@dataclass
class DataConfig:
    """Training and held-out prompts."""

    train: DatasetConfig = field(default_factory=DatasetConfig)
    eval: DatasetConfig = field(default_factory=lambda: DatasetConfig(split="eval", size=256))
    # Longer prompts are counted and skipped.
    max_prompt_tokens: int = 512
    shuffle: bool = True
