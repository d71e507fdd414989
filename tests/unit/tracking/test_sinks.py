from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import pytest

from r1ray.config.schema import Config, WandbConfig
from r1ray.tracking.events import EventLog
from r1ray.tracking.run_dir import RunDirectory
from r1ray.tracking.sinks import Sinks, TensorBoardSink, WandbSink, open_sinks, wandb_mode


class BrokenSink:
    def log(self, step: int, values: Mapping[str, float | int]) -> None:
        raise ConnectionError("no route")

    def go_back(self, step: int) -> None:
        raise ConnectionError("no route")

    def close(self) -> None:
        raise ConnectionError("no route")


class ListSink:
    def __init__(self) -> None:
        self.logged: list[tuple[int, Mapping[str, float | int]]] = []
        self.closed = False

    def log(self, step: int, values: Mapping[str, float | int]) -> None:
        self.logged.append((step, values))

    def go_back(self, step: int) -> None:
        self.logged = [(logged, values) for logged, values in self.logged if logged <= step]

    def close(self) -> None:
        self.closed = True


def test_a_failing_sink_is_one_event_and_the_others_go_on(tmp_path: Path) -> None:
    events, good = EventLog(RunDirectory(tmp_path)), ListSink()

    def cannot_open() -> ListSink:
        raise OSError("no permission")

    sinks = Sinks({"broken": BrokenSink, "absent": cannot_open, "good": lambda: good}, events)
    sinks.log(1, {"a": 1.0})
    sinks.log(2, {"a": 2.0})
    sinks.go_back(1)
    sinks.log(2, {"a": 3.0})
    sinks.close()
    events.close()
    assert good.logged == [(1, {"a": 1.0}), (2, {"a": 3.0})]
    assert good.closed
    assert sorted((event["sink"], event["reason"]) for event in events.read()) == [
        ("absent", "OSError: no permission"),
        ("broken", "ConnectionError: no route"),
    ]


def test_no_sink_is_opened_unless_asked_for(tmp_path: Path) -> None:
    run_dir = RunDirectory(tmp_path)
    sinks = open_sinks(run_dir, Config(), events=EventLog(run_dir))
    sinks.log(1, {"a": 1.0})
    sinks.close()
    assert list(tmp_path.iterdir()) == []


def test_wandb_is_online_only_with_an_api_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    assert wandb_mode() == "offline"
    netrc.write_text("machine elsewhere.example login a password b\n")
    assert wandb_mode() == "offline"
    netrc.write_text("machine api.wandb.ai login user password b\n")
    assert wandb_mode() == "online"
    netrc.write_text("nonsense\n")
    assert wandb_mode() == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert wandb_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode() == "disabled"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("remote", [False, True])
def test_tensorboard_files_lie_in_the_run_directory_and_hold_the_values(tmp_path: Path, remote: bool) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_dir = RunDirectory(f"memory://{uuid4().hex}/run" if remote else tmp_path / "run")
    sink = TensorBoardSink(run_dir)
    sink.log(1, {"train/kl": 0.5})
    sink.close()
    (name,) = run_dir.names("tensorboard")
    copy = tmp_path / "copy" / Path(name).name
    copy.parent.mkdir()
    copy.write_bytes(run_dir.read_bytes(name))
    stored = EventAccumulator(str(copy)).Reload()
    assert [(event.step, event.value) for event in stored.Scalars("train/kl")] == [(1, 0.5)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_shows_steps_that_are_done_again_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = TensorBoardSink(RunDirectory(tmp_path))
    for step in (1, 2, 3):
        sink.log(step, {"train/kl": float(step)})
    sink.go_back(1)
    sink.log(2, {"train/kl": 20.0})
    sink.close()
    stored = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in stored.Scalars("train/kl")] == [(1, 1.0), (2, 20.0)]


@pytest.mark.filterwarnings("ignore")
def test_wandb_keeps_steps_that_are_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    sink = WandbSink(RunDirectory(tmp_path), WandbConfig(enabled=True), run_name="x", run_config={})
    for step in (1, 2, 3):
        sink.log(step, {"train/kl": 0.5})
    sink.go_back(1)
    sink.log(2, {"train/kl": 0.84375})
    sink.close()
    (stored,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"0.84375" in stored.read_bytes()


@pytest.mark.filterwarnings("ignore")
def test_wandb_offline_keeps_its_files_and_its_id_in_the_run_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run_dir = RunDirectory(tmp_path)
    config = Config()
    config.tracking.wandb.enabled = True
    events = EventLog(run_dir)
    for step in (1, 2):
        sinks = open_sinks(run_dir, config, events=events)
        sinks.log(step, {"train/kl": 0.5})
        sinks.close()
    assert events.read() == []
    run_id = run_dir.read_text("wandb/run_id").strip()
    assert len(list((tmp_path / "wandb").glob(f"offline-run-*-{run_id}"))) >= 1
    assert list((tmp_path / "wandb").glob(f"offline-run-*-{run_id}/run-{run_id}.wandb"))
