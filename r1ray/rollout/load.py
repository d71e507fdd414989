"""Loads a model so that `decode.py` can run it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM

from r1ray.errors import ModelError
from r1ray.rollout.cascade import CASCADE_ATTENTION
from r1ray.rollout.protocol import EngineOptions


def load_model(options: EngineOptions) -> Any:
    """Load a causal language model for `Decoder`.

    Raises:
        ModelError: it cannot be loaded, or its attention is not plain causal attention.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(
            options.model_path,
            revision=options.revision,
            trust_remote_code=options.trust_remote_code,
            dtype=getattr(torch, options.dtype),
            attn_implementation=CASCADE_ATTENTION,
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"model.path={options.model_path} cannot be loaded for rollout: {error}") from error
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    windowed = any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ())
    if not model._supports_attention_backend or (windowed and (window or 0) < options.max_model_tokens):
        raise ModelError(
            f"rollout.engine=transformers decodes plain causal attention only, {type(model).__name__} at "
            f"{options.max_model_tokens} tokens has another: use rollout.engine=vllm"
        )
    if options.fp32_lm_head:
        model.set_output_embeddings(Float32Head(model.get_output_embeddings()))
    return model.to(options.device).eval().requires_grad_(False)


class Float32Head(nn.Module):
    """An LM head that multiplies in float32, whatever its weights are kept in."""

    def __init__(self, head: nn.Linear) -> None:
        """Take over the parameters of an LM head, tied or not."""
        super().__init__()
        self.weight = head.weight
        # nn.Linear says Tensor, but an LM head without bias has None.
        self.bias: Tensor | None = head.bias

    def forward(self, hidden: Tensor) -> Tensor:
        """Return float32 logits [..., V] of hidden states [..., H]."""
        return linear(hidden.float(), self.weight.float(), None if self.bias is None else self.bias.float())


def eos_token_ids_of(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Return the tokens that end a completion: the model's, else the tokenizer's."""
    eos_token_ids = model.generation_config.eos_token_id
    if eos_token_ids is None:
        eos_token_ids = tokenizer.eos_token_id
    if eos_token_ids is None:
        return ()
    return tuple(eos_token_ids) if isinstance(eos_token_ids, list | tuple) else (eos_token_ids,)
