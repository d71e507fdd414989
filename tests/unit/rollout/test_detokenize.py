from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from r1ray.rollout.detokenize import Detokenizer

EOS_ID = 256


@pytest.fixture
def tokenizer(model_path: Path) -> AutoTokenizer:
    return AutoTokenizer.from_pretrained(model_path)


def first_stop(detokenizer: Detokenizer, token_ids: list[int], stop: tuple[str, ...]) -> int | None:
    """Return after how many tokens the completion would have been stopped."""
    return next((n for n in range(1, len(token_ids) + 1) if detokenizer.is_stopped(token_ids[:n], stop)), None)


def test_stop_string_is_found_at_its_last_token(tokenizer: AutoTokenizer) -> None:
    detokenizer = Detokenizer(tokenizer, [EOS_ID])
    token_ids = tokenizer.encode("so <answer> 4 </answer> and on")
    assert first_stop(detokenizer, token_ids, ("</answer>", "never")) == len("so <answer> 4 </answer>")
    assert first_stop(detokenizer, token_ids, ("never",)) is None


def test_stop_string_ending_in_a_character_of_several_bytes_is_found(tokenizer: AutoTokenizer) -> None:
    detokenizer = Detokenizer(tokenizer, [EOS_ID])
    token_ids = tokenizer.encode("好的。完")
    assert first_stop(detokenizer, token_ids, ("的。",)) == len("好的。".encode())


def test_text_ends_with_the_stop_string(tokenizer: AutoTokenizer) -> None:
    detokenizer = Detokenizer(tokenizer, [EOS_ID])
    assert detokenizer.text(tokenizer.encode("abcSTOP"), ("STOP",)) == "abcSTOP"


def test_text_leaves_eos_out_and_keeps_spaces(tokenizer: AutoTokenizer) -> None:
    detokenizer = Detokenizer(tokenizer, [EOS_ID])
    assert detokenizer.text([*tokenizer.encode(" a , b ."), EOS_ID], ()) == " a , b ."
    assert detokenizer.text([], ("x",)) == ""
