"""Muon: momentum whose every update is made orthogonal, for the matrices inside a network (Jordan et al. 2024)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gptcore.training.layout import laid_out, whole

POLYNOMIALS = (
    (8.3837, -24.7659, 18.3571),
    (4.0434, -3.0114, 0.5695),
    (3.5056, -2.6267, 0.5257),
    (2.4901, -1.8343, 0.4368),
    (1.9178, -1.2968, 0.3797),
    (1.875, -1.25, 0.375),
)
"""Coefficients a, b, c of the odd polynomial a s + b s^3 + c s^5 that each turn applies to every singular value; turns
beyond the last repeat it. Each is the one of its degree that strays least from 1 on the interval the turn before
leaves, beginning with [0.003, 1] (Amsel et al. 2025, theorem 3.1): three turns bring it into 0.35 to 1.65, four into
0.80 to 1.20. Five turns of the one polynomial of Jordan et al. 2024 bring [0.01, 1] into 0.68 to 1.14."""
SLACK = 1.01
"""A norm a little too large: rounding must not leave a singular value above 1, where the first polynomial grows."""


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
        self.found_inf: Tensor | None = None
        """A scalar on the device; 1.0 leaves weights and momentum as they are. Named as AdamW's own."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[tuple[Tensor, Tensor, float]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    direction = self._direction(parameter, parameter.grad, group["momentum"])
                    rows, columns = direction.shape[1:]
                    size = max(1.0, rows / columns) ** 0.5
                    wide = direction.transpose(1, 2) if rows > columns else direction
                    alike[wide.shape[1:]].append((parameter, wide, size))
            for found in alike.values():
                self._update(found, group)

    def _direction(self, parameter: Tensor, grad: Tensor, momentum: float) -> Tensor:
        """Nesterov's direction, as (matrices, rows, columns)."""
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        average: Tensor = state["momentum"]
        if self.found_inf is not None:  # no product: nan times nothing is nan
            grad = torch.where(self.found_inf > 0, average, grad)
        average.lerp_(grad, 1 - momentum)
        return whole(grad.lerp(average, momentum)).reshape(self._pieces[parameter], -1, grad.shape[-1])

    def _update(self, found: list[tuple[Tensor, Tensor, float]], group: dict[str, Any]) -> None:
        """Parameters whose matrices, laid wide, have one shape, with these and the size of an update: in one batch."""
        updates = orthogonal(torch.cat([wide for _, wide, _ in found]), group["turns"])
        if self.found_inf is not None:
            updates = updates * (1 - self.found_inf)
        for (parameter, wide, size), update in zip(
            found, torch.split(updates, [len(w) for _, w, _ in found]), strict=True
        ):
            if wide.shape[2] != parameter.shape[1]:
                update = update.transpose(1, 2)
            parameter.sub_(laid_out(update.reshape(parameter.shape), like=parameter), alpha=group["lr"] * size)


def orthogonal(x: Tensor, turns: int = 5) -> Tensor:
    """About U V^T of each matrix U S V^T of (matrices, rows, columns): singular values come near 1.

    Cheaper for wide matrices than for the same ones upright.
    """
    x = x / (x.norm(dim=(1, 2), keepdim=True) * SLACK + 1e-7)
    for turn in range(turns):
        a, b, c = POLYNOMIALS[min(turn, len(POLYNOMIALS) - 1)]
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
