"""The bilingual base models: corpus, language mixing, tokenizer, chat template, and what the shipped weights can do."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from r1ray.data.embedded.bilingual_choices import bilingual_choices
from r1ray.data.embedded.bilingual_notes import bilingual_notes
from r1ray.data.embedded.bilingual_requests import bilingual_requests
from r1ray.data.embedded.bilingual_sums import bilingual_sums
from r1ray.data.embedded.streams import split_of
from r1ray.models.base_measure import Sample, sample_completions, stated_answer
from r1ray.models.base_muon import Float32Muon
from r1ray.models.base_tokenizer import EOS
from r1ray.models.bilingual_chat import ASSISTANT, USER, close_turn, open_turn
from r1ray.models.bilingual_corpus import FINAL_SHARES, Style, make_document
from r1ray.models.bilingual_measure import care_of, language_share, summarize_work
from r1ray.models.bilingual_work import (
    MIXED,
    column_sum,
    digit_choice,
    glance_choice,
    guess_choice,
    guess_sum,
    head_sum,
)
from r1ray.models.locate import BILINGUAL, BILINGUAL_SMALL, locate_model
from r1ray.rewards.language import count_words
from r1ray.template import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN, chat_renderer, render

SHIPPED = (BILINGUAL, BILINGUAL_SMALL)
OPERANDS, NUMBERS = [247, 386, 159], [31, 72, 50, 12]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(locate_model(BILINGUAL))


def language_of(chain: str, language: str) -> float:
    hits, total = count_words(chain, language)
    return hits / total


def chains(wording: str, *, careful_only: bool = False) -> list[str]:
    draw = random.Random(0)
    found = []
    for _ in range(30):
        found += [column_sum(OPERANDS, wording, draw)[0], digit_choice(NUMBERS, "B", wording, draw)[0]]
        if not careful_only:
            found += [guess_sum(OPERANDS, wording, draw)[0], head_sum(OPERANDS, wording, draw)[0]]
            found += [glance_choice(NUMBERS, "B", wording, draw)[0], guess_choice(NUMBERS, "B", wording, draw)[0]]
    return sorted(set(found))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_language_reward_recognises_pure_chains(language: str) -> None:
    assert min(language_of(chain, language) for chain in chains(language)) >= 0.95


@pytest.mark.parametrize("language", ["en", "zh"])
def test_language_reward_is_middling_for_mixed_chains(language: str) -> None:
    shares = [language_of(chain, language) for chain in chains(MIXED, careful_only=True)]
    assert min(shares) >= 0.3
    assert max(shares) <= 0.7


def test_columns_match_an_addition_done_by_hand() -> None:
    draw = random.Random(1)
    steps = {column_sum(OPERANDS, "en", draw)[0].partition("Ones: ")[2] for _ in range(20)}
    assert steps == {
        "7 + 6 = 13, + 9 = 22. Tens: 2 + 4 = 6, + 8 = 14, + 5 = 19. Hundreds: 1 + 2 = 3, + 3 = 6, + 1 = 7."
    }


def test_choice_work_keeps_the_best_so_far_as_done_by_hand() -> None:
    draw = random.Random(1)
    largest = {digit_choice(NUMBERS, "B", "en", draw)[0].partition("each. ")[2] for _ in range(9)}
    smallest = {digit_choice(NUMBERS, "D", "en", draw)[0].partition("each. ")[2] for _ in range(9)}
    sums = "3 + 1 = 4 A. 7 + 2 = 9 B, {} 5 + 0 = 5 C, {} 1 + 2 = 3 D, {}"
    assert largest == {sums.format("9 B.", "9 B.", "9 B.") + " The largest sum is 9 B."}
    assert smallest == {sums.format("4 A.", "4 A.", "3 D.") + " The smallest sum is 3 D."}


def test_corpus_asks_no_held_out_question_and_careful_work_is_right() -> None:
    tasks = (bilingual_choices, bilingual_notes, bilingual_requests)
    held_out = {render("r1_zero", task(i, seed=5, split="eval").question) for task in tasks for i in range(500)}
    for index in range(1500):
        document = make_document(index, seed=5, shares=FINAL_SHARES)
        assert document.prompt not in held_out
        if document.style.startswith("sum"):
            operands = [int(number) for number in re.findall(r"\d+", document.prompt)]
            assert split_of(sorted(operands)) == "train"
            if document.style in (Style.SUM_CAREFUL, Style.SUM_MIXED):
                assert stated_answer(document.completion) == str(sum(operands))


def test_corpus_keeps_its_shares() -> None:
    styles = Counter(make_document(index, seed=5, shares=FINAL_SHARES).style for index in range(3000))
    for style, share in FINAL_SHARES.items():
        assert abs(styles[style] / 3000 - share / sum(FINAL_SHARES.values())) < 0.03


def test_care_and_language_are_told_from_a_completion() -> None:
    item = bilingual_sums(1, seed=0, split="eval")
    draw = random.Random(0)
    for wording, care in (("zh", "careful"), (MIXED, "mixed")):
        work, answer = column_sum(OPERANDS, wording, draw)
        sample = Sample(item, f" {THINK_OPEN} {work} {THINK_CLOSE} {ANSWER_OPEN} {answer} {ANSWER_CLOSE}", 70)
        assert care_of(sample) == care
    glance = Sample(item, f" {head_sum(OPERANDS, 'zh', draw)[0]} 答案是 {item.answer}。", 40)
    assert (care_of(glance), language_share(glance), glance.correct) == ("medium", 1.0, True)
    figures = summarize_work([sample, glance])
    assert (figures["mixed/share"], figures["medium/accuracy"], figures["pass_at_1"]) == (0.5, 1.0, 0.5)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models_load_small_in_bfloat16_and_match_the_tokenizer(name: str, tokenizer: Any) -> None:
    directory = Path(locate_model(name))
    assert sum(path.stat().st_size for path in directory.iterdir()) < 2_500_000
    assert {tensor.dtype for tensor in load_file(directory / "model.safetensors").values()} == {torch.bfloat16}
    own = AutoTokenizer.from_pretrained(directory)
    assert own.get_vocab() == tokenizer.get_vocab()
    assert own.chat_template == tokenizer.chat_template
    config = AutoModelForCausalLM.from_pretrained(directory).config
    assert (config.vocab_size, config.eos_token_id) == (len(tokenizer), tokenizer.eos_token_id)


def test_the_student_is_another_and_smaller_architecture() -> None:
    base, student = (AutoModelForCausalLM.from_pretrained(locate_model(name)) for name in SHIPPED)
    assert (base.config.model_type, student.config.model_type) == ("qwen3", "llama")
    assert student.num_parameters() == 488_880
    assert base.num_parameters() == 956_544


@pytest.mark.parametrize(
    "text",
    [
        "  two  spaces, a\ttab\r\nand lines\n\n",
        "naïve Ünïcode 日本語 龘 🙂 ½",
        f"{THINK_OPEN}\n7 + 8 = 15, + 2\n{THINK_CLOSE}\n\n亲爱的小明，谢谢你的词典。",
        f"{USER}个位: 7{ASSISTANT}答案是 42。",
    ],
)
def test_any_text_decodes_back_exactly(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text


def test_tags_turns_and_chinese_words_are_single_tokens(tokenizer: Any) -> None:
    for piece in (
        THINK_OPEN,
        THINK_CLOSE,
        ANSWER_OPEN,
        ANSWER_CLOSE,
        USER,
        ASSISTANT,
        EOS,
        "个位",
        "小明",
        "谢谢",
        "7",
    ):
        assert len(tokenizer.encode(piece)) == 1, piece
    assert len(tokenizer.encode("写一张便条，感谢小明的词典。")) <= 10


def test_chat_template_renders_turns_and_forgets_earlier_thinking(tokenizer: Any) -> None:
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": f"{THINK_OPEN}\nhm\n{THINK_CLOSE}\n\nHello."},
        {"role": "user", "content": "你好"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == f"<|User|>Hi<|Assistant|>Hello.{EOS}<|User|>你好<|Assistant|>"
    assert text == open_turn("Hi") + close_turn("Hello.") + open_turn("你好")
    whole = tokenizer.apply_chat_template(messages[:2], tokenize=False)
    assert whole == f"<|User|>Hi<|Assistant|>{THINK_OPEN}\nhm\n{THINK_CLOSE}\n\nHello.{EOS}"
    assert render("chat", "Hi", apply_chat_template=chat_renderer(tokenizer)) == "<|User|>Hi<|Assistant|>"


def test_float32_muon_moves_as_torchs_does() -> None:
    torch.manual_seed(0)
    shapes = [(16, 16), (16, 16), (48, 16), (16, 48)]
    theirs = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    ours = [torch.nn.Parameter(matrix.detach().clone()) for matrix in theirs]
    optimizers = [torch.optim.Muon(theirs, lr=0.02, weight_decay=0.01), Float32Muon(ours, lr=0.02, weight_decay=0.01)]
    for _ in range(3):
        for one, other in zip(theirs, ours, strict=True):
            one.grad = torch.randn(one.shape)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(theirs, ours, strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=2e-3)


@pytest.fixture(scope="module")
def base() -> Any:
    return AutoModelForCausalLM.from_pretrained(locate_model(BILINGUAL), dtype=torch.float32).eval()


def test_shipped_base_is_right_when_it_works_digit_by_digit_whether_mixed_or_not(base: Any, tokenizer: Any) -> None:
    items = [bilingual_sums(index, seed=77, split="eval") for index in range(32)]
    openings = {"en": "Let me add digit by digit.", "zh": "我来逐位相加。"}
    for mixed in (True, False):
        texts = []
        for item in items:
            opening = "逐位 add." if mixed else openings[item.metadata["target_language"]]
            texts.append(f"{render('r1_zero', item.question)} {THINK_OPEN} {opening}")
        completions = greedy(base, tokenizer, texts)
        right = [stated_answer(text) == item.answer for text, item in zip(completions, items, strict=True)]
        assert sum(right) >= 0.85 * len(right)


def test_shipped_base_is_seldom_right_and_writes_mostly_in_one_language(base: Any, tokenizer: Any) -> None:
    items = [bilingual_sums(index, seed=78, split="eval") for index in range(96)]
    figures = summarize_work(sample_completions(base, tokenizer, items, seed=0))
    assert 0.05 < figures["pass_at_1"] < 0.35
    assert 0.35 < figures["format_rate"] < 0.65
    assert figures["language_mean"] > 0.8
    assert figures["mixed/share"] > 2 * figures["careful/share"]


def greedy(model: Any, tokenizer: Any, texts: list[str]) -> list[str]:
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    options = GenerationConfig(do_sample=False, max_new_tokens=84, eos_token_id=tokenizer.eos_token_id, pad_token_id=0)
    outputs = model.generate(**inputs, generation_config=options)
    return list(tokenizer.batch_decode(outputs[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
