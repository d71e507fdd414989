from __future__ import annotations

from dataclasses import dataclass

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from r1ray.config.schema import TemplateConfig
from r1ray.data.prompts import PromptBuilder
from r1ray.data.records import Record
from r1ray.errors import ConfigError, DataError
from r1ray.template import R1_ZERO_TEMPLATE

BOS, EOS, START, END = 1, 2, 3, 4
WORDS = [
    "<unk>",
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "What",
    "is",
    "2",
    "+",
    "3",
    "?",
    "user",
    "system",
    "sum",
]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ m['content'] }} <|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
RECORD = Record("sums/train/0", "What is 2 + 3 ?", "5", "math", {"level": 1})
QUESTION_IDS = tuple(WORDS.index(word) for word in ["What", "is", "2", "+", "3", "?"])


def make_tokenizer(
    post: str = "<s> $A", *, chat_template: str | None = CHAT_TEMPLATE, eos: str = "</s>"
) -> PreTrainedTokenizerFast:
    """A word tokenizer whose post-processor puts special tokens around a text as `post` says."""
    vocab = {word: token_id for token_id, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(WORDS[1:5])
    tokenizer.post_processor = processors.TemplateProcessing(single=post, special_tokens=[("<s>", BOS), ("</s>", EOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token=eos, unk_token="<unk>", chat_template=chat_template
    )


def make_builder(name: str, *, post: str = "<s> $A", limit: int = 500, system: str | None = None) -> PromptBuilder:
    return PromptBuilder(make_tokenizer(post), TemplateConfig(name=name, system=system), limit)


def test_plain_prompt_carries_the_record_and_the_models_bos():
    prompt = make_builder("plain").build(RECORD)
    assert prompt is not None
    assert prompt.prompt_ids == (BOS, *QUESTION_IDS)
    assert prompt.text == prompt.question == RECORD.question
    assert (prompt.prompt_id, prompt.answer, prompt.task, prompt.metadata) == (
        "sums/train/0",
        "5",
        "math",
        {"level": 1},
    )


def test_model_without_bos_gets_none():
    prompt = make_builder("plain", post="$A").build(RECORD)
    assert prompt is not None
    assert prompt.prompt_ids == QUESTION_IDS


def test_eos_that_a_tokenizer_appends_is_dropped():
    prompt = make_builder("plain", post="<s> $A </s>").build(RECORD)
    assert prompt is not None
    assert prompt.prompt_ids == (BOS, *QUESTION_IDS)


def test_r1_zero_prompt_is_the_papers_template_with_bos():
    prompt = make_builder("r1_zero").build(RECORD)
    assert prompt is not None
    assert prompt.text == R1_ZERO_TEMPLATE.format(prompt=RECORD.question)
    assert prompt.prompt_ids[0] == BOS
    assert len(prompt.prompt_ids) == 1 + len(prompt.text.split())


def test_chat_prompt_holds_only_the_special_tokens_of_its_template():
    user, system, total = (WORDS.index(word) for word in ("user", "system", "sum"))
    prompt = make_builder("chat", system="sum").build(RECORD)
    assert prompt is not None
    assert prompt.prompt_ids == (START, system, total, END, START, user, *QUESTION_IDS, END, START)


def test_chat_prompt_may_end_with_the_eos_that_its_template_wrote():
    template = "{% for m in messages %}{{ m['content'] }} </s>{% endfor %}"
    builder = PromptBuilder(make_tokenizer(chat_template=template), TemplateConfig(name="chat"), 500)
    prompt = builder.build(RECORD)
    assert prompt is not None
    assert prompt.prompt_ids == (*QUESTION_IDS, EOS)


def test_chat_without_a_chat_template_is_refused_at_once():
    with pytest.raises(ConfigError, match="needs a tokenizer with a chat template"):
        PromptBuilder(make_tokenizer(chat_template=None), TemplateConfig(name="chat"), 500)


def test_too_long_prompt_is_skipped_and_counted():
    exact = 1 + len(QUESTION_IDS)
    assert make_builder("plain", limit=exact).build(RECORD) is not None
    builder = make_builder("plain", limit=exact - 1)
    assert builder.build(RECORD) is None
    assert builder.build(RECORD) is None
    assert builder.skipped == 2


@dataclass
class Records:
    records: list[Record]
    endless: bool = False

    @property
    def size(self) -> int | None:
        return None if self.endless else len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]


def test_build_all_keeps_the_order_and_leaves_out_long_prompts():
    long = Record("long", "What is 2 + 3 + 3 + 3 ?")
    records = [Record("a", "What is 2 ?"), long, Record("b", "What is 3 ?")]
    builder = make_builder("plain", limit=7)
    assert [prompt.prompt_id for prompt in builder.build_all(Records(records))] == ["a", "b"]
    assert builder.skipped == 1


def test_build_all_needs_an_end_and_a_fitting_prompt():
    with pytest.raises(DataError, match=r"set data\.eval\.size"):
        make_builder("plain").build_all(Records([RECORD], endless=True))
    with pytest.raises(DataError, match=r"data\.max_prompt_tokens = 2: raise it"):
        make_builder("plain", limit=2).build_all(Records([RECORD]))
