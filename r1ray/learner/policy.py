"""The policy as the learner runs it: token ids in, log-probabilities of the completion tokens out.

One `forward` covers the transformer and the LM head on just the positions that predict completion tokens, so
that FSDP gathers the root parameters once and no logits are made for prompts.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from r1ray.algorithms.logprobs import EntropyMode, linear_logprobs
from r1ray.learner.context import gather_tokens
from r1ray.learner.micro_batch import MicroBatch


class ScoringHead(nn.Module):
    """An LM head that turns hidden states into log-probabilities of given tokens, never into all logits at once.

    A module of its own, because parameters are gathered where a module's `forward` uses them.
    """

    def __init__(self, head: nn.Linear, *, float32: bool) -> None:
        """Take over the parameters of an LM head, tied or not; `float32` multiplies in float32 in any case."""
        super().__init__()
        self.weight = head.weight
        # nn.Linear says Tensor, but an LM head without bias has None.
        self.bias: Tensor | None = head.bias
        self._float32 = float32

    def forward(
        self, hidden: Tensor, targets: Tensor, *, temperature: float, entropy: EntropyMode
    ) -> tuple[Tensor, Tensor]:
        """Return logprobs [N] and entropy [N] float32 of `targets` [N] after `hidden` [N, H]."""
        weight, bias = self.weight, self.bias
        if self._float32:
            hidden, weight, bias = hidden.float(), weight.float(), None if bias is None else bias.float()
        return linear_logprobs(hidden, weight, bias, targets, temperature=temperature, entropy=entropy)


class Policy(nn.Module):
    """A Hugging Face causal LM that returns log-probabilities instead of logits."""

    def __init__(self, causal_lm: Any, *, fp32_lm_head: bool = False) -> None:
        """Take a model and put a `ScoringHead` in place of its LM head."""
        super().__init__()
        self.causal_lm = causal_lm
        # The processes that split each sequence with this one; see context.py.
        self.context: dist.ProcessGroup | None = None
        causal_lm.set_output_embeddings(ScoringHead(causal_lm.get_output_embeddings(), float32=fp32_lm_head))

    @property
    def decoder_layers(self) -> nn.ModuleList:
        """The transformer blocks, which are sharded, checkpointed and compiled one by one."""
        layers = self.causal_lm.base_model.layers
        assert isinstance(layers, nn.ModuleList)
        return layers

    def forward(self, batch: MicroBatch, temperature: float, *, entropy: EntropyMode = "none") -> tuple[Tensor, Tensor]:
        """Return logprobs [N] and entropy [N] float32 of `batch.targets`, at `temperature`."""
        tokens = batch if batch.share is None else batch.share
        hidden = self.causal_lm.base_model(
            input_ids=tokens.input_ids,
            position_ids=tokens.position_ids,
            layout=batch.layout,
            context=self.context,
            use_cache=False,
        ).last_hidden_state
        chosen = hidden.reshape(-1, hidden.shape[-1]).index_select(0, tokens.predict_from)
        targets = batch.targets if batch.share is None else batch.targets[batch.share.chosen]
        head = self.causal_lm.get_output_embeddings()
        logprobs, entropies = head(chosen, targets, temperature=temperature, entropy=entropy)
        if batch.share is None:
            return logprobs, entropies
        assert self.context is not None
        counts, restore = batch.share.counts, batch.share.restore
        gathered = (gather_tokens(values, counts, self.context) for values in (logprobs, entropies))
        first, second = (values[restore] for values in gathered)
        return first, second


class Scorer(Policy):
    """A Hugging Face sequence classifier with one class, that scores each sample at its last token: a reward model."""

    def __init__(self, classifier: Any) -> None:
        """Take a model whose scalar head is called `score`."""
        nn.Module.__init__(self)
        self.causal_lm = classifier
        self.context = None

    def forward(self, batch: MicroBatch) -> Tensor:  # type: ignore[override]
        """Return scores [B] float32."""
        tokens = batch if batch.share is None else batch.share
        hidden = self.causal_lm.base_model(
            input_ids=tokens.input_ids,
            position_ids=tokens.position_ids,
            layout=batch.layout,
            context=self.context,
            use_cache=False,
        ).last_hidden_state
        ends, counts = batch.ends, [len(batch.ends)]
        if self.context is not None:
            # Samples lie in the order of the processes, so what is gathered is in the order of the samples.
            share, rank = tokens.input_ids.shape[1], self.context.rank()
            owner = ends // share
            counts = torch.bincount(owner, minlength=self.context.size()).tolist()
            ends = ends[owner == rank] - rank * share
        last = hidden.reshape(-1, hidden.shape[-1]).index_select(0, ends)
        scores: Tensor = self.causal_lm.score(last)[:, 0].float()
        return scores if self.context is None else gather_tokens(scores, counts, self.context)


def cast_parameters(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast in place what is trained to float32 and what is frozen to the compute dtype, as far as it is not sharded.

    Buffers stay: rotary frequencies in bfloat16 turn far positions the wrong way.
    """
    for parameter in module.parameters():
        if not isinstance(parameter, DTensor):
            parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else dtype)
    return module
