"""What can be known to be wrong before a pipeline spends anything: references, data, models, rewards, endpoints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from r1ray.config.data_sections import DatasetConfig, SourceConfig
from r1ray.config.schema import Config, RewardsConfig
from r1ray.data.examples import ExampleKind, check_examples
from r1ray.data.sources import open_source
from r1ray.errors import ConfigError, ModelError, R1RayError
from r1ray.models.locate import locate_model
from r1ray.pipeline.references import OUTPUT_KINDS, SCHEME, references, stray_references
from r1ray.pipeline.spec import Pipeline, Stage
from r1ray.rewards.registry import check_judges, check_rewards
from r1ray.stages.preferences import check_judge
from r1ray.stages.rewriting import check_rewriting

_CAUSAL = "ForCausalLM"
_CLASSIFIER = "ForSequenceClassification"


def check_pipeline(pipeline: Pipeline, stages: Sequence[Stage]) -> None:
    """Check all references, and what the given stages take from outside of the pipeline.

    Raises:
        R1RayError: the first thing found wrong, with the stage it is in.
    """
    made: dict[str, str] = {}
    for stage in pipeline.stages:
        _check_references(stage, made)
        made[stage.name] = OUTPUT_KINDS[stage.config.stage]
    for stage in stages:
        check_stage_inputs(stage.name, stage.config)


def _check_references(stage: Stage, made: dict[str, str]) -> None:
    for reference in references(stage.config):
        name = reference.stage
        if name is None:
            continue
        if name not in made:
            raise ConfigError(
                f"stage {stage.name}: {reference.key} must name an earlier stage, one of {', '.join(made) or 'none'}, "
                f"got {reference.value}"
            )
        if made[name] != reference.kind:
            raise ConfigError(
                f"stage {stage.name}: {reference.key} must be a {reference.kind}, but {name} makes a {made[name]}"
            )
    if stray := stray_references(stage.config):
        raise ConfigError(
            f"stage {stage.name}: {stray[0]} stands where no output of a stage can: model.path, the name of a dataset, "
            "and the options model and prompt_file of rewards can hold one"
        )


def check_stage_inputs(name: str, config: Config) -> None:
    """Check what a stage takes from outside, as far as it is there already.

    Raises:
        R1RayError: as the stage itself would, with its name.
    """
    try:
        _check_models(config)
        for dataset, kind in _datasets(config):
            sources: Sequence[SourceConfig] = dataset.parts or [dataset]
            if any(source.name.startswith(SCHEME) for source in sources):
                continue
            if kind is None:
                open_source(dataset)
            else:
                check_examples(dataset, kind)
        if config.stage == "preferences":
            check_judge(config)
        if config.stage in ("rejection", "cold_start"):
            check_rewriting(config)
        if config.stage not in ("sft", "reward_model", "preferences"):
            rewards = _with_placeholders(config.rewards)
            check_rewards(rewards, config.sandbox)
            check_judges(rewards, config.sandbox)
    except R1RayError as error:
        raise type(error)(f"stage {name}: {error}") from error


def _datasets(config: Config) -> list[tuple[DatasetConfig, ExampleKind | None]]:
    """Return what a stage reads, and as what kind of example; None: as prompts."""
    if config.stage == "sft":
        return [(config.data.train, "sft")]
    if config.stage == "reward_model":
        return [(config.data.train, config.reward_model.kind)]
    datasets: list[tuple[DatasetConfig, ExampleKind | None]] = []
    if config.stage != "evaluate":
        datasets.append((config.data.train, None))
    if config.stage in ("grpo", "evaluate"):
        datasets.append((config.data.eval, None))
    if config.stage in ("rejection", "cold_start"):
        datasets += [(dataset, "sft") for dataset in config.selection.general]
        datasets += [(dataset, None) for dataset in config.selection.decontaminate]
    return datasets


def _with_placeholders(rewards: RewardsConfig) -> RewardsConfig:
    """Let options name any model where it is still to be made; nothing looks for one yet."""
    terms = [
        replace(term, options={k: v.removeprefix(SCHEME) if isinstance(v, str) else v for k, v in term.options.items()})
        for term in rewards.terms
    ]
    return replace(rewards, terms=terms)


def _check_models(config: Config) -> None:
    if not config.model.path.startswith(SCHEME):
        check_architecture("model.path", locate_model(config.model.path, config.model.revision), _CAUSAL)
    for term in config.rewards.terms:
        path = str(term.options.get("model", ""))
        if term.name == "reward_model" and not path.startswith(SCHEME):
            check_architecture("option model of reward reward_model", locate_model(path), _CLASSIFIER)


def check_architecture(key: str, located: str, wanted: str) -> None:
    """Refuse a local checkpoint of another kind.

    Args:
        key: where it is named, for the message.
        located: directory, or a hub id, which is not looked at.
        wanted: how the class's name ends.

    Raises:
        ModelError: it is of another kind.
    """
    file = Path(located) / "config.json"
    if not file.is_file():
        return
    architectures = json.loads(file.read_text()).get("architectures") or []
    if architectures and not any(str(name).endswith(wanted) for name in architectures):
        raise ModelError(
            f"{key} must be a {'language model' if wanted == _CAUSAL else 'reward model'} (..{wanted}), got "
            f"{', '.join(architectures)} in {located}"
        )
