"""Weight sources over a module: whole or FSDP2-sharded, in the learner's dtype or cast for the engines."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from r1ray.weights.protocol import ParameterSpec


class ModuleWeightSource:
    """The parameters of a module under their own names, gathered one at a time where they are sharded.

    A tied parameter appears once, under its first name, as in a checkpoint.
    """

    def __init__(self, module: nn.Module, *, dtype: torch.dtype | None = None) -> None:
        """Take a module.

        Args:
            module: its parameters may be DTensors; then iterating is a collective.
            dtype: floating-point parameters are announced and yielded in it; None: as they are.
        """
        self._module = module
        self._dtype = dtype

    def specs(self) -> list[ParameterSpec]:
        """Describe the parameters; reads global shapes only."""
        return [
            ParameterSpec(name, self._wire_dtype(parameter), tuple(parameter.shape))
            for name, parameter in self._module.named_parameters()
        ]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, full tensor)."""
        for name, parameter in self._module.named_parameters():
            weight = parameter.detach()
            # Cast the shard, not the whole: the gather then moves what the engines need and no more.
            weight = weight.to(self._wire_dtype(weight))
            yield name, weight.full_tensor() if isinstance(weight, DTensor) else weight

    def _wire_dtype(self, weight: Tensor) -> torch.dtype:
        return self._dtype if self._dtype is not None and weight.is_floating_point() else weight.dtype
