"""Muon: momentum whose every update is made orthogonal, for the matrices inside a network (Jordan et al. 2024)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gptcore.training.layout import laid_out, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the odd polynomial that a turn of Newton and Schulz's iteration applies to every singular value: five turns bring
any of 0.01 to 1 into 0.68 to 1.14 (Jordan et al. 2024)."""


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised.

    matrices: each parameter with the number of matrices that lie in it, one below the other, such as queries, keys and
    values: each is made orthogonal by itself. An update has the size sqrt(max(1, rows / columns)), so one rate serves
    every shape. Arithmetic is that of the weights: torch.optim.Muon's bfloat16 crawls on a CPU without such units.
    """

    def __init__(
        self, matrices: Sequence[tuple[Tensor, int]], lr: float, momentum: float = 0.95, turns: int = 5
    ) -> None:
        super().__init__([p for p, _ in matrices], {"lr": lr, "momentum": momentum, "turns": turns})
        self._pieces = {p: count for p, count in matrices}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    direction = self._direction(parameter, parameter.grad, group["momentum"])
                    alike[direction.shape[1:]].append((parameter, direction))
            for found in alike.values():
                self._update(found, group)

    def _direction(self, parameter: Tensor, grad: Tensor, momentum: float) -> Tensor:
        """Nesterov's direction, as (matrices, rows, columns)."""
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        average: Tensor = state["momentum"]
        average.lerp_(grad, 1 - momentum)
        return whole(grad.lerp(average, momentum)).reshape(self._pieces[parameter], -1, grad.shape[-1])

    def _update(self, found: list[tuple[Tensor, Tensor]], group: dict[str, Any]) -> None:
        """Matrices of one shape, in one batch."""
        rows, columns = found[0][1].shape[1:]
        updates = orthogonal(torch.cat([direction for _, direction in found]), group["turns"])
        size = group["lr"] * max(1.0, rows / columns) ** 0.5
        begin = 0
        for parameter, direction in found:
            update = updates[begin : begin + len(direction)].flatten(0, 1)
            parameter.sub_(laid_out(update, like=parameter), alpha=size)
            begin += len(direction)


def orthogonal(x: Tensor, turns: int = 5) -> Tensor:
    """About U V^T of each matrix U S V^T of (matrices, rows, columns): singular values come near 1."""
    upright = x.shape[1] > x.shape[2]
    if upright:
        x = x.transpose(1, 2)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(turns):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if upright else x
