from pathlib import Path
from uuid import uuid4

import pytest

from r1ray.errors import DataError
from r1ray.tracking.jsonl import JsonlFile, encode_line, read_jsonl
from r1ray.tracking.run_dir import RunDirectory

LOG = "log.jsonl"


@pytest.fixture(params=["local", "memory"])
def run_dir(request: pytest.FixtureRequest, tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run" if request.param == "local" else f"memory://{uuid4().hex}/run")


def test_every_append_is_visible_at_once(run_dir: RunDirectory) -> None:
    file = JsonlFile(run_dir, LOG)
    file.append({"a": 1})
    assert run_dir.read_bytes(LOG) == b'{"a": 1}\n'
    file.append({"a": "ü"})
    assert read_jsonl(run_dir, LOG) == [{"a": 1}, {"a": "ü"}]
    file.close()


@pytest.mark.parametrize("torn", [b'{"a": 3, "b', b'{"a": "\xc3', b"{", b'{"a": 3\x00\n'])
def test_a_torn_last_line_is_skipped_and_cut_off_by_the_next_append(run_dir: RunDirectory, torn: bytes) -> None:
    run_dir.write_bytes(LOG, b'{"a": 1}\n{"a": 2}\n' + torn)
    assert read_jsonl(run_dir, LOG) == [{"a": 1}, {"a": 2}]
    file = JsonlFile(run_dir, LOG)
    file.append({"a": 4})
    file.close()
    assert run_dir.read_bytes(LOG) == b'{"a": 1}\n{"a": 2}\n{"a": 4}\n'


def test_a_whole_last_line_without_its_newline_is_kept(run_dir: RunDirectory) -> None:
    run_dir.write_bytes(LOG, b'{"a": 1}\n{"a": 2}')
    file = JsonlFile(run_dir, LOG)
    file.append({"a": 3})
    file.close()
    assert read_jsonl(run_dir, LOG) == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_a_broken_line_in_the_middle_is_an_error_that_names_it(run_dir: RunDirectory) -> None:
    run_dir.write_bytes(LOG, b'{"a": 1}\nbroken\n{"a": 2}\n')
    with pytest.raises(DataError, match="line 2"):
        read_jsonl(run_dir, LOG)


def test_rewrite_replaces_the_file_and_appending_goes_on(run_dir: RunDirectory) -> None:
    file = JsonlFile(run_dir, LOG)
    file.append({"a": 1})
    file.rewrite([{"b": 1}])
    file.append({"b": 2})
    file.close()
    assert file.read() == [{"b": 1}, {"b": 2}]


def test_what_json_does_not_know_is_written_all_the_same() -> None:
    record = {"x": float("nan"), "y": [float("inf"), 1.5], "z": Path("p"), "s": "\ud800"}
    assert encode_line(record) == b'{"x": null, "y": [null, 1.5], "z": "p", "s": "?"}\n'


def test_a_missing_file_has_no_records(run_dir: RunDirectory) -> None:
    assert read_jsonl(run_dir, LOG) == []
