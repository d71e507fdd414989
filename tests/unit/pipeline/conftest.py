"""A small pipeline on disk, whose stages are played by a function that writes what they would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from r1ray.config.schema import Config
from r1ray.errors import LearnerError
from r1ray.pipeline.spec import Pipeline, load_pipeline

CONF = Path(__file__).parents[3] / "conf"


class Laboratory:
    """Writes pipelines, and plays their stages.

    Attributes:
        ran: stages that ran, with whether they were resumed.
        fails_at: a stage that leaves half of its work and raises.
        content: what a stage writes; of its own name where nothing else is said.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ran: list[tuple[str, bool]] = []
        self.configs: dict[str, Config] = {}
        self.fails_at: str | None = None
        self.content: dict[str, str] = {}
        self.values: dict[str, Any] = {
            "name": "lab",
            "dir": str(folder / "out"),
            "config": [str(CONF / "quickstart.yaml")],
            "stages": {
                "zero": {},
                "pick": {"set": {"stage": "cold_start", "model": {"path": "artifact://zero"}}},
                "dev": {
                    "set": {
                        "stage": "sft",
                        "sft": {"max_tokens": 256},
                        "data": {"train": {"source": "parquet", "name": "artifact://pick"}},
                    }
                },
            },
            "evaluation": {
                "config": [str(CONF / "quickstart.yaml")],
                "models": [{"name": "R1-Zero", "stage": "zero"}],
            },
        }

    def load(self, *overrides: str) -> Pipeline:
        """Write the YAML and read it."""
        path = self.folder / "pipeline.yaml"
        path.write_text(yaml.safe_dump(self.values, sort_keys=False))
        return load_pipeline(path, overrides)

    def play(self, config: Config) -> None:
        """Do what a stage would leave behind."""
        directory = Path(config.run.dir)
        self.ran.append((directory.name, config.resume))
        self.configs[directory.name] = config
        directory.mkdir(parents=True, exist_ok=True)
        if self.fails_at == directory.name:
            raise LearnerError("learner process 0 of 1 died")
        text = self.content.get(directory.name, directory.name)
        if config.stage in ("cold_start", "rejection"):
            (directory / "data").mkdir(exist_ok=True)
            (directory / "data" / "shard.parquet").write_text(text)
        elif config.stage == "evaluate":
            (directory / "summary.json").write_text(json.dumps({"stage": "evaluate", "metrics": {}}))
        else:
            checkpoint = directory / "checkpoints" / "step_000002"
            (checkpoint / "model").mkdir(parents=True, exist_ok=True)
            (checkpoint / "model" / "config.json").write_text(json.dumps({"text": text}))
            (checkpoint / "state.json").write_text(json.dumps({"step": 2, "phase": 0, "cursor": {}}))


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Laboratory:
    """A laboratory whose pipelines need neither Ray nor real data."""
    made = Laboratory(tmp_path)
    nothing: Callable[..., Any] = lambda *args, **kwargs: None  # noqa: E731
    monkeypatch.setattr("r1ray.pipeline.run.run_stage", made.play)
    monkeypatch.setattr("r1ray.pipeline.run.attach_ray", lambda config: False)
    monkeypatch.setattr("r1ray.pipeline.run.check_stage_inputs", nothing)
    monkeypatch.setattr("r1ray.pipeline.preflight.check_stage_inputs", nothing)
    return made
