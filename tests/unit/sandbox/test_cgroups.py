"""Against a directory that looks like a cgroup file system: the kernel's own cannot be had everywhere."""

import subprocess
from pathlib import Path

import pytest

from r1ray.errors import SandboxError
from r1ray.sandbox import cgroups
from r1ray.sandbox.cgroups import find_parent, make_cgroup


@pytest.fixture
def delegated(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids\n")
    return tmp_path


@pytest.fixture(autouse=True)
def fresh_search():
    find_parent.cache_clear()
    yield
    find_parent.cache_clear()


def test_each_sandbox_gets_limits_of_its_own(delegated: Path):
    one, other = make_cgroup(str(delegated)), make_cgroup(str(delegated))
    assert one is not None
    assert other is not None
    assert one.path != other.path
    one.limit(memory_bytes=1 << 28, processes=64, cores=1.5)
    written = {file.name: file.read_text() for file in one.path.iterdir()}
    # The program's 256 MiB and as much for the runner; 64 processes and 32.
    assert written["memory.max"] == str(1 << 29)
    assert written["memory.swap.max"] == "0"
    assert written["pids.max"] == "96"
    assert written["cpu.max"] == "150000 100000"
    done = subprocess.run(one.enter(["/bin/sh", "-c", "echo $$"]), capture_output=True, text=True, check=True)
    assert (one.path / "cgroup.procs").read_text() == done.stdout
    one.kill()
    assert (one.path / "cgroup.kill").read_text() == "1"


def test_kills_for_memory_are_counted(delegated: Path):
    group = make_cgroup(str(delegated))
    assert group is not None
    assert group.memory_kills() == 0
    (group.path / "memory.events").write_text("low 0\nhigh 0\nmax 3\noom 2\noom_kill 2\noom_group_kill 0\n")
    assert group.memory_kills() == 2


def test_an_empty_cgroup_is_removed(delegated: Path):
    group = make_cgroup(str(delegated))
    assert group is not None
    group.remove()
    assert [entry.name for entry in delegated.iterdir()] == ["cgroup.subtree_control"]


def test_a_directory_that_hands_nothing_on_is_refused_with_the_remedy(tmp_path: Path):
    (tmp_path / "cgroup.subtree_control").write_text("cpu\n")
    with pytest.raises(SandboxError, match=r"without memory, pids: `echo '\+memory \+pids \+cpu'"):
        make_cgroup(str(tmp_path))


def test_without_delegation_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(cgroups, "_ROOT", tmp_path)
    assert make_cgroup(None) is None


def test_the_own_cgroup_is_found_where_it_is_delegated(monkeypatch: pytest.MonkeyPatch, delegated: Path):
    monkeypatch.setattr(cgroups, "_own_cgroup", lambda: delegated / "service")
    assert find_parent(None) == delegated
