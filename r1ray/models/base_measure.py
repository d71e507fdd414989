"""What the embedded base model can do: samples on held-out questions, and the figures that sum them up.

A small yardstick for making the model, independent of the package's graders. Does not train.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from r1ray.data.embedded import TaskItem
from r1ray.models.base_corpus import Style, style_of
from r1ray.template import last_answer_tag, parse_r1_zero, render

MAX_COMPLETION_TOKENS = 128
_BATCH_SIZE = 128
_STATED_ANSWER = re.compile(r"(?:answer is|答案是) (\d+|[A-D]\b)|\\boxed\{(\d+)\}")


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled completion with its question; `num_tokens` counts EOS."""

    item: TaskItem
    completion: str
    num_tokens: int

    @property
    def correct(self) -> bool:
        """Whether the stated answer is the reference answer."""
        return stated_answer(self.completion) == self.item.answer

    @property
    def well_formed(self) -> bool:
        """Whether the completion is exactly thinking and answer in their tags."""
        return parse_r1_zero(self.completion) is not None


def stated_answer(completion: str) -> str | None:
    """Return the last answer tag's content, else the last number or letter after `answer is` or in a box, else None."""
    tagged = last_answer_tag(completion)
    if tagged is not None:
        return tagged
    stated = _STATED_ANSWER.findall(completion)
    return "".join(stated[-1]) if stated else None


@torch.no_grad()
def sample_completions(model: Any, tokenizer: Any, items: Sequence[TaskItem], *, seed: int) -> list[Sample]:
    """Sample one completion per question at temperature 1 from the model's whole distribution.

    Args:
        model: a causal language model with `generate`.
        tokenizer: its tokenizer, padding on the left.
        items: questions; each is rendered with the R1-Zero template.
        seed: seeds torch's global generator, which `generate` draws from.
    """
    torch.manual_seed(seed)
    sampling = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=MAX_COMPLETION_TOKENS,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    samples = []
    for start in range(0, len(items), _BATCH_SIZE):
        batch = items[start : start + _BATCH_SIZE]
        prompts = tokenizer([render("r1_zero", item.question) for item in batch], return_tensors="pt", padding=True)
        outputs = model.generate(
            input_ids=prompts["input_ids"], attention_mask=prompts["attention_mask"], generation_config=sampling
        )
        for item, ids in zip(batch, outputs[:, prompts["input_ids"].shape[1] :].tolist(), strict=True):
            samples.append(_sample(item, ids, tokenizer))
    return samples


def summarize(samples: Sequence[Sample]) -> dict[str, float]:
    """Return shares and mean lengths over all samples and per style, named `area/name_unit`."""
    figures = {
        "pass_at_1": mean([sample.correct for sample in samples]),
        "format_rate": mean([sample.well_formed for sample in samples]),
        "completion_tokens_mean": mean([sample.num_tokens for sample in samples]),
    }
    for style in (Style.SHORT, Style.MEDIUM, Style.CAREFUL):
        chosen = [sample for sample in samples if style_of(sample.completion) is style]
        figures[f"{style}/share"] = len(chosen) / len(samples)
        figures[f"{style}/accuracy"] = mean([sample.correct for sample in chosen])
        figures[f"{style}/format_rate"] = mean([sample.well_formed for sample in chosen])
        figures[f"{style}/completion_tokens_mean"] = mean([sample.num_tokens for sample in chosen])
    return figures


def _sample(item: TaskItem, ids: list[int], tokenizer: Any) -> Sample:
    """Cut a generated row at its EOS and decode it."""
    num_tokens = ids.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in ids else len(ids)
    completion = tokenizer.decode(ids[:num_tokens], skip_special_tokens=True)
    return Sample(item, completion, num_tokens)


def mean(numbers: Sequence[float]) -> float:
    """Return the mean, not a number for no numbers."""
    return sum(numbers) / len(numbers) if numbers else float("nan")
