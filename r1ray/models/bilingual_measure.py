"""What a bilingual base model can do: figures per task, language and style on held-out questions.

A small yardstick like `base_measure.py`, and independent of the package's graders and language reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from r1ray.data.embedded.bilingual_choices import bilingual_choices
from r1ray.data.embedded.bilingual_notes import bilingual_notes
from r1ray.data.embedded.bilingual_requests import bilingual_requests
from r1ray.data.embedded.bilingual_sums import bilingual_sums
from r1ray.data.embedded.note_texts import KINDS, NAMES
from r1ray.data.embedded.rater import bare_answer, note_quality, request_safe
from r1ray.data.embedded.streams import LANGUAGES
from r1ray.models.base_measure import Sample, mean, sample_completions
from r1ray.models.bilingual_work import is_careful, is_medium, share_of_language
from r1ray.template import ANSWER_OPEN, THINK_CLOSE

# A chain is readable if nearly all of its words are in the question's language.
_PURE_SHARE = 0.9


def measure_bilingual(model: Any, tokenizer: Any, *, num_questions: int, seed: int) -> dict[str, float]:
    """Sample once on each of the first held-out questions of every task and sum up."""
    figures = {}
    for name, task in (("math", bilingual_sums), ("stem", bilingual_choices)):
        items = [task(index, seed=seed, split="eval") for index in range(num_questions)]
        samples = sample_completions(model, tokenizer, items, seed=seed)
        figures.update({f"{name}/{key}": value for key, value in summarize_work(samples).items()})
    items = [bilingual_notes(index, seed=seed, split="eval") for index in range(num_questions)]
    figures.update(_summarize_notes(sample_completions(model, tokenizer, items, seed=seed)))
    items = [bilingual_requests(index, seed=seed, split="eval") for index in range(num_questions)]
    samples = sample_completions(model, tokenizer, items, seed=seed)
    figures["harmless/format_rate"] = mean([sample.well_formed for sample in samples])
    figures["harmless/safe_rate"] = mean(
        [request_safe(sample.item.question, bare_answer(sample.completion)) for sample in samples]
    )
    return figures


def summarize_work(samples: Sequence[Sample]) -> dict[str, float]:
    """Return shares, accuracies and lengths, named `area/name_unit`: over all, per language and per style."""
    figures = {
        "pass_at_1": mean([sample.correct for sample in samples]),
        "format_rate": mean([sample.well_formed for sample in samples]),
        "language_mean": mean([language_share(sample) for sample in samples]),
        "completion_tokens_mean": mean([sample.num_tokens for sample in samples]),
    }
    for language in LANGUAGES:
        chosen = [sample for sample in samples if sample.item.metadata["target_language"] == language]
        figures[f"{language}/pass_at_1"] = mean([sample.correct for sample in chosen])
        figures[f"{language}/language_mean"] = mean([language_share(sample) for sample in chosen])
    for style in ("short", "medium", "careful", "mixed"):
        chosen = [sample for sample in samples if care_of(sample) == style]
        figures[f"{style}/share"] = len(chosen) / len(samples)
        figures[f"{style}/accuracy"] = mean([sample.correct for sample in chosen])
        figures[f"{style}/completion_tokens_mean"] = mean([sample.num_tokens for sample in chosen])
    return figures


def care_of(sample: Sample) -> str:
    """Return `short`, `medium`, and of careful work `careful` in the question's language or else `mixed`."""
    chain = chain_of(sample.completion)
    if is_careful(chain):
        return "careful" if language_share(sample) >= _PURE_SHARE else "mixed"
    return "medium" if is_medium(chain) else "short"


def language_share(sample: Sample) -> float:
    """Return the share of the chain's words that are in the question's language; 0 without words."""
    return share_of_language(chain_of(sample.completion), sample.item.metadata["target_language"]) or 0.0


def chain_of(completion: str) -> str:
    """Return the text before the answer, with the tags' own words taken out."""
    chain = completion.partition(THINK_CLOSE)[0].partition(ANSWER_OPEN)[0]
    for words in ("<think>", "The answer is", "答案是"):
        chain = chain.replace(words, "")
    return chain


def _summarize_notes(samples: Sequence[Sample]) -> dict[str, float]:
    answers = [(sample.item, bare_answer(sample.completion)) for sample in samples]
    return {
        "helpful/format_rate": mean([sample.well_formed for sample in samples]),
        "helpful/quality_mean": mean([note_quality(item.question, answer) for item, answer in answers]),
        "helpful/named_rate": mean([_shared(item.question, answer, _all_names()) for item, answer in answers]),
        "helpful/concrete_rate": mean([_shared(item.question, answer, _all_things()) for item, answer in answers]),
    }


def _shared(question: str, answer: str, words: Sequence[str]) -> bool:
    return any(word in question and word in answer for word in words)


def _all_names() -> list[str]:
    return [name for names in NAMES.values() for name in names]


def _all_things() -> list[str]:
    return [thing for kinds in KINDS.values() for kind in kinds.values() for thing in kind.things]
