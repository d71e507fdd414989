"""Reads the YAML of a pipeline into stages with their whole configurations.

    name, dir, seed
    config, set                what every stage begins with: files, then values
    stages.NAME.config, .set   what is a stage's own
    evaluation                 files and values of the evaluations, and the models to evaluate

A value `artifact://NAME` stands for the output of the stage NAME, which comes earlier. A file may build on another with
`extends`. Nothing heavy is imported here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from r1ray.config.load import Layer, compose, file_layers, override_layers, refuse_unknown_keys
from r1ray.config.schema import Config
from r1ray.errors import ConfigError
from r1ray.pipeline.references import references

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
RESERVED = ("superseded",)


@dataclass
class StageSection:
    """One stage in the YAML: files of the configuration, and values that win over them."""

    config: list[str] = field(default_factory=list)
    set: dict[str, Any] = field(default_factory=dict)


@dataclass
class ModelSection:
    """One finished model to evaluate: its name in the report, the stage that makes it, values of its own."""

    name: str = MISSING
    # A stage, or null with a `set` that names another model, such as the base.
    stage: str | None = None
    set: dict[str, Any] = field(default_factory=dict)


@dataclass
class EvaluationSection:
    """How every finished model is evaluated, on the same prompts."""

    config: list[str] = field(default_factory=list)
    set: dict[str, Any] = field(default_factory=dict)
    models: list[ModelSection] = field(default_factory=list)


@dataclass
class PipelineSchema:
    """The YAML of a pipeline."""

    name: str = "r1"
    # A local directory, or one that all nodes share: models pass through it from stage to stage.
    dir: str = "runs/${name}"
    seed: int = 0
    config: list[str] = field(default_factory=list)
    set: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, StageSection] = field(default_factory=dict)
    evaluation: EvaluationSection = field(default_factory=EvaluationSection)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a pipeline.

    Attributes:
        name: unique in the pipeline.
        config: with `artifact://` where outputs of other stages go.
        directory: its run directory.
        model: for an evaluation, the model's name in the report.
    """

    name: str
    config: Config
    directory: Path
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline: its stages in an order in which each comes after those that it needs."""

    name: str
    directory: Path
    seed: int
    stages: tuple[Stage, ...]

    def stage(self, name: str) -> Stage:
        """Return a stage by name.

        Raises:
            ConfigError: there is none of that name.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise ConfigError(f"there is no stage {name!r}: stages are {', '.join(s.name for s in self.stages)}")


def load_pipeline(path: str | Path, overrides: Sequence[str] = ()) -> Pipeline:
    """Read a pipeline and compose the configuration of every stage.

    Args:
        path: YAML file.
        overrides: `key=value`, e.g. `dir=/data/r1` or `stages.r1_zero.set.train.steps=10`.

    Raises:
        ConfigError: something is missing, unknown or wrong, with the stage it is in.
    """
    path = Path(path)
    schema = OmegaConf.structured(PipelineSchema)
    merged = schema
    for source, layer in [*file_layers(path), *override_layers(overrides)]:
        refuse_unknown_keys(layer, schema, source=source)
        try:
            merged = OmegaConf.merge(merged, _files_beside(layer, source))
        except OmegaConfBaseException as error:
            raise ConfigError(f"{source}: {str(error).splitlines()[0]}") from None
    try:
        spec: Any = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from None
    if not spec.stages:
        raise ConfigError(f"{path}: stages must name at least one stage, got none")
    if "://" in spec.dir:
        raise ConfigError(f"dir must be a directory that every node can read, got {spec.dir!r}: models pass through it")
    return Pipeline(spec.name, Path(spec.dir), spec.seed, tuple(_stages(spec, Path(spec.dir))))


def _files_beside(layer: DictConfig, source: str) -> DictConfig:
    """Make the files that a file names relative to it; those of an override are relative to where it was typed."""
    folder = Path(source).parent if Path(source).is_file() else Path()
    holders = [layer, layer.get("evaluation"), *(layer.get("stages") or {}).values()]
    for holder in holders:
        if isinstance(holder, DictConfig) and "config" in holder:
            named = holder.config
            holder.config = [str(folder / name) for name in ([named] if isinstance(named, str) else named)]
    return layer


def _stages(spec: Any, directory: Path) -> list[Stage]:
    """Return stages and evaluations in the order of the YAML, but each after those that it needs."""
    for name in spec.stages:
        if not _NAME.fullmatch(name) or name in RESERVED:
            raise ConfigError(f"stages: a name must be lower-case letters, digits, _ - and ., got {name!r}")
    for model in spec.evaluation.models:
        if model.stage is not None and model.stage not in spec.stages:
            raise ConfigError(f"evaluation.models: stage must be one of {', '.join(spec.stages)}, got {model.stage}")
    evaluations = [_evaluation(spec, model, directory) for model in spec.evaluation.models]
    names = [*spec.stages, *(stage.name for stage in evaluations)]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two stages are named {name!r}: names of models and stages must differ")
    makers = [
        Stage(name, _compose(spec, name, section.config, section.set, directory / name), directory / name)
        for name, section in spec.stages.items()
    ]
    return _ordered(evaluations, makers)


def _ordered(evaluations: list[Stage], makers: list[Stage]) -> list[Stage]:
    """Put each stage after those that it needs, evaluations as early as they can be."""
    waiting, ordered = [*evaluations, *makers], list[Stage]()
    made: set[str | None] = {None}
    while ready := next((s for s in waiting if {r.stage for r in references(s.config)} <= made), None):
        waiting.remove(ready)
        ordered.append(ready)
        made.add(ready.name)
    # What is left needs a stage that is not there, or itself, which is said where references are checked.
    return [*ordered, *waiting]


def _evaluation(spec: Any, model: Any, directory: Path) -> Stage:
    """Return the stage that evaluates a model, which carries the name of the model's stage."""
    name = f"evaluate_{model.stage or re.sub(r'[^a-z0-9]+', '_', model.name.lower()).strip('_')}"
    given = {"stage": "evaluate", **({"model": {"path": f"artifact://{model.stage}"}} if model.stage else {})}
    values = OmegaConf.to_container(OmegaConf.merge(spec.evaluation.set, given, model.set))
    config = _compose(spec, name, spec.evaluation.config, values, directory / name)
    return Stage(name, config, directory / name, model.name)


def _compose(spec: Any, name: str, files: Sequence[str], values: Any, directory: Path) -> Config:
    layers: list[Layer] = []
    for file in [*spec.config, *files]:
        layers += file_layers(Path(file))
    own = {"run": {"name": f"{spec.name}/{name}", "dir": str(directory), "seed": spec.seed}, "resume": False}
    layers += [
        ("set", OmegaConf.create(spec.set)),
        (f"stages.{name}.set", OmegaConf.create(values)),
        (f"stages.{name}", OmegaConf.create(own)),
    ]
    try:
        return compose(layers)
    except ConfigError as error:
        raise ConfigError(f"stage {name}: {error}") from None
