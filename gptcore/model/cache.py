"""Keys and values of what has been read and written, so that each new token is computed alone.

G prompts, each continued n times (samples or beams): G x n rows. A prompt's keys and values are kept once for its n
rows. All rows write a token at a time, so that what is written stands in the same place everywhere. In banded layers
only what the band reaches is kept: the end of the prompt, and a ring of written tokens. Other letters:
gptcore/model/gpt.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gptcore.model.attention import causal
from gptcore.model.gpt import GPT
from gptcore.model.packed import PackedAttention


class Cache:
    """The keys and values of one batch."""

    def __init__(self, model: GPT, prompts: Sequence[Sequence[int]], copies: int, room: int) -> None:
        """copies: n. room: tokens that a row may write."""
        self.model, self.copies, self.room = model, copies, room
        self.lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)  # (G,)
        self.longest = int(self.lengths.max())
        self.written = 0
        self._read: list[tuple[Tensor, Tensor]] = []  # by layer: (G, H_kv, L, D), prompts end in the last column
        self._own: list[tuple[Tensor, Tensor]] = []  # by layer: (G, n, H_kv, room, D)
        self._masks: dict[int, Tensor | None] = {}

    # The prompts

    def read(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Pass over the prompts, laid end to end so that nothing is padded; their last hidden states (G, C)."""
        device, total = self.model.device, sum(map(len, prompts))
        ids = torch.tensor([token for prompt in prompts for token in prompt], device=device)[None]  # (1, N)
        ends = self.lengths.cumsum(0)  # (G,)
        self._ends = ends
        if len(prompts) == 1:
            self._packed = None
            hidden = self.model.hidden(ids, attend=self._reading)
        else:
            starts = (ends - self.lengths).repeat_interleave(self.lengths)
            positions = (torch.arange(total, device=device) - starts)[None]
            self._packed = PackedAttention.of(positions)
            hidden = self.model.hidden(ids, positions, attend=self._reading)
        return hidden[0, ends - 1]

    def _reading(self, layer: int, q: Tensor, k: Tensor, v: Tensor, band: int | None) -> Tensor:
        """Attention within the prompts (1, H, N, D), whose keys and values are kept."""
        kept = self.longest if band is None else min(band, self.longest)
        columns = self._ends[:, None] - kept + torch.arange(kept, device=k.device)  # (G, L)
        columns = columns.clamp_(min=0)
        self._read.append((k[0][:, columns].transpose(0, 1), v[0][:, columns].transpose(0, 1)))
        shape = (
            len(self.lengths),
            self.copies,
            k.shape[1],
            self.room if band is None else min(band, self.room),
            k.shape[3],
        )
        self._own.append((k.new_empty(shape), v.new_empty(shape)))
        if self._packed is None:
            return causal(q, k, v, band)
        return self._packed(layer, q, k, v, band)

    # What is written

    def positions(self) -> Tensor:
        """Of the token that each row reads next, (G * n, 1)."""
        return (self.lengths + self.written).repeat_interleave(self.copies)[:, None]

    def advance(self) -> None:
        """The rows have taken a token."""
        self.written += 1

    def writing(self, layer: int, q: Tensor, k: Tensor, v: Tensor, band: int | None) -> Tensor:
        """Attention of one new token a row (G * n, H, 1, D) to its prompt and what it has written, itself included."""
        groups, n, heads, width = len(self.lengths), self.copies, q.shape[1], q.shape[3]
        (keys, values), (own_keys, own_values) = self._read[layer], self._own[layer]
        shared, ring = keys.shape[1], own_keys.shape[3]
        at = self.written % ring
        own_keys[:, :, :, at], own_values[:, :, :, at] = (
            k.view(groups, n, shared, width),
            v.view(groups, n, shared, width),
        )
        seen = min(self.written + 1, ring)
        length = keys.shape[2]
        if band is not None:  # the band moves on and leaves the prompt behind
            length = max(0, min(length, band - 1 - self.written))
            keys, values = keys[:, :, keys.shape[2] - length :], values[:, :, values.shape[2] - length :]
        each = heads // shared  # query heads that share a head of keys and values
        q = q.view(groups, n, shared, each, width) * width**-0.5
        of_prompt = q.permute(0, 2, 1, 3, 4).reshape(groups, shared, n * each, width) @ keys.transpose(2, 3)
        mask = self._mask(length)
        if mask is not None:
            of_prompt = of_prompt + mask
        per_row = of_prompt.view(groups, shared, n, each, length).permute(0, 2, 1, 3, 4)
        scores = torch.cat([per_row, q @ own_keys[:, :, :, :seen].transpose(3, 4)], dim=-1)
        odds = scores.softmax(-1)
        in_prompt = odds[..., :length].permute(0, 2, 1, 3, 4).reshape(groups, shared, n * each, length)
        y = (in_prompt @ values).view(groups, shared, n, each, width).permute(0, 2, 1, 3, 4)
        y = y + odds[..., length:] @ own_values[:, :, :, :seen]
        return y.reshape(groups * n, heads, 1, width)

    def _mask(self, length: int) -> Tensor | None:
        """What to add to scores of the last `length` columns of prompts, (G, 1, 1, length); None where all are full."""
        if length not in self._masks:
            missing = length - self.lengths  # (G,)
            hidden = torch.arange(length, device=missing.device) < missing[:, None]
            zeros = torch.zeros(hidden.shape, device=missing.device)
            self._masks[length] = zeros.masked_fill_(hidden, -torch.inf)[:, None, None] if hidden.any() else None
        return self._masks[length]

    # Rows come and go

    def keep(self, groups: Tensor, rows: Tensor) -> None:
        """Forget all prompts but these (G',), and of each all rows but these (G', n'), which may come repeatedly."""
        if len(groups) < len(self.lengths):
            self._read = [(keys[groups], values[groups]) for keys, values in self._read]
            self.lengths, self._masks = self.lengths[groups], {}
        own = groups[:, None]
        self._own = [(keys[own, rows], values[own, rows]) for keys, values in self._own]
        self.copies = rows.shape[1]
