"""The policy as the learner runs it: token ids in, log-probabilities of the completion tokens out.

One `forward` covers the transformer and the LM head on just the positions that predict completion tokens, so
that FSDP gathers the root parameters once and no logits are made for prompts or padding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from r1ray.algorithms.logprobs import EntropyMode, token_logprobs
from r1ray.learner.packing import MicroBatch

# Logits made at once, in elements: 256 Mi is 1 GiB in float32.
LOGITS_CHUNK_ELEMENTS = 1 << 28


class Policy(nn.Module):
    """A Hugging Face causal LM that returns log-probabilities instead of logits."""

    def __init__(self, causal_lm: Any) -> None:
        super().__init__()
        self.causal_lm = causal_lm
        self.vocab_size: int = causal_lm.config.get_text_config().vocab_size

    @property
    def decoder_layers(self) -> nn.ModuleList:
        """The transformer blocks, which FSDP shards one by one."""
        layers = self.causal_lm.base_model.layers
        assert isinstance(layers, nn.ModuleList)
        return layers

    def forward(self, batch: MicroBatch, temperature: float, *, entropy: EntropyMode = "none") -> tuple[Tensor, Tensor]:
        """Return logprobs [N] and entropy [N] float32 of `batch.targets`, at `temperature`."""
        hidden = self.causal_lm.base_model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            layout=batch.layout,
            use_cache=False,
        ).last_hidden_state
        chosen = hidden.reshape(-1, hidden.shape[-1]).index_select(0, batch.predict_from)
        rows = max(1, LOGITS_CHUNK_ELEMENTS // self.vocab_size)
        if chosen.shape[0] <= rows:
            return self._head(chosen, batch.targets, temperature, entropy)
        # Long batches: remake each chunk's logits in the backward pass instead of keeping them.
        parts = [
            checkpoint(self._head, part, targets, temperature, entropy, use_reentrant=False)
            for part, targets in zip(torch.split(chosen, rows), torch.split(batch.targets, rows), strict=True)
        ]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    def _head(self, hidden: Tensor, targets: Tensor, temperature: float, entropy: EntropyMode) -> tuple[Tensor, Tensor]:
        logits = self.causal_lm.get_output_embeddings()(hidden)
        return token_logprobs(logits, targets, temperature=temperature, entropy=entropy)
