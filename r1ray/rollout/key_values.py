"""Storage of keys and values for decoding: one slot per prompt or sequence, grown as they grow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

# Stores grow by so many tokens: reading a store with unused room behind each sequence is slower than growing it.
_TOKEN_BUCKET = 32


def round_up(tokens: int) -> int:
    """Round up to the capacity of a store for so many tokens."""
    return -(-tokens // _TOKEN_BUCKET) * _TOKEN_BUCKET


class KeyValueStore:
    """Keys and values per layer, [slots, heads, capacity, head_dim], with used slots kept dense from 0."""

    def __init__(self) -> None:
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._slots = 0
        self._capacity = 0

    def reserve(self, slots: int, tokens: int) -> None:
        """Make room for `slots` runs of `tokens` tokens each."""
        if slots <= self._slots and tokens <= self._capacity:
            return
        self._slots = max(self._slots, slots)
        self._capacity = max(self._capacity, round_up(tokens))
        for index, (old_keys, old_values) in self._layers.items():
            keys, values = self._layers[index] = self._allocate(old_keys[0, :, 0])
            slots, _, capacity, _ = old_keys.shape
            keys[:slots, :, :capacity] = old_keys
            values[:slots, :, :capacity] = old_values

    def layer(self, index: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of a layer, where `like` [heads, head_dim] is one entry."""
        if index not in self._layers:
            self._layers[index] = self._allocate(like)
        return self._layers[index]

    def remove(self, items: list[Any], removed: Sequence[int]) -> None:
        """Remove the `items` that stand for used slots, at ascending indices; those at the end move into the holes."""
        kept = len(items) - len(removed)
        holes = [index for index in removed if index < kept]
        movers = sorted(set(range(kept, len(items))).difference(removed))
        for hole, mover in zip(holes, movers, strict=True):
            items[hole] = items[mover]
        del items[kept:]
        if holes:
            for keys, values in self._layers.values():
                keys[holes] = keys[movers]
                values[holes] = values[movers]

    def clear(self) -> None:
        """Free everything."""
        self._layers.clear()
        self._slots = self._capacity = 0

    def _allocate(self, like: Tensor) -> tuple[Tensor, Tensor]:
        heads, head_dim = like.shape
        shape = (self._slots, heads, self._capacity, head_dim)
        # Zeros, not empty: masked entries get weight 0, and 0 * nan would be nan.
        return like.new_zeros(shape), like.new_zeros(shape)
