"""Muon in float32, for CPUs without fast bfloat16 arithmetic, where `torch.optim.Muon` takes longer than the model.

The same update otherwise, with matrices of one shape orthogonalised together.

Source: https://kellerjordan.github.io/posts/muon/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_EPSILON = 1e-7


class Float32Muon(torch.optim.Optimizer):
    """Momentum whose direction is replaced by the nearest matrix with singular values of about one."""

    def __init__(self, matrices: Iterable[Tensor], *, lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        """Take over the matrices.

        Args:
            matrices: float32, two dimensions each.
            lr: learning rate.
            weight_decay: decoupled, times the learning rate.
            momentum: of Nesterov's kind.
        """
        super().__init__(list(matrices), {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient; `closure` is not supported."""
        assert closure is None, "the caller computes the gradients"
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in by_shape.items():
                directions = orthogonalize(torch.stack([self._momentum(matrix, group) for matrix in matrices]))
                rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for matrix, direction in zip(matrices, directions, strict=True):
                    matrix.mul_(1.0 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=rate)

    def _momentum(self, matrix: Tensor, group: dict[str, Any]) -> Tensor:
        assert matrix.grad is not None
        state = self.state[matrix]
        if not state:
            state["momentum"] = torch.zeros_like(matrix)
        mean: Tensor = state["momentum"].lerp_(matrix.grad, 1.0 - group["momentum"])
        return matrix.grad.lerp(mean, group["momentum"])


def orthogonalize(matrices: Tensor) -> Tensor:
    """Bring all singular values near one, by Newton and Schulz's iteration.

    Args:
        matrices: [N, rows, columns].
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    wide: Tensor = matrices.mT if tall else matrices
    wide = wide.div(torch.linalg.matrix_norm(wide, keepdim=True).clamp(min=_EPSILON))
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        gram = wide @ wide.mT
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide.mT if tall else wide
