"""The weights of a ZeRO-3 policy for engines and export, gathered one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from r1ray.learner.deepspeed_state import shape_of
from r1ray.weights.protocol import ParameterSpec


class ZeroWeightSource:
    """The parameters of a module that ZeRO 3 partitioned, under their own names; iterating is a collective.

    A tied parameter appears once, under its first name, as in a checkpoint.
    """

    def __init__(self, engine: Any, module: torch.nn.Module, *, dtype: torch.dtype) -> None:
        """Take a module.

        Args:
            engine: what partitioned it.
            module: the engine's module or part of it.
            dtype: on the wire.
        """
        self._engine = engine
        self._module = module
        self._dtype = dtype

    def specs(self) -> list[ParameterSpec]:
        """Describe the parameters."""
        return [ParameterSpec(name, self._dtype, shape_of(p)) for name, p in self._module.named_parameters()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, full tensor)."""
        import deepspeed

        self._engine.optimizer.empty_partition_cache()
        for name, parameter in self._module.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter]), torch.no_grad():
                yield name, parameter.detach().to(self._dtype)
