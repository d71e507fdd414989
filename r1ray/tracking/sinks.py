"""Copies of the metrics for Weights & Biases and TensorBoard.

metrics.jsonl is the record; these are for looking at. Whatever goes wrong in one of them is written to
the event log once and never stops the run.
"""

from __future__ import annotations

import logging
import netrc
import os
import secrets
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from r1ray.config.schema import Config, WandbConfig
from r1ray.tracking.events import EventLog
from r1ray.tracking.run_dir import RunDirectory

logger = logging.getLogger(__name__)

_WANDB_ID_FILE = "wandb/run_id"
# The metric over which wandb draws the others.
STEP = "step"


class MetricsSink(Protocol):
    """A place that metrics are copied to."""

    def log(self, step: int, values: Mapping[str, float | int]) -> None:
        """Copy the figures of one step."""

    def go_back(self, step: int) -> None:
        """Expect steps after `step` once more: what was logged of them does not count."""

    def close(self) -> None:
        """Finish; nothing is logged afterwards."""


class _SinkFolder:
    """A local folder for a sink's files: inside a local run directory, else uploaded to it in the end."""

    def __init__(self, run_dir: RunDirectory, name: str) -> None:
        self._run_dir = run_dir
        self._name = name
        self._scratch = None if run_dir.is_local else tempfile.TemporaryDirectory(prefix=f"r1ray-{name}-")
        self.path = run_dir.local_path(name) if self._scratch is None else Path(self._scratch.name)
        self.path.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        if self._scratch is not None:
            self._run_dir.upload(self.path, self._name)
            self._scratch.cleanup()


class TensorBoardSink:
    """Writes event files to `tensorboard/` in the run directory."""

    def __init__(self, run_dir: RunDirectory, *, first_step: int = 0) -> None:
        """Open a new event file; points after `first_step` from earlier processes are hidden."""
        self._folder = _SinkFolder(run_dir, "tensorboard")
        self._writer = self._open(first_step + 1 if first_step else None)

    def _open(self, purge_step: int | None) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        make_writer: Any = SummaryWriter
        return make_writer(str(self._folder.path), purge_step=purge_step)

    def log(self, step: int, values: Mapping[str, float | int]) -> None:
        """Write one scalar per metric."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def go_back(self, step: int) -> None:
        """Go on in a further event file, which hides what earlier ones have after `step`."""
        self._writer.close()
        self._writer = self._open(step + 1)

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()
        self._folder.close()


class WandbSink:
    """Logs to Weights & Biases; offline into `wandb/` in the run directory where no API key is configured."""

    def __init__(
        self, run_dir: RunDirectory, config: WandbConfig, *, run_name: str, run_config: Mapping[str, Any]
    ) -> None:
        """Start or resume the wandb run that belongs to the run directory."""
        import wandb

        self._folder = _SinkFolder(run_dir, "wandb")
        self._run: Any = wandb.init(
            project=config.project,
            entity=config.entity,
            name=run_name,
            id=_wandb_id(run_dir),
            # An offline run has nothing to resume.
            resume="allow" if wandb_mode() == "online" else None,
            mode=wandb_mode(),
            # wandb makes its own `wandb` folder inside.
            dir=str(self._folder.path.parent if run_dir.is_local else self._folder.path),
            config=dict(run_config),
            settings=wandb.Settings(console="off", silent=True),
        )
        # wandb's own step only counts upwards and drops what a run that went back does again.
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)

    def log(self, step: int, values: Mapping[str, float | int]) -> None:
        """Log all metrics of one step."""
        self._run.log({STEP: step, **values})

    def go_back(self, step: int) -> None:
        """Do nothing: steps done again are further points at the same `step`."""

    def close(self) -> None:
        """Wait for the upload, if any, and finish the run."""
        self._run.finish()
        self._folder.close()


class Sinks:
    """All configured sinks behind one `log`, none of which can stop the run."""

    def __init__(self, sinks: Mapping[str, Callable[[], MetricsSink]], events: EventLog) -> None:
        """Open sinks.

        Args:
            sinks: makes each sink, by name.
            events: receives one `sink_failed` per failing sink.
        """
        self._events = events
        self._failed: set[str] = set()
        self._sinks: dict[str, MetricsSink] = {}
        for name, make in sinks.items():
            self._guard(name, partial(self._open, name, make))

    def log(self, step: int, values: Mapping[str, float | int]) -> None:
        """Copy the figures of one step to every sink."""
        for name, sink in self._sinks.items():
            self._guard(name, partial(sink.log, step, values))

    def go_back(self, step: int) -> None:
        """Tell every sink that steps after `step` are done again."""
        for name, sink in self._sinks.items():
            self._guard(name, partial(sink.go_back, step))

    def close(self) -> None:
        """Close every sink."""
        for name, sink in self._sinks.items():
            self._guard(name, sink.close)
        self._sinks.clear()

    def _open(self, name: str, make: Callable[[], MetricsSink]) -> None:
        self._sinks[name] = make()

    def _guard(self, name: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            if name not in self._failed:
                self._failed.add(name)
                logger.warning("metrics no longer reach %s reliably: %s", name, error)
                self._events.write("sink_failed", sink=name, reason=f"{type(error).__name__}: {error}")


def open_sinks(run_dir: RunDirectory, config: Config, *, events: EventLog, first_step: int = 0) -> Sinks:
    """Open the sinks that the config asks for.

    Args:
        run_dir: the run.
        config: of the run; says which sinks, and is shown by them.
        events: receives failures.
        first_step: steps done before this process started.
    """
    makers: dict[str, Callable[[], MetricsSink]] = {}
    tracking = config.tracking
    if tracking.wandb.enabled:
        makers["wandb"] = lambda: WandbSink(
            run_dir, tracking.wandb, run_name=config.run.name, run_config=asdict(config)
        )
    if tracking.tensorboard:
        makers["tensorboard"] = lambda: TensorBoardSink(run_dir, first_step=first_step)
    return Sinks(makers, events)


def wandb_mode() -> Literal["online", "offline", "disabled"]:
    """Return `WANDB_MODE` if set, else online exactly if an API key is configured, so that nothing ever prompts."""
    match os.environ.get("WANDB_MODE"):
        case "online":
            return "online"
        case "offline" | "dryrun":
            return "offline"
        case "disabled":
            return "disabled"
    return "online" if os.environ.get("WANDB_API_KEY") or _netrc_has_wandb() else "offline"


def _netrc_has_wandb() -> bool:
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _wandb_id(run_dir: RunDirectory) -> str:
    """Return the id under which this run is known to wandb, made up once and kept for resuming."""
    if run_dir.has(_WANDB_ID_FILE):
        return run_dir.read_text(_WANDB_ID_FILE).strip()
    run_id = secrets.token_hex(4)
    run_dir.write_text(_WANDB_ID_FILE, run_id + "\n")
    return run_id
