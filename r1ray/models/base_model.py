"""Make the embedded base model: `python -m r1ray.models.base_model OUT_DIR [--seed N]`.

Writes a tokenizer and a pretrained Qwen3 of about a million parameters in the Hugging Face layout, then samples what
was written on held-out questions and logs what it can do: sometimes right, often well formed, and nearly always right
when it takes the trouble to work column by column. Reinforcement learning starts from here.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3ForCausalLM,
)

from r1ray.data.embedded import arithmetic
from r1ray.models.base_corpus import FINAL_SHARES, make_document
from r1ray.models.base_measure import sample_completions, summarize
from r1ray.models.base_tokenizer import train_tokenizer
from r1ray.models.base_training import PretrainConfig, make_model, pretrain

logger = logging.getLogger(__name__)

_TOKENIZER_DOCUMENTS = 4000


def make_base_model(out_dir: Path, *, config: PretrainConfig) -> None:
    """Train tokenizer and model and save both, the weights in bfloat16.

    Args:
        out_dir: made if missing; files of an earlier model are overwritten.
        config: length, speed and seed of the pretraining.
    """
    documents = (make_document(index, seed=config.seed, shares=FINAL_SHARES) for index in range(_TOKENIZER_DOCUMENTS))
    tokenizer = train_tokenizer(document.prompt + document.completion for document in documents)
    model = make_model(tokenizer, seed=config.seed)
    logger.info("%d tokens in the vocabulary, %d parameters", len(tokenizer), model.num_parameters())
    pretrain(model, tokenizer, config)
    save(model, tokenizer, out_dir)


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, out_dir: Path) -> None:
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


def measure(model_dir: Path, *, num_questions: int, seed: int) -> dict[str, float]:
    """Sample a saved model, computing in float32, once on each of the first held-out questions of a seed."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    items = [arithmetic(index, seed=seed, split="eval") for index in range(num_questions)]
    return summarize(sample_completions(model, tokenizer, items, seed=seed))


def main(argv: Sequence[str] | None = None) -> None:
    """Make, save and measure; `--measure-only` looks at a model that is already there."""
    defaults = PretrainConfig()
    parser = argparse.ArgumentParser(prog="python -m r1ray.models.base_model", description=__doc__)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--measure-only", action="store_true")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if not options.measure_only:
        make_base_model(options.out_dir, config=PretrainConfig(seed=options.seed, steps=options.steps))
    figures = measure(options.out_dir, num_questions=options.questions, seed=options.seed)
    logger.info("%s", json.dumps({name: round(value, 4) for name, value in figures.items()}, indent=2))


if __name__ == "__main__":
    main()
