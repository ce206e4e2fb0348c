"""Matrices rounded to 8 bits, for use on a CPU: a quarter of the memory, and of what a new token must read of it.

Each row of a matrix (one output) has a scale, which takes its largest number to 127 (Dettmers et al. 2022, section 2.1,
absolute maxima). What is multiplied with it stays float32. A pass over a few tokens reads the bytes as they are
(gptcore/model/step.py); over more, the matrix is spread out first. Norms, biases and position tables stay as they are.
What it costs in bits per byte: docs/generation.md.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptcore.model.gpt import GPT

TOKEN_TABLES = ("wte", "tokens")
"""By the families' names; position tables are small."""


class Int8Matrix(nn.Module):
    """A matrix (O, I) as int8 and a scale a row."""

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        scale = (weight.abs().amax(dim=1) / 127).clamp_(min=torch.finfo(torch.float32).tiny)  # (O,)
        self.register_buffer("weight", (weight / scale[:, None]).round_().to(torch.int8))
        self.register_buffer("scale", scale)

    def times(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        return F.linear(x, self.weight.float()).mul_(self.scale)


class Int8Linear(nn.Module):
    """A linear layer."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.matrix, self.bias = Int8Matrix(layer.weight.detach()), layer.bias

    @property
    def weight(self) -> Tensor:
        """The rounded numbers (O, I), without their scales."""
        return self.matrix.weight

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        y = self.matrix.times(x)
        return y if self.bias is None else y + self.bias


class Int8Table(nn.Module):
    """A table of which rows are looked up; of a tied head also the head."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.matrix = Int8Matrix(table.weight.detach())

    @property
    def weight(self) -> Tensor:
        """The rounded numbers (O, I), without their scales."""
        return self.matrix.weight

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., I)."""
        return self.matrix.weight[ids].float() * self.matrix.scale[ids][..., None]


def quantized(model: GPT) -> GPT:
    """The model itself, its matrices, token table and head rounded; ValueError on another device than a CPU."""
    if model.device.type != "cpu":
        raise ValueError(f"int8 is for a CPU, and the model is on {model.device}; load it without quantize")
    head = model.head
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                rounded: Int8Linear | Int8Table = Int8Linear(child)
            elif isinstance(child, nn.Embedding) and name in TOKEN_TABLES:
                rounded = Int8Table(child)
            else:
                continue
            setattr(module, name, rounded)
            if child.weight is head:
                model.times_head = rounded.matrix.times
    return model
