"""Where each stage of a pipeline stands: what is done, half done, out of date, or still to come.

A stage is done when its record has the fingerprint of today's configuration and inputs, and its output is whole. The
fingerprint holds hashes of what the inputs contain, so a stage done anew with the same result leaves those after it
as they are.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from r1ray.config.schema import Config
from r1ray.errors import ModelError
from r1ray.models.locate import locate_model
from r1ray.pipeline.artifacts import (
    HASHES_FILE,
    Artifact,
    FileHashes,
    damage,
    hash_of,
    read_artifact,
    started_fingerprint,
)
from r1ray.pipeline.references import Reference, references
from r1ray.pipeline.spec import Pipeline, Stage

# What does not change what a stage makes, but only how or where.
_ENDPOINT = ("api_key_env", "timeout_s", "max_retries", "requests_per_minute", "max_concurrency")
_NO_RESULT = {
    "": ("resume", "cluster", "tracking", "checkpoint", "sync"),
    "run": ("name", "dir"),
    "rollout": (
        *("num_workers", "cpus_per_worker", "group_timeout_s", "start_timeout_s", "max_restarts", "max_num_seqs"),
        *("tensor_parallel", "gpu_memory_fraction", "cpu_kv_cache_bytes", "enforce_eager"),
    ),
    "rewards": (
        *("num_workers", "num_judge_workers", "num_inference_workers", "gpus_per_inference_worker"),
        *("cpus_per_inference_worker", "batch_timeout_s", "max_error_fraction", "max_restarts"),
    ),
    # However a step is computed, it is the same to rounding.
    "learner": (
        *("num_processes", "cpus_per_process", "start_timeout_s", "step_timeout_s", "max_restarts"),
        *("backend", "zero_stage", "tensor_parallel", "context_parallel", "micro_batch_tokens"),
        *("activation_checkpointing", "offload_optimizer", "offload_reference", "fused_kernels", "compile"),
    ),
    "preferences.judge": _ENDPOINT,
    "selection.rewrite": _ENDPOINT,
}


class State(StrEnum):
    """Where a stage stands."""

    DONE = "done"
    HALF_DONE = "half done"
    READY = "ready"
    WAITING = "waiting"
    OUT_OF_DATE = "out of date"


@dataclass(frozen=True, slots=True)
class StageState:
    """Where one stage stands.

    Attributes:
        state: one of `State`.
        why: for people, where it is not plain.
        fingerprint: of configuration and inputs; None while an input is missing.
        inputs: hash of each input, by key of the configuration.
        artifact: of a stage that is done.
    """

    state: State
    why: str
    fingerprint: str | None
    inputs: dict[str, str]
    artifact: Artifact | None = None


class Inspector:
    """Looks at the stages of a pipeline on disk."""

    def __init__(self, pipeline: Pipeline) -> None:
        """Look at nothing yet."""
        self._pipeline = pipeline
        pipeline.directory.mkdir(parents=True, exist_ok=True)
        self.hashes = FileHashes(pipeline.directory / HASHES_FILE)

    def all(self) -> dict[str, StageState]:
        """Return the state of every stage, in order."""
        states: dict[str, StageState] = {}
        for stage in self._pipeline.stages:
            states[stage.name] = self.look(stage, states)
        self.hashes.save()
        return states

    def look(self, stage: Stage, earlier: dict[str, StageState]) -> StageState:
        """Return the state of one stage, given those of the stages before it."""
        missing = [ref.stage for ref in references(stage.config) if ref.stage and not _done(earlier, ref.stage)]
        if missing:
            return StageState(State.WAITING, f"needs {', '.join(dict.fromkeys(missing))}", None, {})
        inputs = {ref.key: self._hash(ref, earlier) for ref in references(stage.config)}
        fingerprint = hash_of({"config": _result_of(stage.config), "inputs": inputs})
        artifact = read_artifact(stage.directory)
        if artifact is not None:
            if artifact.fingerprint != fingerprint:
                why = _difference(artifact, inputs)
                return StageState(State.OUT_OF_DATE, why, fingerprint, inputs)
            broken = damage(stage.directory, artifact, self.hashes)
            if broken is not None:
                return StageState(State.OUT_OF_DATE, broken, fingerprint, inputs)
            return StageState(State.DONE, "", fingerprint, inputs, artifact)
        begun = started_fingerprint(stage.directory)
        if begun is None:
            return StageState(State.READY, "", fingerprint, inputs)
        if begun == fingerprint:
            return StageState(State.HALF_DONE, "", fingerprint, inputs)
        return StageState(State.OUT_OF_DATE, "begun with another configuration or other inputs", fingerprint, inputs)

    def _hash(self, reference: Reference, earlier: dict[str, StageState]) -> str:
        """Return a hash of what an input contains, or of its name where only the stage itself can look it up."""
        if reference.stage is not None:
            artifact = earlier[reference.stage].artifact
            assert artifact is not None, "the stage is done"
            return artifact.content_hash
        path = Path(reference.value).expanduser()
        if reference.kind in ("model", "reward model"):
            try:
                path = Path(locate_model(reference.value))
            except ModelError:
                return reference.value
        return hash_of(self.hashes.of_all(path)) if path.exists() else reference.value


def _done(states: dict[str, StageState], name: str) -> bool:
    return name in states and states[name].state is State.DONE


def _result_of(config: Config) -> dict[str, Any]:
    """Return the part of a configuration that decides on what a stage makes; paths of inputs stand for themselves."""
    values = dataclasses.asdict(config)
    for path, keys in _NO_RESULT.items():
        section = values
        for name in path.split(".") if path else ():
            section = section[name]
        for key in keys:
            del section[key]
    # A judge may move to another host, but there must still be one.
    for section in (values["preferences"]["judge"], values["selection"]["rewrite"]):
        section["base_url"] = section["base_url"] is not None
    return values


def _difference(artifact: Artifact, inputs: dict[str, str]) -> str:
    changed = [key for key in inputs if artifact.inputs.get(key) != inputs[key]]
    return f"changed: {', '.join(changed)}" if changed else "its configuration has changed"
