"""A network's linear layers as they are fastest for the few rows of a generation on a CPU.

x W^T and W x^T are the same numbers; for 4 to 64 rows MKL computes the second in two thirds of the time
(benchmarks/RESULTS.md, "generation").
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptcore.model.gpt import GPT

FEWEST, MOST = 4, 64
"""Rows between which the second way is taken."""


def times(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(..., I), weight (O, I) -> (..., O), as `torch.nn.functional.linear`."""
    rows = x.reshape(-1, x.shape[-1])
    if not FEWEST <= len(rows) <= MOST:
        return F.linear(x, weight, bias)
    y = weight @ rows.t() if bias is None else torch.addmm(bias[:, None], weight, rows.t())  # (O, rows)
    return y.t().reshape(*x.shape[:-1], -1)


class RowsLinear(nn.Module):
    """A linear layer that shares its weights with another."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        return times(x, self.weight, self.bias)


def for_rows(model: GPT) -> GPT:
    """A copy in evaluation mode that shares every tensor; the model itself where there is nothing to gain."""
    if model.device.type != "cpu" or model.times_head is not None or model.head.dtype != torch.float32:
        return model
    kept = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    found = copy.deepcopy(model, kept).eval()
    for module in list(found.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, RowsLinear(child))
    head = model.head
    found.times_head = lambda hidden: times(hidden, head, None)
    return found
