"""Outputs of stages: what they consist of, whether they are whole, and hashes that tell whether anything changed.

    <stage>/stage.json      fingerprint of configuration and inputs, written when the stage begins
    <stage>/artifact.json   the same, and every file of the output with its hash, written when it is done

Hashes of files are kept with size and modification time, so that a model of many gigabytes is read once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from r1ray.errors import CheckpointError

STAGE_FILE = "stage.json"
ARTIFACT_FILE = "artifact.json"
HASHES_FILE = "hashes.json"
_BLOCK_BYTES = 1 << 20


class FileHashes:
    """SHA-256 of files, remembered by path, size and modification time."""

    def __init__(self, store: Path) -> None:
        """Remember in the file `store`."""
        self._store = store
        self._known: dict[str, list[Any]] = {}
        self._changed = False
        if store.is_file():
            try:
                self._known = json.loads(store.read_text())
            except ValueError:
                self._known = {}

    def of(self, path: Path) -> str:
        """Return the hash of a file."""
        path = path.resolve()
        stat = path.stat()
        known = self._known.get(str(path))
        if known and known[:2] == [stat.st_size, stat.st_mtime_ns]:
            return str(known[2])
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
        self._known[str(path)] = [stat.st_size, stat.st_mtime_ns, digest.hexdigest()]
        self._changed = True
        return digest.hexdigest()

    def of_all(self, path: Path) -> dict[str, str]:
        """Return the hashes of a file, or of every file of a directory by its relative path."""
        files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
        root = path.parent if path.is_file() else path
        hashes = {file.relative_to(root).as_posix(): self.of(file) for file in files if "__pycache__" not in file.parts}
        self.save()
        return hashes

    def save(self) -> None:
        """Write down what has been learned."""
        if self._changed:
            write_json(self._store, self._known)
            self._changed = False


@dataclass(frozen=True, slots=True)
class Artifact:
    """A finished stage.

    Attributes:
        fingerprint: of the configuration and inputs that made it.
        kind: `model`, `reward model`, `data` or `evaluation`.
        output: file or directory, relative to the stage's directory.
        files: hash of each of its files.
        inputs: what it was made from: hash by key of the configuration.
        finished_at: UTC, ISO 8601.
        wall_s: seconds that the last run of the stage took; earlier, interrupted ones are not counted.
    """

    fingerprint: str
    kind: str
    output: str
    files: dict[str, str]
    inputs: dict[str, str]
    finished_at: str
    wall_s: float

    @property
    def content_hash(self) -> str:
        """One hash of the whole output."""
        return hash_of(self.files)


def hash_of(values: Mapping[str, Any]) -> str:
    """Return a hash of JSON-able values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_artifact(directory: Path) -> Artifact | None:
    """Return what a stage says it has made; None where it has not finished.

    Raises:
        CheckpointError: its record cannot be read.
    """
    values = _read_json(directory / ARTIFACT_FILE)
    try:
        return Artifact(**values) if values is not None else None
    except TypeError as error:
        raise CheckpointError(
            f"{directory / ARTIFACT_FILE} is of another version of r1ray: {error}; delete the file to do the stage anew"
        ) from None


def write_artifact(directory: Path, artifact: Artifact) -> None:
    """Write the record of a finished stage, atomically."""
    write_json(directory / ARTIFACT_FILE, asdict(artifact))


def damage(directory: Path, artifact: Artifact, hashes: FileHashes) -> str | None:
    """Return what is wrong with an output; None where it is whole."""
    output = directory / artifact.output
    for name, expected in artifact.files.items():
        path = output if output.is_file() else output / name
        if not path.is_file():
            return f"{path} is missing"
        if hashes.of(path) != expected:
            return f"{path} is not what the stage wrote"
    return None


def started_fingerprint(directory: Path) -> str | None:
    """Return the fingerprint of a stage that has begun; None where it has not."""
    values = _read_json(directory / STAGE_FILE)
    return None if values is None else str(values.get("fingerprint"))


def write_started(directory: Path, fingerprint: str) -> None:
    """Note that a stage begins."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / STAGE_FILE, {"fingerprint": fingerprint})


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file; a reader sees the old content or the new."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    scratch.write_text(json.dumps(values, indent=2) + "\n")
    os.replace(scratch, path)


def _read_json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be read: {error}; delete it to do the stage anew") from None
