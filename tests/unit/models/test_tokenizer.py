from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from r1ray.errors import ModelError
from r1ray.models.tokenizer import load_tokenizer


def save_tokenizer(directory: Path, **special_tokens: str) -> str:
    core = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "<pad>": 2, "one": 3}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", **special_tokens).save_pretrained(directory)
    return str(directory)


def test_eos_pads_where_there_is_no_padding_token(tmp_path: Path):
    tokenizer = load_tokenizer(save_tokenizer(tmp_path, eos_token="</s>"))
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 1)


def test_own_padding_token_is_kept(tmp_path: Path):
    tokenizer = load_tokenizer(save_tokenizer(tmp_path, eos_token="</s>", pad_token="<pad>"), None, False)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2)


def test_tokenizer_without_eos_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match="has no EOS token"):
        load_tokenizer(save_tokenizer(tmp_path))


def test_directory_without_tokenizer_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_tokenizer(str(tmp_path))
