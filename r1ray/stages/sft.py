"""The SFT stage: cold start, the SFT of R1's third stage, distillation. No loss falls on prompts."""

from __future__ import annotations

from typing import Any

from r1ray.config.schema import Config
from r1ray.data.prompts import PromptBuilder
from r1ray.models.locate import locate_model
from r1ray.models.tokenizer import load_tokenizer
from r1ray.stages.supervised import Lesson, train_supervised


def train_sft(config: Config) -> dict[str, Any]:
    """Fine-tune on completions and return what summary.json holds.

    Raises:
        R1RayError: with a message for the user.
    """
    model_path = locate_model(config.model.path, config.model.revision)
    tokenizer = load_tokenizer(model_path, config.model.revision, config.model.trust_remote_code)
    # Prompts and completions become the ids that they are when the model samples.
    builder = PromptBuilder(tokenizer, config.template, config.sft.max_tokens)

    def encode(question: str, completion: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return builder.encode(question)[1], builder.encode_completion(completion)

    sft = config.sft
    lesson = Lesson("sft", encode, sft.epochs, sft.batch_size, sft.max_tokens, sft.held_out_fraction)
    return train_supervised(config, lesson, model_path)
