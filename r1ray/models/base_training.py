"""Pretraining of the embedded base models: a small Qwen3 or Llama on a synthetic corpus, on the CPU, in minutes.

Nearly every document stands in the same template, so its tokens are run once a step and their keys and values shared by
all such documents: the gradient is the same as if each document carried its own copy, at half the work. Loss falls on
completions and plain text. Does not sample and does not save.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from r1ray.models.base_corpus import CORPUS, Corpus, Document
from r1ray.models.base_muon import Float32Muon
from r1ray.template import R1_ZERO_TEMPLATE

logger = logging.getLogger(__name__)

_IGNORED_LABEL = -100
_LOG_EVERY_STEPS = 50
_PREFIX = R1_ZERO_TEMPLATE.partition("{prompt}")[0].rstrip()


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """How long and how fast to pretrain.

    Attributes:
        final_fraction: of the steps, the last, which read the corpus's final mixture.
        float32_muon: whether Muon computes in float32 and not in bfloat16.
    """

    steps: int = 420
    documents_per_step: int = 32
    learning_rate: float = 5e-3
    matrix_learning_rate: float = 0.02
    warmup_steps: int = 50
    final_fraction: float = 0.3
    seed: int = 0
    float32_muon: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A document's tokens after the shared template prefix; `loss_start` is where its completion begins."""

    input_ids: list[int]
    loss_start: int


@dataclass(frozen=True, slots=True)
class Shape:
    """Architecture and size of a model; every head has `head_dim` dimensions and its own keys and values."""

    architecture: Literal["qwen3", "llama"] = "qwen3"
    hidden_size: int = 128
    intermediate_size: int = 384
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    head_dim: int = 32


def make_model(tokenizer: PreTrainedTokenizerFast, *, seed: int, shape: Shape = Shape()) -> PreTrainedModel:
    """Return the untrained model in float32; the default shape has about a million parameters."""
    torch.manual_seed(seed)
    make_config = {"qwen3": Qwen3Config, "llama": LlamaConfig}[shape.architecture]
    config = make_config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_attention_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return AutoModelForCausalLM.from_config(config)


def pretrain(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, config: PretrainConfig, *, corpus: Corpus[Any] = CORPUS
) -> None:
    """Train the model in place on documents that it sees once each."""
    prefix_ids = encode_prefix(tokenizer)
    optimizers = _make_optimizers(model, config)
    model.train()
    started = time.perf_counter()
    for step in range(config.steps):
        factor = learning_rate_factor(step, config)
        loss = _step_loss(model, tokenizer, prefix_ids, _buckets_of(step, config, corpus))
        model.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
            optimizer.step()
        if step % _LOG_EVERY_STEPS == 0 or step == config.steps - 1:
            logger.info("step %d/%d loss %.4f, %.0f s", step, config.steps, loss.item(), time.perf_counter() - started)
    model.eval()


def learning_rate_factor(step: int, config: PretrainConfig) -> float:
    """Return the share of the peak learning rate: a linear warm-up, then half a cosine down to a hundredth."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * progress))


def encode_prefix(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Return the template's tokens before the question, the part that all prompts share."""
    return list(tokenizer.encode(_PREFIX))


def has_prefix(document: Document) -> bool:
    """Whether the document stands in the template, so that it shares its tokens with others."""
    return document.prompt.startswith(_PREFIX)


def encode_document(document: Document, tokenizer: PreTrainedTokenizerFast, *, prefix_ids: Sequence[int]) -> Row:
    """Tokenize prompt and completion apart, as at sampling, and take off the prefix where it is shared."""
    completion_ids = [*tokenizer.encode(document.completion), tokenizer.eos_token_id]
    if not document.prompt:
        return Row(completion_ids, loss_start=1)
    prompt_ids = list(tokenizer.encode(document.prompt))
    if not has_prefix(document):
        return Row([*prompt_ids, *completion_ids], loss_start=len(prompt_ids))
    assert prompt_ids[: len(prefix_ids)] == list(prefix_ids), "every prompt begins with the template's prefix"
    question_ids = prompt_ids[len(prefix_ids) :]
    return Row([*question_ids, *completion_ids], loss_start=len(question_ids))


