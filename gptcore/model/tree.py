"""Attention when sequences share beginnings: a tree of tokens, each of which sees its ancestors alone.

A packed row (1, N) holds the nodes of G trees, each in preorder, the largest of L nodes; in front of every tree may
stand a trunk, a sequence of P tokens whose keys and values are known. A node's position is its depth, trunk included.
All trees read a trunk as one sequence of queries, and what they find there is weighed against what they find in
themselves (Juravsky et al. 2024, section 3.1), so that its keys and values are not copied for each. Other letters:
gptcore/model/gpt.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from gptcore.model.attention import causal, shared


@dataclass
class Trunk:
    """Keys and values of a sequence, by layer (1, H_kv, columns, D); a banded layer keeps what its band reaches."""

    length: int
    """P."""
    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)


@dataclass(frozen=True)
class Tree:
    """Some sequences with a common beginning, every shared token once."""

    tokens: list[int]
    depths: list[int]
    """Of each node, trunk included."""
    ends: list[int]
    """The place behind each node's last descendant."""

    @property
    def is_path(self) -> bool:
        """Whether it holds one sequence alone."""
        return all(end == len(self.ends) for end in self.ends)


def path_of(tokens: Sequence[int], begin: int = 0) -> Tree:
    """The tree of one sequence, which begins at such a depth."""
    return Tree(list(tokens), list(range(begin, begin + len(tokens))), [len(tokens)] * len(tokens))


class TreeAttention:
    """The `attend` of `GPT.hidden` for such a row. `kept` becomes the trunk that trunk and row, one path, make up."""

    def __init__(self, trees: Sequence[Tree], trunk: Trunk | None, device: torch.device) -> None:
        lengths = [len(tree.tokens) for tree in trees]
        self._trees, self._longest, self._trunk = len(trees), max(lengths), trunk
        self._even = min(lengths) == self._longest
        begin = trunk.length if trunk else 0
        self.kept = Trunk(begin + lengths[0])
        self.ids = torch.tensor([token for tree in trees for token in tree.tokens], device=device)[None]  # (1, N)
        self.positions = torch.tensor([depth for tree in trees for depth in tree.depths], device=device)[None]
        of_tree = torch.arange(len(trees)).repeat_interleave(torch.tensor(lengths))
        inside = torch.cat([torch.arange(length) for length in lengths])
        places = of_tree * self._longest + inside  # (N,)
        sources = torch.zeros(len(trees) * self._longest, dtype=torch.long)
        sources[places] = torch.arange(len(places))
        self._places, self._sources = places.to(device), sources.to(device)
        self._masks: dict[tuple[int | None, torch.dtype], Tensor] = {}
        self._paths = all(tree.is_path for tree in trees)
        if trunk or not self._paths:
            # Padding stands behind a tree and sees itself, so that no row of a mask is empty.
            ends = torch.full((len(trees), self._longest), self._longest)
            depths = torch.full((len(trees), self._longest), begin)
            for row, tree in enumerate(trees):
                ends[row, : len(tree.ends)] = torch.tensor(tree.ends)
                depths[row, : len(tree.depths)] = torch.tensor(tree.depths)
            self._ends, self._depths = ends.to(device), depths.to(device)  # (G, L)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, band: int | None) -> Tensor:
        """As `gptcore.model.attention.causal`, of (1, H, N, D)."""
        heads, asking = q.shape[1], q
        q, k, v = (self._apart(x) for x in (q, k, v))  # (G, H, L, D)
        known = self._trunk.layers[layer] if self._trunk else None
        if known and self._trees > 1 and band is None and _tells_sums(q):
            of_trunk, its_sums = _with_sums(asking, shared(known[0], heads), shared(known[1], heads))
            mask = None if self._paths else self._mask(None, 0, q.dtype)
            own, own_sums = _with_sums(q, shared(k, heads), shared(v, heads), mask, causal=self._paths)
            share = torch.sigmoid(self._packed(own_sums[..., None]) - its_sums[..., None])
            return torch.lerp(of_trunk, self._packed(own), share)
        if known:
            k, v = (
                torch.cat([before.expand(len(own), -1, -1, -1), own], dim=2)
                for before, own in zip(known, (k, v), strict=True)
            )
        self._keep(k, v, band)
        if self._paths and not known:
            return self._packed(causal(q, k, v, band))
        mask = self._mask(band, k.shape[2] - self._longest, q.dtype)
        y = F.scaled_dot_product_attention(q, shared(k, heads), shared(v, heads), attn_mask=mask)
        return self._packed(y)

    def _packed(self, x: Tensor) -> Tensor:
        """(G, H, L, X) -> (1, H, N, X)."""
        flat = x.transpose(1, 2).reshape(self._trees * self._longest, -1)
        if not self._even:
            flat = flat.index_select(0, self._places)
        return flat.view(1, -1, x.shape[1], x.shape[3]).transpose(1, 2)

    def _apart(self, x: Tensor) -> Tensor:
        """(1, H, N, D) -> (G, H, L, D)."""
        if self._even:
            return x.view(x.shape[1], self._trees, self._longest, -1).transpose(0, 1)
        moved = x[0].transpose(0, 1).flatten(1).index_select(0, self._sources)
        return moved.view(self._trees, self._longest, x.shape[1], x.shape[3]).transpose(1, 2)

    def _keep(self, k: Tensor, v: Tensor, band: int | None) -> None:
        if self._trees == 1:
            first = 0 if band is None else max(0, k.shape[2] - band + 1)
            self.kept.layers.append((k[:, :, first:], v[:, :, first:]))

    def _mask(self, band: int | None, columns: int, dtype: torch.dtype) -> Tensor:
        """To be added to scores (G, 1, L, columns + L), the first columns being the trunk's last."""
        if (band, dtype) not in self._masks:
            place = torch.arange(self._longest, device=self._ends.device)
            own = (place[:, None] >= place) & (place[:, None] < self._ends[:, None])  # (G, L, L)
            begin = self._trunk.length if self._trunk else 0
            of_trunk = torch.arange(begin - columns, begin, device=place.device).expand(self._trees, -1)
            seen = torch.cat([own.new_ones(*own.shape[:2], columns), own], dim=2)
            if band is not None:
                seen &= self._depths[:, :, None] - torch.cat([of_trunk, self._depths], dim=1)[:, None] < band
            added = torch.zeros(seen.shape, dtype=dtype, device=place.device).masked_fill_(~seen, -torch.inf)
            self._masks[band, dtype] = added[:, None]
        return self._masks[band, dtype]


def _tells_sums(q: Tensor) -> bool:
    """Whether torch's attention says here what stood under its softmax."""
    return q.device.type == "cpu" and q.dtype == torch.float32


def _with_sums(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Attention (B, H, T, D), and the logarithms of the sums under its softmax (B, H, T)."""
    y, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, is_causal=causal, attn_mask=mask)
    return y, sums
