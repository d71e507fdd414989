"""What a stage's configuration takes from outside: outputs of other stages, models and files.

artifact://NAME   in any text of the configuration: the output of the stage NAME
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from r1ray.config.data_sections import SourceConfig
from r1ray.config.schema import Config

SCHEME = "artifact://"
# What each kind of stage leaves behind.
OUTPUT_KINDS = {
    "grpo": "model",
    "sft": "model",
    "reward_model": "reward model",
    "rejection": "data",
    "cold_start": "data",
    "preferences": "data",
    "evaluate": "evaluation",
}
_FILE_SOURCES = ("jsonl", "parquet", "hf")
# Options of rewards that name a model or a file.
_REWARD_OPTIONS = {"model": "reward model", "prompt_file": "file"}


@dataclasses.dataclass(frozen=True, slots=True)
class Reference:
    """One thing that a configuration takes from outside.

    Attributes:
        key: where it stands, dotted.
        kind: `model`, `reward model`, `data` or `file`.
        value: `artifact://NAME`, a path, or a name that the stage itself will look up.
    """

    key: str
    kind: str
    value: str

    @property
    def stage(self) -> str | None:
        """The stage whose output it is; None where it comes from elsewhere."""
        return self.value.removeprefix(SCHEME) if self.value.startswith(SCHEME) else None


def references(config: Config) -> list[Reference]:
    """Return everything that a stage will read, in the order of the configuration."""
    found = [Reference("model.path", "model", config.model.path)]
    datasets = {"data.train": config.data.train, "data.eval": config.data.eval}
    for key in _unread(config.stage):
        del datasets[key]
    if config.stage in ("rejection", "cold_start"):
        datasets |= {f"selection.general[{i}]": d for i, d in enumerate(config.selection.general)}
        datasets |= {f"selection.decontaminate[{i}]": d for i, d in enumerate(config.selection.decontaminate)}
    for key, dataset in datasets.items():
        parts: dict[str, SourceConfig] = {f"{key}.parts[{i}]": part for i, part in enumerate(dataset.parts)}
        for name, source in (parts or {key: dataset}).items():
            if source.source in _FILE_SOURCES or source.name.startswith(SCHEME):
                found.append(Reference(f"{name}.name", "data", source.name))
    if config.stage not in ("sft", "reward_model"):
        for i, term in enumerate(config.rewards.terms):
            for option, kind in _REWARD_OPTIONS.items():
                # The model of an LLM judge is a name at its endpoint.
                elsewhere = option == "model" and "base_url" in term.options
                if isinstance(term.options.get(option), str) and not elsewhere:
                    found.append(Reference(f"rewards.terms[{i}].options.{option}", kind, term.options[option]))
    return found


def made_from(config: Config) -> list[str]:
    """Return the stages whose outputs a stage takes, each once."""
    return list(dict.fromkeys(reference.stage for reference in references(config) if reference.stage))


def _unread(stage: str) -> tuple[str, ...]:
    """Return the datasets that a kind of stage does not look at."""
    return {"evaluate": ("data.train",), "grpo": ()}.get(stage, ("data.eval",))


def stray_references(config: Config) -> list[str]:
    """Return texts with `artifact://` that stand where no stage would look for one."""
    known = {reference.value for reference in references(config)}
    return sorted({text for text in _texts(dataclasses.asdict(config)) if SCHEME in text} - known)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def resolve(config: Config, output_of: Callable[[str], Path]) -> Config:
    """Return the configuration with the paths of outputs in place of `artifact://NAME`."""
    return cast(Config, _replaced(config, lambda text: str(output_of(text.removeprefix(SCHEME)))))


def _replaced(value: Any, path_of: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return path_of(value) if value.startswith(SCHEME) else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: _replaced(getattr(value, f.name), path_of) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **changed)
    if isinstance(value, dict):
        return {key: _replaced(each, path_of) for key, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, path_of) for each in value]
    return value
