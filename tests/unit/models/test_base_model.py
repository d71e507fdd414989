"""The embedded base model: its tokenizer, its corpus, its training loss, and what the shipped weights can do."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

import r1ray.models
from r1ray.data.embedded import TaskItem, arithmetic
from r1ray.data.embedded.arithmetic import split_of
from r1ray.models.base_corpus import FINAL_SHARES, Style, column_work, make_document, style_of
from r1ray.models.base_measure import Sample, sample_completions, stated_answer, summarize
from r1ray.models.base_tokenizer import EOS, train_tokenizer
from r1ray.models.base_training import (
    PretrainConfig,
    encode_document,
    encode_prefix,
    learning_rate_factor,
    make_model,
    sum_nll,
)
from r1ray.template import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN, render

BASE_DIR = Path(r1ray.models.__path__[0]) / "base"
WEIGHTS_LIMIT_BYTES = 6_000_000
CAREFUL_OPENING = f" {THINK_OPEN} Digit by digit."


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(BASE_DIR)


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(BASE_DIR, dtype=torch.float32).eval()


def test_shipped_files_are_complete_and_small() -> None:
    sizes = {path.name: path.stat().st_size for path in BASE_DIR.iterdir()}
    needed = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert needed <= set(sizes)
    assert sum(sizes.values()) < WEIGHTS_LIMIT_BYTES


def test_shipped_weights_are_bfloat16() -> None:
    weights = load_file(BASE_DIR / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    "text",
    [
        "  two  spaces, a\ttab\r\nand lines\n\n",
        "naïve Ünïcode 日本語 🙂 ½",
        f"{THINK_OPEN}7 + 8 = 15{THINK_CLOSE}\n {ANSWER_OPEN} -3.5e2 {ANSWER_CLOSE} ",
        "unseen words: \\boxed{42}; x1=y2, 10,000 . 5",
    ],
)
def test_any_text_decodes_back_exactly(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text


def test_tags_and_digits_are_single_tokens(tokenizer: Any) -> None:
    for piece in (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE, EOS, *"0123456789"):
        assert len(tokenizer.encode(piece)) == 1
    assert len(tokenizer.encode("2026")) == 4


def test_end_token_is_special_and_pads(tokenizer: Any) -> None:
    assert tokenizer.eos_token == tokenizer.pad_token == EOS
    assert tokenizer.decode(tokenizer.encode(f"done{EOS}"), skip_special_tokens=True) == "done"


def test_prompt_is_about_a_hundred_tokens(tokenizer: Any) -> None:
    assert len(tokenizer.encode(render("r1_zero", "What is 247 + 386 + 159?"))) <= 105


def test_column_work_matches_an_addition_done_by_hand() -> None:
    assert column_work([247, 386, 159]) == (
        "Ones: 7 + 6 = 13, 13 + 9 = 22. Tens: 2 + 4 = 6, 6 + 8 = 14, 14 + 5 = 19. "
        "Hundreds: 1 + 2 = 3, 3 + 3 = 6, 6 + 1 = 7."
    )


def test_corpus_asks_no_held_out_question_and_careful_work_is_right() -> None:
    for index in range(2000):
        document = make_document(index, seed=5, shares=FINAL_SHARES)
        if document.style is Style.PLAIN:
            assert document.prompt == ""
            continue
        operands = [int(number) for number in re.findall(r"\d+", document.prompt)]
        assert split_of(operands) == "train"
        assert style_of(document.completion) is document.style
        if document.style is Style.CAREFUL:
            assert stated_answer(document.completion) == str(sum(operands))


def test_corpus_keeps_its_shares() -> None:
    styles = Counter(make_document(index, seed=5, shares=FINAL_SHARES).style for index in range(4000))
    for style, share in FINAL_SHARES.items():
        assert abs(styles[style] / 4000 - share) < 0.03


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (f"{THINK_OPEN} 1 + 2 {THINK_CLOSE} {ANSWER_OPEN} 3 {ANSWER_CLOSE}", "3"),
        (f"{ANSWER_OPEN} 3 {ANSWER_CLOSE} no, {ANSWER_OPEN} 4 {ANSWER_CLOSE}", "4"),
        ("The answer is 12. No, the answer is 13.", "13"),
        ("so \\boxed{77}", "77"),
        ("First 1 + 2 = 3.", None),
    ],
)
def test_stated_answer_is_the_last_one_given(completion: str, answer: str | None) -> None:
    assert stated_answer(completion) == answer


def test_summary_of_two_samples_matches_hand_count() -> None:
    item = TaskItem("What is 100 + 100 + 100?", "300")
    right = Sample(item, f" {THINK_OPEN} Ones: .. {THINK_CLOSE} {ANSWER_OPEN} 300 {ANSWER_CLOSE}", 80)
    wrong = Sample(item, " A guess. The answer is 310.", 12)
    figures = summarize([right, wrong])
    assert figures["pass_at_1"] == figures["format_rate"] == 0.5
    assert figures["completion_tokens_mean"] == 46.0
    assert (figures["careful/accuracy"], figures["short/accuracy"], figures["medium/share"]) == (1.0, 0.0, 0.0)


def test_sharing_the_prefix_gives_the_loss_of_whole_documents() -> None:
    documents = [make_document(index, seed=2, shares={Style.SHORT: 0.5, Style.MEDIUM: 0.5}) for index in range(6)]
    tokenizer = train_tokenizer(document.prompt + document.completion for document in documents)
    model = make_model(tokenizer, seed=0)
    prefix_ids = encode_prefix(tokenizer)
    rows = [encode_document(document, tokenizer, prefix_ids=prefix_ids) for document in documents]
    cache = model(input_ids=torch.tensor([prefix_ids]), use_cache=True).past_key_values
    shared, count = sum_nll(model, rows, cache)
    shared_gradient = torch.autograd.grad(shared, model.model.embed_tokens.weight)[0]
    whole = torch.zeros(())
    for document in documents:
        prompt_ids = tokenizer.encode(document.prompt)
        completion_ids = [*tokenizer.encode(document.completion), tokenizer.eos_token_id]
        logits = model(input_ids=torch.tensor([[*prompt_ids, *completion_ids]])).logits[0, len(prompt_ids) - 1 : -1]
        whole = whole + functional.cross_entropy(logits, torch.tensor(completion_ids), reduction="sum")
    whole_gradient = torch.autograd.grad(whole, model.model.embed_tokens.weight)[0]
    assert count == sum(len(tokenizer.encode(document.completion)) + 1 for document in documents)
    torch.testing.assert_close(shared, whole, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(shared_gradient, whole_gradient, rtol=1e-3, atol=1e-3)


def test_learning_rate_warms_up_and_decays_to_a_hundredth() -> None:
    config = PretrainConfig(steps=1050, warmup_steps=50)
    assert learning_rate_factor(24, config) == 0.5
    assert learning_rate_factor(50, config) == 1.0
    assert learning_rate_factor(550, config) == pytest.approx(0.505)
    assert learning_rate_factor(1050, config) == pytest.approx(0.01)


def test_shipped_model_is_right_when_it_works_column_by_column(model: Any, tokenizer: Any) -> None:
    items = [arithmetic(index, seed=77, split="eval") for index in range(48)]
    prompts = [render("r1_zero", item.question) + CAREFUL_OPENING for item in items]
    assert accuracy_of_greedy(model, tokenizer, prompts, items) >= 0.96


def test_shipped_model_is_only_sometimes_right_when_left_to_itself(model: Any, tokenizer: Any) -> None:
    items = [arithmetic(index, seed=78, split="eval") for index in range(160)]
    figures = summarize(sample_completions(model, tokenizer, items, seed=0))
    assert 0.12 < figures["pass_at_1"] < 0.34
    assert 0.30 < figures["format_rate"] < 0.70
    assert figures["careful/share"] > 0.08
    assert figures["short/accuracy"] < 0.15
    assert figures["completion_tokens_mean"] < 0.7 * figures["careful/completion_tokens_mean"]


def accuracy_of_greedy(model: Any, tokenizer: Any, prompts: list[str], items: list[TaskItem]) -> float:
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    outputs = model.generate(**inputs, do_sample=False, max_new_tokens=84)
    texts = tokenizer.batch_decode(outputs[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return sum(stated_answer(text) == item.answer for text, item in zip(texts, items, strict=True)) / len(items)
