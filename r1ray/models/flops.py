"""Floating-point operations of decoder-only transformers, and what devices can do at most.

Counted are matrix products alone, a multiplication and an addition as two, each computed once: what is recomputed for
activation checkpointing does not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Dense bfloat16 operations per second without sparsity, as the vendors' data sheets give them.
PEAK_FLOPS_PER_S = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H800": 989e12,
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
}


@dataclass(frozen=True, slots=True)
class ModelFlops:
    """Operations of one forward pass.

    Attributes:
        per_token: matrix products of the transformer blocks, for each token.
        per_logit: those of the LM head, for each token whose logits are made.
        per_pair: those of the attention, for each pair of tokens of which one sees the other.
    """

    per_token: float
    per_logit: float
    per_pair: float

    def forward(self, *, tokens: int, logits: int, pairs: int) -> float:
        """Return the operations of a forward pass; a backward pass takes twice as many."""
        return self.per_token * tokens + self.per_logit * logits + self.per_pair * pairs


def model_flops(config: Any) -> ModelFlops:
    """Count the operations of a transformers model of the Llama and Qwen kind by its configuration."""
    text = config.get_text_config()
    hidden, layers, heads = text.hidden_size, text.num_hidden_layers, text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or hidden // heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    attention = hidden * head_dim * (2 * heads + 2 * kv_heads)
    mlp = 3 * hidden * text.intermediate_size
    return ModelFlops(
        per_token=2.0 * layers * (attention + mlp),
        per_logit=2.0 * hidden * text.vocab_size,
        # Scores and weighted values, each a product over head_dim in every head.
        per_pair=4.0 * layers * heads * head_dim,
    )


def peak_flops_per_s(device_name: str) -> float | None:
    """Return the dense bfloat16 peak of a device by its name; None where it is not known."""
    found = [name for name in PEAK_FLOPS_PER_S if name in device_name]
    return PEAK_FLOPS_PER_S[max(found, key=len)] if found else None
