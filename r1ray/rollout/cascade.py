"""Attention for batched decoding with shared prompts.

A group's completions share the keys and values of their prompt, so there are two stores (`key_values.py`): one slot per
live prompt, one slot per running sequence. A decoding query attends to both and the two results are merged by their
softmax sums ("cascade attention"): the prompt is read once per group instead of once per completion. Prompts that are
new in a batch are computed in the same forward pass, all tokens packed into one row; transformers hands them to
`cascade_attention` because the model is loaded with `attn_implementation=CASCADE_ATTENTION`.

Decides nothing about which sequence runs when; that is `decode.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from r1ray.errors import ModelError
from r1ray.rollout.key_values import KeyValueStore, round_up

CASCADE_ATTENTION = "r1ray_cascade"


@dataclass(frozen=True, slots=True)
class RunningRows:
    """The D running sequences of a batch, and how they share P prompts.

    Each prompt has as many places for queries as the largest group; places without a sequence repeat sequence 0.

    Attributes:
        members: [P * places] sequence whose query stands in each place.
        places: [D] place of each sequence.
        prompt_mask: [P, 1, 1, L] 0 on prompt tokens, -inf behind them; L covers the longest prompt.
        positions: [D] where in its completion each sequence's token stands.
        completion_mask: [D, 1, 1, L] 0 up to that token, -inf behind it; L covers the longest completion.
    """

    members: Tensor
    places: Tensor
    prompt_mask: Tensor
    positions: Tensor
    completion_mask: Tensor


@dataclass(frozen=True, slots=True)
class CascadeBatch:
    """One forward pass over a packed row: the last token of each running sequence, then the new prompts.

    Attributes:
        rows: the running sequences; None without any.
        new_prompts: prompt slot and number of tokens of each new prompt, in packed order.
        prompt_store: None when new prompts are not to be kept (scoring).
        completion_store: one slot per running sequence, in order; None when scoring.
    """

    rows: RunningRows | None
    new_prompts: Sequence[tuple[int, int]]
    prompt_store: KeyValueStore | None = None
    completion_store: KeyValueStore | None = None


def arrange_rows(
    prompt_slots: Sequence[int], prompt_tokens: Sequence[int], completion_tokens: Sequence[int], like: Tensor
) -> RunningRows:
    """Describe D running sequences over P prompts.

    Args:
        prompt_slots: [D] prompt of each sequence.
        prompt_tokens: [P] length of each prompt.
        completion_tokens: [D] length of each completion, the token to be computed included.
        like: a tensor with the model's device and dtype.
    """
    members: list[list[int]] = [[] for _ in prompt_tokens]
    for sequence, slot in enumerate(prompt_slots):
        members[slot].append(sequence)
    width = max(len(of_prompt) for of_prompt in members)
    places = [0] * len(prompt_slots)
    for slot, of_prompt in enumerate(members):
        for rank, sequence in enumerate(of_prompt):
            places[sequence] = slot * width + rank
        of_prompt.extend([0] * (width - len(of_prompt)))
    device = like.device
    return RunningRows(
        torch.tensor(members, device=device).flatten(),
        torch.tensor(places, device=device),
        _length_mask(prompt_tokens, like),
        torch.tensor(completion_tokens, device=device) - 1,
        _length_mask(completion_tokens, like),
    )


def cascade_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cascade: CascadeBatch,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend as one `CascadeBatch` says; the signature is that of transformers' attention functions.

    Args:
        module: the attention layer; its `layer_idx` names the layer in the stores.
        query: [1, query heads, N, head_dim], N tokens of the packed row.
        key: [1, heads, N, head_dim].
        value: like `key`.
        attention_mask: None.
        cascade: what the N tokens are; passed to the model's forward.
        scaling: of the scores; None: 1 / sqrt(head_dim).
        softcap: refused unless None.
        s_aux: attention sinks, refused unless None.

    Returns:
        [1, N, query heads, head_dim], and None for the weights.

    Raises:
        ModelError: the model's attention needs more than keys, values and a scale.
    """
    assert attention_mask is None, "transformers makes no mask for an attention function it does not know"
    if softcap is not None or s_aux is not None:
        raise ModelError(
            f"rollout.engine=transformers cannot decode {type(module).__name__}: its attention has soft caps or sinks; "
            "use rollout.engine=vllm"
        )
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer: int = module.layer_idx  # type: ignore[assignment]
    queries, keys, values = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    outputs = []
    start = 0
    if cascade.rows is not None:
        start = len(cascade.rows.positions)
        outputs.append(_attend_running(cascade, layer, queries[:start] * scaling, keys[:start], values[:start]))
    for slot, tokens in cascade.new_prompts:
        span = slice(start, start + tokens)
        if cascade.prompt_store is not None:
            stored_keys, stored_values = cascade.prompt_store.layer(layer, keys[0])
            stored_keys[slot, :, :tokens] = key[0, :, span]
            stored_values[slot, :, :tokens] = value[0, :, span]
        output = scaled_dot_product_attention(
            query[:, :, span],
            key[:, :, span],
            value[:, :, span],
            is_causal=True,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        outputs.append(output[0].transpose(0, 1))
        start += tokens
    return torch.cat(outputs)[None], None


def _attend_running(cascade: CascadeBatch, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Store the newest keys and values [D, heads, head_dim] of D running sequences, then attend to all of them.

    `queries` [D, query heads, head_dim] are scaled; the result has their shape.
    """
    rows, prompt_store, completion_store = cascade.rows, cascade.prompt_store, cascade.completion_store
    assert rows is not None
    assert prompt_store is not None
    assert completion_store is not None
    count, heads, head_dim = keys.shape
    own_keys, own_values = completion_store.layer(layer, keys[0])
    sequences = torch.arange(count, device=keys.device)
    own_keys[sequences, :, rows.positions] = keys
    own_values[sequences, :, rows.positions] = values
    # Query heads that share a key head stand side by side as rows of one matrix.
    grouped = queries.reshape(count, heads, -1, head_dim)
    own, own_sum = _attend(grouped, own_keys, own_values, rows.completion_mask)

    prompts, rows_per_key = len(rows.prompt_mask), grouped.shape[2]
    placed = grouped[rows.members].view(prompts, -1, heads, rows_per_key, head_dim).transpose(1, 2)
    shared, shared_sum = _attend(placed.flatten(2, 3), *prompt_store.layer(layer, keys[0]), rows.prompt_mask)
    shared, shared_sum = (
        tensor.view(prompts, heads, -1, rows_per_key, tensor.shape[-1]).transpose(1, 2).flatten(0, 1)[rows.places]
        for tensor in (shared, shared_sum)
    )
    merged = torch.lerp(own.float(), shared.float(), (shared_sum - own_sum).sigmoid())
    return merged.to(queries.dtype).view(count, -1, head_dim)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return attention [B, heads, rows, head_dim] and the log-sum-exp of its scores [B, heads, rows, 1] float32.

    Args:
        queries: [B, heads, rows, head_dim], scaled.
        keys: [at least B, heads, at least L, head_dim].
        values: like `keys`.
        mask: [B, 1, 1, L] added to scores.
    """
    slots, _, _, length = mask.shape
    keys, values = keys[:slots, :, :length], values[:slots, :, :length]
    scores = (queries @ keys.transpose(-1, -2)).add_(mask)
    weights = scores.softmax(-1, dtype=torch.float32)
    # The largest weight is exp(largest score) / sum of exp: cheaper than a log-sum-exp over all scores.
    log_sum = scores.amax(-1, keepdim=True).float() - weights.amax(-1, keepdim=True).log()
    return weights.to(values.dtype) @ values, log_sum


def _length_mask(lengths: Sequence[int], like: Tensor) -> Tensor:
    """Return [B, 1, 1, L], 0 below each of the B lengths and -inf from there on; L is the longest, rounded up."""
    positions = torch.arange(round_up(max(lengths)), device=like.device)
    behind = positions >= torch.tensor(lengths, device=like.device)[:, None]
    return like.new_zeros(behind.shape).masked_fill_(behind, -torch.inf)[:, None, None]


AttentionInterface.register(CASCADE_ATTENTION, cascade_attention)
