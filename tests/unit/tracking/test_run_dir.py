from pathlib import Path
from uuid import uuid4

import pytest

from r1ray.errors import ConfigError
from r1ray.tracking.run_dir import RunDirectory


@pytest.fixture(params=["local", "memory"])
def run_dir(request: pytest.FixtureRequest, tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run" if request.param == "local" else f"memory://{uuid4().hex}/run")


def test_written_files_read_back_and_are_listed(run_dir: RunDirectory) -> None:
    run_dir.create()
    run_dir.write_text("rollouts/b.txt", "zwei ü")
    run_dir.write_bytes("rollouts/a.bin", b"\x00\x01")
    run_dir.write_bytes("rollouts/a.bin", b"\x02")
    assert run_dir.read_text("rollouts/b.txt") == "zwei ü"
    assert run_dir.read_bytes("rollouts/a.bin") == b"\x02"
    assert run_dir.names("rollouts") == ["rollouts/a.bin", "rollouts/b.txt"]
    run_dir.delete("rollouts/a.bin")
    assert run_dir.names("rollouts") == ["rollouts/b.txt"]
    assert run_dir.names("absent") == []


@pytest.mark.parametrize("file", ["config.yaml", "metrics.jsonl"])
def test_a_directory_that_holds_a_run_is_entered_only_with_resume(run_dir: RunDirectory, file: str) -> None:
    run_dir.create()
    assert not run_dir.exists()
    run_dir.create()
    run_dir.write_text(file, "")
    assert run_dir.exists()
    with pytest.raises(ConfigError, match=r"resume=true"):
        run_dir.create()
    run_dir.create(resume=True)


def test_resume_of_a_run_that_never_began_starts_it(run_dir: RunDirectory) -> None:
    run_dir.create(resume=True)
    assert not run_dir.exists()


def test_paths_keep_the_form_the_user_gave() -> None:
    assert RunDirectory("runs/x/").path("report.html") == "runs/x/report.html"
    assert RunDirectory("memory://b/x").checkpoints_url == "memory://b/x/checkpoints"
    assert RunDirectory("runs/x/").name == "x"
    assert RunDirectory("runs/x").local_path("a").is_absolute()
    with pytest.raises(ValueError, match="not a local directory"):
        RunDirectory("memory://b/x").local_path("a")


def test_unknown_protocol_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"run\.dir"):
        RunDirectory("nowhere://bucket/run")


def test_a_file_in_the_way_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"run\.dir"):
        RunDirectory(tmp_path / "file").create()


def test_a_failed_write_leaves_the_old_content_and_no_scratch_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = RunDirectory(tmp_path)
    run_dir.write_text("summary.json", "old")

    def full_disk(source: str, target: str) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        run_dir.write_text("summary.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
    assert run_dir.read_text("summary.json") == "old"
