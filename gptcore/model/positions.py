"""How a model tells where a token stands: tables that are added, or angles by which queries and keys are turned.

Letters for shapes: gptcore/model/gpt.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

ROPE_BASE = 10_000.0

Turn = tuple[Tensor, Tensor]
"""Cosines and sines, (T, D) or (B, 1, T, D)."""


class Rotary(nn.Module):
    """Rotary positions (Su et al. 2021, section 3.4): the angles of every place, no parameters."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, context: int, head_width: int) -> None:
        super().__init__()
        cosines, sines = turns(context, head_width)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)

    def forward(self, length: int, positions: Tensor | None) -> Turn:
        """Of the first places (length, D), or of `positions` (B, T): (B, 1, T, D)."""
        if positions is None:
            return self.cosines[:length], self.sines[:length]
        return self.cosines[positions][:, None], self.sines[positions][:, None]


class Sinusoidal(nn.Module):
    """A fixed table (Vaswani et al. 2017, section 3.5), no parameters; used as an Embedding is."""

    weight: Tensor

    def __init__(self, context: int, width: int, size: float) -> None:
        """size: root mean square of the table."""
        super().__init__()
        self.register_buffer("weight", size * sinusoids(context, width), persistent=False)

    def forward(self, places: Tensor) -> Tensor:
        """(...) -> (..., C)."""
        return self.weight[places]


def table(kind: str, context: int, width: int, size: float) -> nn.Embedding | Sinusoidal | None:
    """What is added to token embeddings, to be called with places; None for rotary positions."""
    if kind == "learned":
        return nn.Embedding(context, width)
    return Sinusoidal(context, width, size) if kind == "sinusoidal" else None


def sinusoids(length: int, width: int) -> Tensor:
    """Sinusoidal positions (length, width) of mean square 1 (Vaswani et al. 2017, section 3.5, times root two)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))  # (width/2,)
    angles = torch.arange(length)[:, None] * rates  # (length, width/2)
    return math.sqrt(2) * torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


def turns(length: int, width: int) -> Turn:
    """Cosines and sines (length, width) of the angles by which rotary positions turn, for an even width.

    Rates are rounded as in transformers: a last bit, times a position of thousands, would show in the logits.
    """
    rates = 1.0 / ROPE_BASE ** (torch.arange(0, width, 2) / width)  # (width/2,)
    angles = torch.arange(length)[:, None] * rates  # (length, width/2)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotated(x: Tensor, turn: Turn | None) -> Tensor:
    """Turn each pair (x_i, x_{i+D/2}) of (B, H, T, D) by its position's angle; unchanged without angles."""
    if turn is None:
        return x
    cosines, sines = turn
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([-second, first], dim=-1) * sines
