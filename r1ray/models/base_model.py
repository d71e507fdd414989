"""Make an embedded base model: `python -m r1ray.models.base_model OUT_DIR [--family NAME] [--seed N]`.

Writes a tokenizer and a pretrained model of at most about a million parameters in the Hugging Face layout, then samples
what was written on held-out questions and logs what it can do: sometimes right, often well formed, and nearly always
right when it takes the trouble to work digit by digit. Reinforcement learning starts from here. Where other work shares
the cores, set OMP_NUM_THREADS=1: threads that wait for each other cost more than they bring.

    base              English, `arithmetic` only: model `embedded`
    bilingual         English and Chinese, all bilingual tasks: model `embedded-bilingual`
    bilingual_small   the same corpus and tokenizer, a Llama half the size: `embedded-bilingual-small`
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from r1ray.data.embedded import arithmetic
from r1ray.models import bilingual_corpus
from r1ray.models.base_corpus import CORPUS, FINAL_SHARES, Corpus, make_document
from r1ray.models.base_measure import sample_completions, summarize
from r1ray.models.base_tokenizer import train_tokenizer
from r1ray.models.base_training import PretrainConfig, Shape, make_model, pretrain
from r1ray.models.bilingual_measure import measure_bilingual
from r1ray.models.bilingual_tokenizer import train_bilingual_tokenizer

logger = logging.getLogger(__name__)

_TOKENIZER_DOCUMENTS = 4000


class Measure(Protocol):
    """Figures of a model on held-out questions."""

    def __call__(self, model: Any, tokenizer: Any, *, num_questions: int, seed: int) -> dict[str, float]:
        """Return figures named `area/name_unit`."""


@dataclass(frozen=True, slots=True)
class Family:
    """All that sets one embedded model apart from another."""

    corpus: Corpus[Any]
    train_tokenizer: Callable[[int], PreTrainedTokenizerFast]
    shape: Shape
    pretraining: PretrainConfig
    measure: Measure


def make_base_model(out_dir: Path, *, family: Family, config: PretrainConfig) -> None:
    """Train tokenizer and model and save both, the weights in bfloat16.

    Args:
        out_dir: made if missing; files of an earlier model are overwritten.
        family: what to read, and what size to be.
        config: length, speed and seed of the pretraining.
    """
    tokenizer = family.train_tokenizer(config.seed)
    model = make_model(tokenizer, seed=config.seed, shape=family.shape)
    logger.info("%d tokens in the vocabulary, %d parameters", len(tokenizer), model.num_parameters())
    pretrain(model, tokenizer, config, corpus=family.corpus)
    save(model, tokenizer, out_dir)


def train_english_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Build the tokenizer of the family `base`."""
    documents = (make_document(index, seed=seed, shares=FINAL_SHARES) for index in range(_TOKENIZER_DOCUMENTS))
    return train_tokenizer(document.prompt + document.completion for document in documents)


def measure_arithmetic(model: Any, tokenizer: Any, *, num_questions: int, seed: int) -> dict[str, float]:
    """Sample once on each of the first held-out questions of `arithmetic`, and sum up."""
    items = [arithmetic(index, seed=seed, split="eval") for index in range(num_questions)]
    return summarize(sample_completions(model, tokenizer, items, seed=seed))


FAMILIES: Mapping[str, Family] = {
    "base": Family(CORPUS, train_english_tokenizer, Shape(), PretrainConfig(), measure_arithmetic),
    "bilingual": Family(
        bilingual_corpus.CORPUS,
        train_bilingual_tokenizer,
        Shape(),
        PretrainConfig(steps=800, documents_per_step=40, float32_muon=True),
        measure_bilingual,
    ),
    "bilingual_small": Family(
        bilingual_corpus.CORPUS,
        train_bilingual_tokenizer,
        Shape("llama", hidden_size=112, intermediate_size=224, num_hidden_layers=3, num_attention_heads=4),
        PretrainConfig(steps=1400, documents_per_step=40, float32_muon=True),
        measure_bilingual,
    ),
}


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, out_dir: Path) -> None:
    """Write model.safetensors in bfloat16, both configs and the tokenizer."""
    out_dir.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.to(torch.bfloat16).save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
    for path in out_dir.iterdir():
        path.chmod(0o644)  # safetensors keeps its file from other users, who would not find it readable once installed


def measure(model_dir: Path, *, family: Family, num_questions: int, seed: int) -> dict[str, float]:
    """Measure a saved model, computing in float32, on the first held-out questions of a seed."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    return family.measure(model, tokenizer, num_questions=num_questions, seed=seed)


def main(argv: Sequence[str] | None = None) -> None:
    """Make, save and measure; `--measure-only` looks at a model that is already there."""
    parser = argparse.ArgumentParser(prog="python -m r1ray.models.base_model", description=__doc__)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--family", choices=FAMILIES, default="base")
    parser.add_argument("--seed", type=int, default=PretrainConfig().seed)
    parser.add_argument("--steps", type=int, help="pretraining steps; the family's own number by default")
    parser.add_argument("--questions", type=int, default=1000, help="held-out questions per task to measure on")
    parser.add_argument("--measure-only", action="store_true")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    family = FAMILIES[options.family]
    if not options.measure_only:
        steps = options.steps or family.pretraining.steps
        config = replace(family.pretraining, seed=options.seed, steps=steps)
        make_base_model(options.out_dir, family=family, config=config)
    figures = measure(options.out_dir, family=family, num_questions=options.questions, seed=options.seed)
    logger.info("%s", json.dumps({name: round(value, 4) for name, value in figures.items()}, indent=2))


if __name__ == "__main__":
    main()