def sum_nll(model: PreTrainedModel, rows: Sequence[Row], prefix: Any | None) -> tuple[Tensor, int]:
    """Return the summed negative log-likelihood of the rows' completions, and how many tokens that is.

    Args:
        model: the model in training.
        rows: B documents, padded here on the right to T tokens.
        prefix: cache of the shared template from `model(.., use_cache=True)`, batch 1; None for rows without template.
    """
    length = max(len(row.input_ids) for row in rows)
    input_ids = torch.zeros(len(rows), length, dtype=torch.long)
    labels = torch.full((len(rows), length), _IGNORED_LABEL)
    for index, row in enumerate(rows):
        ids = torch.tensor(row.input_ids)
        input_ids[index, : len(ids)] = ids
        labels[index, row.loss_start : len(ids)] = ids[row.loss_start :]
    # Causal attention keeps right padding out of the tokens that count, so no padding mask is needed.
    logits = model(input_ids=input_ids, past_key_values=_share(prefix, len(rows)), use_cache=prefix is not None).logits
    nll = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=_IGNORED_LABEL, reduction="sum"
    )
    return nll, int((labels[:, 1:] != _IGNORED_LABEL).sum())


def _share(prefix: Any | None, batch_size: int) -> DynamicCache | None:
    """Return a cache in which every row of a batch sees the one prefix; gradients flow back into it."""
    if prefix is None:
        return None
    shared = DynamicCache()
    for index, layer in enumerate(prefix.layers):
        keys, values = (states.expand(batch_size, -1, -1, -1) for states in (layer.keys, layer.values))
        shared.update(keys, values, index)
    return shared


def _step_loss(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prefix_ids: list[int],
    buckets: Sequence[Sequence[Document]],
) -> Tensor:
    """Return the mean loss per token over the documents, run in buckets of like length to save padding."""
    prefix = model(input_ids=torch.tensor([prefix_ids]), use_cache=True).past_key_values
    total, num_tokens = torch.zeros(()), 0
    for bucket in buckets:
        rows = [encode_document(document, tokenizer, prefix_ids=prefix_ids) for document in bucket]
        nll, count = sum_nll(model, rows, prefix if has_prefix(bucket[0]) else None)
        total, num_tokens = total + nll, num_tokens + count
    return total / num_tokens


def _buckets_of(step: int, config: PretrainConfig, corpus: Corpus[Any]) -> list[list[Document]]:
    final = step >= config.steps * (1.0 - config.final_fraction)
    shares = corpus.final_shares if final else corpus.early_shares
    first = step * config.documents_per_step
    documents = [
        corpus.make_document(first + k, seed=config.seed, shares=shares) for k in range(config.documents_per_step)
    ]
    buckets = [[document for document in documents if document.style in styles] for styles in corpus.buckets]
    return [bucket for bucket in buckets if bucket]


def _make_optimizers(model: PreTrainedModel, config: PretrainConfig) -> list[tuple[torch.optim.Optimizer, float]]:
    """Return Muon for the layers' matrices and AdamW for embedding, biases and norms, each with its peak rate.

    Muon needs about half the steps of AdamW alone here. Source: https://kellerjordan.github.io/posts/muon/
    """
    matrices = [parameter for parameter in model.get_decoder().layers.parameters() if parameter.ndim == 2]
    taken = {id(parameter) for parameter in matrices}
    others = [parameter for parameter in model.parameters() if id(parameter) not in taken]
    muon = Float32Muon if config.float32_muon else torch.optim.Muon
    return [
        (muon(matrices, lr=config.matrix_learning_rate, weight_decay=0.01), config.matrix_learning_rate),
        (torch.optim.AdamW(others, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0), config.learning_rate),
    ]
