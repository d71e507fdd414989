"""Reads a YAML file and dotted overrides into a checked `Config`.

Everything that can be known to be wrong without torch, ray or a model is refused here, with the key, what
is allowed, what came and the nearest valid key. A file may build on others with `extends: other.yaml`, or a
list of them (relative to itself); what comes later wins.
"""

from __future__ import annotations

import copy
import difflib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from r1ray.config.schema import Config
from r1ray.config.validate import validate
from r1ray.errors import ConfigError

EXTENDS = "extends"
PIPELINE_KEY = "stages"
# Where values come from, for messages, and the values.
Layer = tuple[str, DictConfig]


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Return the resolved and validated configuration of `path` with overrides applied.

    Args:
        path: YAML file; None: the schema's defaults.
        overrides: `key=value`, or further YAML files; applied in order.

    Raises:
        ConfigError: missing file, bad YAML, unknown key, wrong type or impossible combination.
    """
    files = file_layers(Path(path)) if path is not None else []
    return compose([*files, *override_layers(overrides)])


def compose(layers: Sequence[Layer]) -> Config:
    """Return the resolved and validated configuration of layers of values, of which the later wins; it uses them up.

    Raises:
        ConfigError: unknown key, wrong type or impossible combination.
    """
    schema = _schema()
    merged: Any = copy.deepcopy(schema)
    for source, layer in layers:
        if PIPELINE_KEY in layer:
            raise ConfigError(f"{source} is a pipeline: run it with `r1ray pipeline {source}`")
        refuse_unknown_keys(layer, schema, source=source)
        try:
            # `merge` would copy everything for each layer; nobody else has these.
            merged = OmegaConf.unsafe_merge(merged, layer)
        except OmegaConfBaseException as error:
            raise ConfigError(_type_message(error, source)) from None
    try:
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(_type_message(error, layers[0][0] if layers else "defaults")) from None
    assert isinstance(config, Config)
    validate(config)
    return config


@functools.cache
def _schema() -> DictConfig:
    """Return the schema with its defaults; to be copied before it is merged with anything."""
    schema = OmegaConf.structured(Config)
    assert isinstance(schema, DictConfig)
    return schema


def to_yaml(config: Config) -> str:
    """Return the resolved configuration as YAML that `load_config` reads back to an equal one."""
    return OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True)


def file_layers(path: Path, seen: tuple[Path, ...] = ()) -> list[Layer]:
    """Return the file's layers, those it extends first.

    Raises:
        ConfigError: it is not there, is no YAML, or extends itself.
    """
    if path.resolve() in seen:
        raise ConfigError(f"{path}: `extends` runs in a circle: {' -> '.join(str(p) for p in (*seen, path.resolve()))}")
    if not path.is_file():
        raise ConfigError(f"config file {path} does not exist{_nearby_files(path)}")
    try:
        layer = OmegaConf.load(path)
    except YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(layer, DictConfig):
        raise ConfigError(f"{path} must hold a mapping of config sections, got {type(layer).__name__}")
    bases = layer.pop(EXTENDS, None) or []
    below = [
        found
        for base in ([bases] if isinstance(bases, str) else bases)
        for found in file_layers(path.parent / str(base), (*seen, path.resolve()))
    ]
    return [*below, (str(path), layer)]


def _nearby_files(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("conf")
    names = {p.name: p for p in sorted(folder.rglob("*.yaml"))} if folder.is_dir() else {}
    close = difflib.get_close_matches(path.with_suffix(".yaml").name, names, n=1, cutoff=0.4)
    return (
        f": did you mean {names[close[0]]}?" if close else ": give the path of a YAML file, e.g. conf/quickstart.yaml"
    )


def override_layers(overrides: Sequence[str]) -> list[Layer]:
    """Return a layer for each `key=value`, and those of each YAML file among them.

    Raises:
        ConfigError: one is neither.
    """
    layers: list[Layer] = []
    for override in overrides:
        if override.endswith((".yaml", ".yml")) and "=" not in override:
            layers += file_layers(Path(override))
            continue
        key, equals, _ = override.partition("=")
        if not equals or not key or key.startswith("-"):
            raise ConfigError(
                f"override {override!r} must have the form key=value, e.g. train.steps=10, or be a YAML file"
            )
        try:
            layers.append((f"override {override!r}", OmegaConf.from_dotlist([override])))
        except (OmegaConfBaseException, YAMLError) as error:
            raise ConfigError(f"override {override!r} cannot be read: {str(error).splitlines()[0]}") from None
    return layers


def refuse_unknown_keys(layer: Any, schema: Any, *, source: str, prefix: str = "", root: Any = None) -> None:
    """Compare keys before values, so that one message names the key and its neighbour.

    Raises:
        ConfigError: `layer` has a key that `schema` has not.
    """
    if not isinstance(layer, DictConfig) or not isinstance(schema, DictConfig) or not len(schema):
        return
    known = list(schema.keys())
    for key in map(str, layer):
        name = f"{prefix}{key}"
        if key not in known:
            raise ConfigError(f"{source}: unknown key {name}{_suggestion(name, schema_keys(root or schema))}")
        if not OmegaConf.is_missing(layer, key):
            inner, known_inner = layer._get_node(key), schema._get_node(key)
            refuse_unknown_keys(inner, known_inner, source=source, prefix=f"{name}.", root=root or schema)


def schema_keys(schema: DictConfig) -> list[str]:
    """Return every dotted key of a schema."""

    def walk(node: DictConfig, prefix: str) -> list[str]:
        names = []
        for key in map(str, node):
            child = node._get_node(key)
            names.append(f"{prefix}{key}")
            if isinstance(child, DictConfig):
                names += walk(child, f"{prefix}{key}.")
        return names

    return walk(schema, "")


def _suggestion(name: str, known: Sequence[str]) -> str:
    leaf = name.rpartition(".")[2]
    same_leaf = [k for k in known if k.rpartition(".")[2] == leaf]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6) or same_leaf[:1]
    if not close:
        leaves = {k.rpartition(".")[2]: k for k in known}
        close = [leaves[match] for match in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.6)]
    return f": did you mean {close[0]}?" if close else f"; sections are {', '.join(k for k in known if '.' not in k)}"


def _type_message(error: OmegaConfBaseException, source: str) -> str:
    key = getattr(error, "full_key", None)
    first_line = str(error).splitlines()[0]
    return f"{source}: {key or 'value'}: {first_line}"
