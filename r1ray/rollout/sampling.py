"""Seeded sampling of one token per sequence, with the log-probability it was sampled at.

Tensors in, tensors out. The random number of a token is a hash of its sequence's seed and its position, so a
completion does not depend on what else is in the batch. Called by `decode.py` after every forward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# The cumulative distribution is searched in two levels: over sums of blocks, then inside one block.
_CDF_BLOCK = 256
# First guess at how many tokens hold the nucleus; sorting a whole vocabulary would cost more than the model.
_NUCLEUS_GUESS = 256

_GAMMA = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15, the constants of splitmix64 as signed 64-bit numbers
_MIX_1 = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
_MIX_2 = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB


def sample_tokens(
    logits: Tensor, *, temperatures: Tensor, top_ps: Tensor, seeds: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """Sample one token per row by inverting the cumulative distribution.

    Args:
        logits: [B, V] any float dtype.
        temperatures: [B] float32; 0 takes the most likely token.
        top_ps: [B] float32; below 1, tokens outside the nucleus get probability 0 (all tokens tied with the last
            one inside it stay in). Ignored in greedy rows.
        seeds: [B] int64, one per sequence.
        positions: [B] int64, index of the token in its completion.

    Returns:
        token ids [B] int64 and their log-probabilities [B] float32: after temperature, over the whole vocabulary or,
        with `top_p` below 1, over the nucleus; at temperature 1 in greedy rows.
    """
    greedy = temperatures == 0
    # Division by a float32 column makes float32 of any logits.
    probs = (logits / torch.where(greedy, 1.0, temperatures)[:, None]).softmax(-1)
    restricted = ((top_ps < 1) & ~greedy).nonzero().squeeze(1)
    if len(restricted):
        probs[restricted] = keep_nucleus(probs[restricted], top_ps[restricted])
    token_ids = invert_cdf(probs, uniform_numbers(seeds, positions))
    if greedy.any():
        token_ids = torch.where(greedy, probs.argmax(-1), token_ids)
    return token_ids, probs.gather(1, token_ids[:, None]).squeeze(1).log()


def uniform_numbers(seeds: Tensor, positions: Tensor) -> Tensor:
    """Hash (seed, position) to a number in [0, 1).

    Args:
        seeds: [B] int64.
        positions: [B] int64.

    Returns:
        [B] float64, multiples of 2**-53.

    Source: the output function of splitmix64 (Steele, Lea and Flood, 2014), applied to seed and position in turn.
    """
    bits = _mix(_mix(seeds + _GAMMA) + positions * _GAMMA)
    return _shift_right(bits, 11).double() * 2.0**-53


def keep_nucleus(probs: Tensor, top_ps: Tensor) -> Tensor:
    """Set tokens outside the nucleus to 0 and renormalise.

    The nucleus is the smallest set of most likely tokens whose mass reaches `top_p`.

    Args:
        probs: [B, V] float32, rows sum to 1.
        top_ps: [B] float32, below 1.

    Returns:
        [B, V] float32, rows sum to 1.
    """
    size = min(_NUCLEUS_GUESS, probs.shape[1])
    while True:
        top = probs.topk(size).values
        mass = top.cumsum(-1)
        if size == probs.shape[1] or bool((mass[:, -1] >= top_ps).all()):
            break
        size = min(8 * size, probs.shape[1])
    outside = mass - top >= top_ps[:, None]
    outside[:, 0] = False
    threshold = top.masked_fill(outside, torch.inf).amin(-1, keepdim=True)
    kept = probs.masked_fill(probs < threshold, 0.0)
    return kept / kept.sum(-1, keepdim=True)


def invert_cdf(probs: Tensor, uniforms: Tensor) -> Tensor:
    """Return for each row the first token at which the cumulative distribution exceeds the row's uniform number.

    A token of probability 0 is never returned.

    Args:
        probs: [B, V] float32, need not sum to exactly 1.
        uniforms: [B] float64 in [0, 1).

    Returns:
        [B] int64.
    """
    vocabulary = probs.shape[1]
    if vocabulary % _CDF_BLOCK:
        probs = functional.pad(probs, (0, -vocabulary % _CDF_BLOCK))
    blocks = probs.view(len(probs), -1, _CDF_BLOCK)
    sums = blocks.sum(-1).double().cumsum(-1)
    target = uniforms * sums[:, -1]
    block, before = _first_above(sums, target)
    inside = blocks[torch.arange(len(probs), device=probs.device), block].double().cumsum(-1)
    token, _ = _first_above(inside, target - before)
    return block * _CDF_BLOCK + token


def _first_above(cumulative: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first index [B] with `cumulative` [B, N] above `target` [B], and the value before that index."""
    # Rounding may lift the target to the total, above which there is nothing.
    target = torch.minimum(target, cumulative[:, -1].nextafter(torch.zeros_like(target)))
    index = (cumulative <= target[:, None]).sum(-1).clamp(max=cumulative.shape[1] - 1)
    before = cumulative.gather(1, (index - 1).clamp(min=0)[:, None]).squeeze(1)
    return index, torch.where(index > 0, before, 0.0)


def _mix(bits: Tensor) -> Tensor:
    """Spread every input bit over the 64 output bits; int64 products wrap, as splitmix64 wants."""
    bits = (bits ^ _shift_right(bits, 30)) * _MIX_1
    bits = (bits ^ _shift_right(bits, 27)) * _MIX_2
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits: Tensor, count: int) -> Tensor:
    """Shift int64 right without copying the sign bit."""
    return (bits >> count) & ((1 << (64 - count)) - 1)
