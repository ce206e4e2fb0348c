"""Attention when several examples share a row: each token sees its own example alone.

E examples, the longest of L tokens; the other letters: gptcore/model/gpt.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptcore.model.attention import causal


@dataclass(frozen=True)
class PackedAttention:
    """Causal attention within each example of packed rows: the `attend` of `GPT.hidden`.

    For attention alone every example moves to a row of its own, and its outcome back, so that all else sees no padding
    and attention no other example. A mask over the packed rows gives the same and costs as much where rows are short;
    in rows of 1,024 tokens a pass with it takes half as long again, since most of what is computed is then hidden.
    """

    sources: Tensor
    """Which packed token stands in each place of the rows of one example (E*L,); anyone where none does."""
    places: Tensor
    """The inverse: the place of each packed token (B*T,)."""
    longest: int
    """L."""
    dropout: float = 0.0
    """Probability that a token's attention to another is dropped."""

    @classmethod
    def of(cls, positions: Tensor, dropout: float = 0.0) -> PackedAttention:
        """positions (B, T) of packed rows: each example counts from 0, padding goes on with the last one's count."""
        flat = positions.flatten()
        longest = int(flat.max()) + 1
        example = (flat == 0).cumsum(0) - 1  # (B*T,)
        places = example * longest + flat
        sources = places.new_zeros((int(example[-1]) + 1) * longest)
        sources[places] = torch.arange(len(flat), device=flat.device)
        return cls(sources, places, longest, dropout)

    def to(self, device: torch.device) -> PackedAttention:
        """The same on a device."""
        return PackedAttention(self.sources.to(device), self.places.to(device), self.longest, self.dropout)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, band: int | None) -> Tensor:
        """As `gptcore.model.attention.causal`."""
        rows, heads, length, width = q.shape

        def apart(x: Tensor) -> Tensor:
            """(B, H, T, D) -> (E, H, L, D)."""
            moved = x.transpose(1, 2).reshape(rows * length, -1).index_select(0, self.sources)
            return moved.view(-1, self.longest, x.shape[1], width).transpose(1, 2)

        y = causal(apart(q), apart(k), apart(v), band, self.dropout)
        packed = y.transpose(1, 2).reshape(-1, heads * width).index_select(0, self.places)
        return packed.view(rows, length, heads, width).transpose(1, 2)


LIKE = 1.25
"""Examples of a group are at most so many times as long as its first."""


class GroupedAttention:
    """The same for one packed row of examples, neighbours of like length by themselves: long ones pad no short ones."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        """lengths: of each example, in the row's order."""
        groups: list[list[int]] = []
        for length in lengths:
            if groups and length <= LIKE * groups[-1][0]:
                groups[-1].append(length)
            else:
                groups.append([length])
        self._sizes = [sum(group) for group in groups]
        self._attends = [
            PackedAttention.of(torch.cat([torch.arange(length, device=device) for length in group])[None])
            for group in groups
        ]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, band: int | None) -> Tensor:
        """As `gptcore.model.attention.causal`, of (1, H, N, D)."""
        parts = zip(self._attends, *(torch.split(x, self._sizes, dim=2) for x in (q, k, v)), strict=True)
        return torch.cat([attend(layer, *tensors, band) for attend, *tensors in parts], dim=2)
