"""Checkpoints of a run: which there are, which is newest, and how one becomes whole.

A checkpoint is written into a staging folder and renamed into place, with `state.json` last, so a folder
`step_N` that has a `state.json` is complete. What lies inside `learner/` and `model/` is the learner's affair.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fsspec

from r1ray.errors import CheckpointError

STATE_FILE = "state.json"
_NAME = re.compile(r"step_(\d+)")


@dataclass(frozen=True, slots=True)
class RunState:
    """What a run needs besides weights and optimizer to go on as if it had never stopped.

    Sampling seeds and shuffles are hashes of the run seed, the phase and the prompt, so the counters here
    are the whole state of its random numbers.

    Attributes:
        step: optimizer steps done; the policy version.
        phase: index of the next rollout phase to train on.
        cursor: state of the prompt cursor before that phase; prompts in flight are asked for again.
    """

    step: int
    phase: int
    cursor: dict[str, Any]


class CheckpointStore:
    """The `checkpoints` folder of a run, local or at an fsspec URL."""

    def __init__(self, url: str, *, keep: int) -> None:
        """Point at the folder; `keep` newest checkpoints stay."""
        self._fs, self._root = fsspec.core.url_to_fs(url)
        self._local = "file" in (self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,))
        self._keep = keep

    def stage(self, step: int) -> Path:
        """Return an empty local folder for the learner to write `step` into."""
        if not self._local:
            return Path(tempfile.mkdtemp(prefix="r1ray-checkpoint-"))
        folder = Path(self._root).absolute() / f"{_folder(step)}.tmp"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def commit(self, staged: Path, state: RunState) -> str:
        """Make a staged checkpoint visible under its final name and drop the oldest; returns its URL."""
        (staged / STATE_FILE).write_text(json.dumps(asdict(state), indent=2))
        final = f"{self._root}/{_folder(state.step)}"
        if self._local:
            shutil.rmtree(final, ignore_errors=True)
            staged.rename(final)
        else:
            self._fs.put(f"{staged}/", f"{final}/", recursive=True)
            shutil.rmtree(staged)
        for step in self.steps()[: -self._keep]:
            self._fs.rm(f"{self._root}/{_folder(step)}", recursive=True)
        return final

    def steps(self) -> list[int]:
        """Return the steps of all complete checkpoints, ascending."""
        self._fs.invalidate_cache()
        if not self._fs.exists(self._root):
            return []
        names = [Path(str(entry)).name for entry in self._fs.ls(self._root, detail=False)]
        found = [int(match[1]) for name in names if (match := _NAME.fullmatch(name))]
        return sorted(step for step in found if self._fs.exists(f"{self._root}/{_folder(step)}/{STATE_FILE}"))

    def newest(self) -> tuple[str, RunState] | None:
        """Return the local folder and state of the newest complete checkpoint; None where there is none.

        Raises:
            CheckpointError: its state cannot be read.
        """
        steps = self.steps()
        if not steps:
            return None
        source = f"{self._root}/{_folder(steps[-1])}"
        try:
            state = RunState(**json.loads(self._fs.cat_file(f"{source}/{STATE_FILE}")))
        except (ValueError, TypeError) as error:
            raise CheckpointError(
                f"{source}/{STATE_FILE} cannot be read: {error}; delete the folder to use an older one"
            ) from error
        if self._local:
            return str(Path(source).absolute()), state
        folder = tempfile.mkdtemp(prefix="r1ray-checkpoint-")
        self._fs.get(f"{source}/", f"{folder}/", recursive=True)
        return folder, state


def _folder(step: int) -> str:
    return f"step_{step:06d}"
