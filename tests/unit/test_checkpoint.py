from pathlib import Path

import pytest

from r1ray.checkpoint import CheckpointStore, RunState
from r1ray.errors import CheckpointError


def save(store: CheckpointStore, step: int) -> RunState:
    staged = store.stage(step)
    (staged / "learner").mkdir()
    (staged / "learner" / "shard").write_text(str(step))
    state = RunState(step=step, phase=step, cursor={"epoch": 0, "position": step})
    store.commit(staged, state)
    return state


@pytest.mark.parametrize("url", ["local", "memory://checkpoints"])
def test_newest_complete_checkpoint_comes_back_whole(tmp_path: Path, url: str) -> None:
    store = CheckpointStore(str(tmp_path / "c") if url == "local" else url, keep=2)
    assert store.newest() is None
    states = [save(store, step) for step in (5, 10, 15)]
    newest = store.newest()
    assert newest is not None
    folder, state = newest
    assert state == states[-1]
    assert (Path(folder) / "learner" / "shard").read_text() == "15"
    assert store.steps() == [10, 15]


def test_a_checkpoint_without_its_state_does_not_count(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), keep=3)
    save(store, 1)
    (tmp_path / "step_000002").mkdir()
    staged = store.stage(3)
    assert staged.name == "step_000003.tmp"
    assert store.steps() == [1]


def test_unreadable_state_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), keep=3)
    save(store, 1)
    (tmp_path / "step_000001" / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"step_000001/state\.json cannot be read"):
        store.newest()
