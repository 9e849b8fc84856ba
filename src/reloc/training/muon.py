"""Muon: steps for matrices whose directions all count alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# Of the quintic polynomial that pulls singular values towards 1 (Jordan et al., "Muon", 2024).
_LINEAR, _CUBIC, _QUINTIC = 3.4445, -4.7750, 2.0315
_MOMENTUM, _NEWTON_SCHULZ_STEPS = 0.9, 3


class Muon(torch.optim.Optimizer):
    """Gradient descent with Nesterov momentum whose steps are nearly orthogonal matrices.

    torch.optim.Muon goes through the matrices one by one and always in bf16, which takes twice as
    long where the processor is not fast at that; here those of one shape are stepped together, in
    the arithmetic that is asked for.

    Args:
        matrices: parameters with two axes, or groups of them, as for any optimizer.
        dtype: of the orthogonalisation.

    Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
    """

    def __init__(
        self, matrices: Iterable[Tensor] | Iterable[dict[str, Any]], dtype: torch.dtype
    ) -> None:
        super().__init__(matrices, {"lr": 0.0})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step along the gradients that are there."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    direction = self._direction(matrix, matrix.grad)
                    alike[matrix.shape].append((matrix, direction))
            for (rows, columns), pairs in alike.items():
                steps_BRC = self._orthogonal(torch.stack([direction for _, direction in pairs]))
                # As large a change of the outputs whatever the shape.
                rate = group["lr"] * max(1.0, rows / columns) ** 0.5
                for (matrix, _), step_RC in zip(pairs, steps_BRC, strict=True):
                    matrix.sub_(step_RC.to(matrix.dtype), alpha=rate)

    def _direction(self, matrix: Tensor, gradient: Tensor) -> Tensor:
        """The gradient, drawn to its running mean."""
        state = self.state[matrix]
        if "mean" not in state:
            state["mean"] = torch.zeros_like(matrix)
        state["mean"].lerp_(gradient, 1 - _MOMENTUM)
        return gradient.lerp(state["mean"], _MOMENTUM)

    def _orthogonal(self, matrices_BRC: Tensor) -> Tensor:
        """Matrices with the same singular vectors and singular values of about 1."""
        tall = matrices_BRC.shape[1] > matrices_BRC.shape[2]
        wide_BRC = matrices_BRC.mT if tall else matrices_BRC
        norm_B11 = wide_BRC.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
        wide_BRC = (wide_BRC / norm_B11).to(self._dtype)
        for _ in range(_NEWTON_SCHULZ_STEPS):
            square_BRR = wide_BRC @ wide_BRC.mT
            change_BRR = torch.baddbmm(
                square_BRR, square_BRR, square_BRR, beta=_CUBIC, alpha=_QUINTIC
            )
            wide_BRC = torch.baddbmm(wide_BRC, change_BRR, wide_BRC, beta=_LINEAR)
        return wide_BRC.mT if tall else wide_BRC
