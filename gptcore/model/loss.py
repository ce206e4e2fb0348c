"""Cross-entropy that never holds all logits: the head is applied to some hidden states at a time.

N places, C = n_embd, V = vocab_size. The gradient is taken on the way, chunk by chunk, so nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""A target that no loss is taken on."""
CHUNK = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Logits at a time: on a CPU what its caches hold, on a GPU 256 MB."""


@torch.compiler.disable  # type: ignore[untyped-decorator]
def summed_loss(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    """Nats summed over the targets, each times its weight: hidden (N, C), head (V, C), targets and weights (N,) -> ().

    Its gradient can be taken once.
    """
    total: Tensor = _SummedLoss.apply(hidden, head, targets, weights)  # type: ignore[no-untyped-call]
    return total


def each_loss(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Nats of each target, 0 where it is IGNORED: hidden (N, C), head (V, C), targets (N,) -> (N,)."""
    losses = [
        F.cross_entropy(F.linear(hidden[part], head).float(), targets[part], ignore_index=IGNORED, reduction="none")
        for part in _chunks(hidden, head)
    ]
    return torch.cat(losses) if losses else hidden.new_zeros(0)


def _chunks(hidden: Tensor, head: Tensor) -> Iterator[slice]:
    rows = max(1, CHUNK[hidden.device.type] // len(head))
    for begin in range(0, len(hidden), rows):
        yield slice(begin, begin + rows)


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        of_hidden = torch.empty_like(hidden)
        of_head = torch.zeros_like(head) if ctx.needs_input_grad[1] else None  # frozen under an adapter
        total = torch.zeros((), device=hidden.device)
        training = any(ctx.needs_input_grad)
        for part in _chunks(hidden, head):
            counts = targets[part] != IGNORED  # (n,)
            factors = counts.float() if weights is None else counts * weights[part]
            places = targets[part].clamp_min(0)[:, None]  # (n, 1)
            logits = F.linear(hidden[part], head)  # (n, V), bfloat16 under autocast
            odds = logits.float().log_softmax(-1)
            picked = odds.gather(1, places)
            total -= (picked[:, 0] * factors).sum()
            if not training:
                continue
            # d loss / d logits = (softmax - one at the target) x factor
            odds.exp_().scatter_(1, places, picked.exp() - 1).mul_(factors[:, None])
            gradient = odds.to(logits.dtype)
            of_hidden[part] = gradient @ head.to(logits.dtype)
            if of_head is None:
                continue
            if logits.dtype == head.dtype == hidden.dtype:
                of_head.addmm_(gradient.T, hidden[part])
            else:
                of_head += gradient.T @ hidden[part].to(logits.dtype)
        if training:
            ctx.gradients = of_hidden, of_head
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        of_hidden, of_head = ctx.gradients
        del ctx.gradients
        return of_hidden.mul_(gradients[0]), None if of_head is None else of_head.mul_(gradients[0]), None, None
