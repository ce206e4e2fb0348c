"""Keys and values of what has been read and written, so that each new token is computed alone.

G prompts, each continued n times (samples or beams): R = G x n rows. One store a row holds what it has read and
written, by place; where n > 1 a prompt's keys and values are kept once for its n rows instead, and the rows' stores
hold what they write. A row may read several tokens at once and have some taken back, so each has a count of its own.
In banded layers a store is a ring of what the band reaches. Other letters: gptcore/model/gpt.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gptcore.model.attention import causal
from gptcore.model.gpt import GPT, Attend
from gptcore.model.packed import GroupedAttention
from gptcore.model.tree import TreeAttention, Trunk, path_of

COMMON_TOKENS = 64
"""Fewer that all prompts begin with are not worth a pass of their own."""


@dataclass(frozen=True)
class _Step:
    """Where the tokens of one pass go, and what they see, in layers of one kind."""

    at: int | None
    """The place of the first in every store, and the others follow; None where rows differ."""
    places: Tensor
    """(R, T)."""
    reach: int
    """Places of a store that any row sees, from the first on."""
    mask: Tensor | None
    """To be added to scores, (R or 1, 1, T, reach); None where all is seen."""
    prompt_mask: Tensor | None
    """Where prompts stand apart: to be added to their scores, (G, 1, n, 1, T, L)."""


class Cache:
    """The keys and values of one batch."""

    def __init__(
        self,
        model: GPT,
        prompts: Sequence[Sequence[int]],
        copies: int,
        room: int,
        ahead: int = 0,
    ) -> None:
        """copies: n. room: tokens that a row may write. ahead: tokens beside one that it may read at once."""
        self.model, self.copies, self.ahead = model, copies, ahead
        self.lengths = [len(prompt) for prompt in prompts]  # (G,)
        self.longest = max(self.lengths)
        self.joined = copies == 1
        self.size = room + ahead + 1 + (self.longest if self.joined else 0)
        self.counts = list(self.lengths) if self.joined else [0] * (len(prompts) * copies)
        """Of tokens in each row's store, (R,)."""
        self._read: list[tuple[Tensor, Tensor]] = []  # by layer; prompts end in the last column
        self._own: list[tuple[Tensor, Tensor]] = []  # by layer
        self._steps: dict[int | None, _Step] = {}

    # The prompts

    def read(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Pass over the prompts, laid end to end so that nothing is padded; their last hidden states (G, C).

        What all of them begin with is read once, where that is much.
        """
        device = self.model.device
        self._begin = begin = _common_beginning(prompts)
        self._trunk = self._trunk_of(prompts[0][:begin]) if begin else None
        ids = torch.tensor([token for prompt in prompts for token in prompt[begin:]], device=device)[None]  # (1, N)
        lengths = torch.tensor(self.lengths, device=device) - begin  # (G,)
        self._ends = lengths.cumsum(0)  # (G,)
        if len(prompts) == 1:
            self._attend: Attend = lambda layer, q, k, v, band: causal(q, k, v, band)
            hidden = self.model.hidden(ids, attend=self._reading)
        else:
            starts = (self._ends - lengths).repeat_interleave(lengths)
            positions = (torch.arange(ids.shape[1], device=device) - starts)[None]
            if self._trunk:
                self._attend = TreeAttention([path_of(p[begin:], begin) for p in prompts], self._trunk, device)
            else:
                self._attend = GroupedAttention(self.lengths, device)
            hidden = self.model.hidden(ids, positions + begin, attend=self._reading)
        return hidden[0, self._ends - 1]

    def _trunk_of(self, tokens: Sequence[int]) -> Trunk:
        attend = TreeAttention([path_of(tokens)], None, self.model.device)
        self.model.hidden(attend.ids, attend.positions, attend)
        return attend.kept

    def _reading(self, layer: int, q: Tensor, k: Tensor, v: Tensor, band: int | None) -> Tensor:
        """Attention within the prompts (1, H, N, D), whose keys and values are kept."""
        places = self._places(band)
        store = k.new_zeros(len(self.counts), k.shape[1], places, k.shape[3])  # what is masked is still multiplied by 0
        self._own.append((store, torch.zeros_like(store)))
        before = self._trunk.layers[layer] if self._trunk else (k[:, :, :0], v[:, :, :0])
        found = [torch.cat(both, dim=2)[0] for both in zip(before, (k, v), strict=True)]
        known = before[0].shape[2]
        lengths = torch.tensor(self.lengths, device=k.device)[:, None]  # (G, 1)

        def columns(place: Tensor) -> Tensor:
            """Where the keys of such places of the prompts (G, X) stand; anywhere for one that is not there."""
            own = self._ends[:, None] - lengths + place + known
            return torch.where(place < self._begin, place - self._begin + known, own).clamp_(min=0)

        if self.joined:
            kept = min(self.longest, places)
            back = lengths - 1 - torch.arange(kept, device=k.device)
            chosen = columns(lengths - 1 - back % places)  # (G, kept): the newest token whose place it is
            for store, new in zip(self._own[-1], found, strict=True):
                store[:, :, :kept] = new[:, chosen].transpose(0, 1)
        else:
            kept = self.longest if band is None else min(band, self.longest)
            chosen = columns(lengths - kept + torch.arange(kept, device=k.device))  # (G, L)
            keys, values = (new[:, chosen].transpose(0, 1) for new in found)  # (G, H_kv, L, D)
            self._read.append((keys.contiguous(), values.contiguous()))
        return self._attend(layer, q, k, v, band)

    def stores(self, layer: int) -> tuple[Tensor, ...]:
        """Keys and values of rows, and of prompts where these stand apart."""
        return self._own[layer] if self.joined else (*self._own[layer], *self._read[layer])

    def _places(self, band: int | None) -> int:
        """Of a store, in layers of this kind."""
        return self.size if band is None else min(band + self.ahead, self.size)

    # What is written

    def begin(self, tokens: int = 1) -> Tensor:
        """The next pass takes so many tokens a row, T; their positions (R, T)."""
        self._steps = {}
        device = self.model.device
        self._next = torch.tensor(self.counts, device=device)[:, None] + torch.arange(tokens, device=device)
        self._newest = [count + tokens for count in self.counts]
        if self.joined:
            return self._next
        lengths = torch.tensor(self.lengths, device=device).repeat_interleave(self.copies)
        return self._next + lengths[:, None]

    def advance(self, tokens: Sequence[int] | int = 1) -> None:
        """So many tokens more count in each row; what was written behind them is forgotten."""
        more = [tokens] * len(self.counts) if isinstance(tokens, int) else tokens
        self.counts = [count + new for count, new in zip(self.counts, more, strict=True)]

    def writing(self, layer: int, q: Tensor, k: Tensor, v: Tensor, band: int | None) -> Tensor:
        """Attention of T new tokens a row (R, H, T, D) to all before them and to each other."""
        if band not in self._steps:
            self._steps[band] = self._step(band, q.shape[2])
        step = self._steps[band]
        keys, values = self._own[layer]
        if step.at is not None:
            keys[:, :, step.at : step.at + q.shape[2]] = k
            values[:, :, step.at : step.at + q.shape[2]] = v
        else:
            rows = torch.arange(len(k), device=k.device)[:, None]
            keys[rows, :, step.places] = k.transpose(1, 2)
            values[rows, :, step.places] = v.transpose(1, 2)
        if not self.joined:
            return self._beside_prompts(layer, q, step)
        return _attended(q, keys[:, :, : step.reach], values[:, :, : step.reach], step.mask)

    def _beside_prompts(self, layer: int, q: Tensor, step: _Step) -> Tensor:
        """Attention to a prompt that n rows share, and to each row's own."""
        keys, values = self._read[layer]
        own_keys, own_values = self._own[layer]
        groups, n, (rows, heads, length, width) = len(self.lengths), self.copies, q.shape
        shared = keys.shape[1]
        each = heads // shared  # query heads that share a head of keys and values
        q = q.view(groups, n, shared, each, length, width) * width**-0.5

        def together(x: Tensor) -> Tensor:
            """(G, n, H_kv, each, T, X) -> (G, H_kv, n * each * T, X)."""
            return x.transpose(1, 2).reshape(groups, shared, n * each * length, x.shape[-1])

        def apart(x: Tensor) -> Tensor:
            """The inverse."""
            return x.view(groups, shared, n, each, length, x.shape[-1]).transpose(1, 2)

        of_prompt = apart(together(q) @ keys.transpose(2, 3))  # (G, n, H_kv, each, T, L)
        if step.prompt_mask is not None:
            of_prompt = of_prompt + step.prompt_mask
        own = q.reshape(rows, shared, each * length, width) @ own_keys[:, :, : step.reach].transpose(2, 3)
        own = own.view(rows, shared, each, length, step.reach)
        if step.mask is not None:
            own = own + step.mask[:, None]
        scores = torch.cat([of_prompt, own.view(groups, n, shared, each, length, step.reach)], dim=-1)
        odds = scores.softmax(-1)
        read = odds.shape[-1] - step.reach
        y = apart(together(odds[..., :read]) @ values)
        of_own = odds[..., read:].reshape(rows, shared, each * length, step.reach) @ own_values[:, :, : step.reach]
        y = y + of_own.view(y.shape)
        return y.reshape(rows, heads, length, width)

    def _step(self, band: int | None, tokens: int) -> _Step:
        places = self._places(band)
        slots = self._next % places
        first = self._newest[0] - tokens
        together = all(newest == self._newest[0] for newest in self._newest) and first % places + tokens <= places
        reach = min(places, max(self._newest))
        prompt_mask = None if self.joined else self._prompt_mask(band)
        return _Step(first % places if together else None, slots, reach, self._mask(band, tokens, reach), prompt_mask)

    def _mask(self, band: int | None, tokens: int, reach: int) -> Tensor | None:
        """Of the rows' own stores; None where every row sees all of `reach`."""
        places, newest = self._places(band), self._newest
        equal = min(newest) == max(newest)
        if equal and tokens == 1 and (band is None or places <= band or newest[0] <= band):
            return None
        queries = self._next[:1] if equal else self._next  # (R or 1, T)
        last = queries[:, -1:]
        held = last - (last - torch.arange(reach, device=last.device)) % places  # (R or 1, reach): whose key is there
        back = queries[:, :, None] - held[:, None]  # (R or 1, T, reach)
        seen = (back >= 0) & (held >= 0)[:, None]
        if band is not None:
            seen &= back < band
        return _added(seen)[:, None]

    def _prompt_mask(self, band: int | None) -> Tensor | None:
        """Of the columns of prompts, which end in the last one."""
        columns = self.longest if band is None else min(band, self.longest)
        lengths = torch.tensor(self.lengths, device=self._next.device)
        if band is None and min(self.lengths) == columns:
            return None
        place = torch.arange(columns, device=lengths.device) - columns  # -L to -1
        seen = place >= -lengths[:, None]  # (G, L)
        seen = seen[:, None, None].expand(-1, self.copies, self._next.shape[1], -1)  # (G, n, T, L)
        if band is not None:  # the band moves on and leaves the prompt behind
            written = self._next.view(len(lengths), self.copies, -1, 1)
            seen = seen & (written - place < band)
        return _added(seen)[:, :, None, None]  # (G, n, 1, 1, T, L)

    # Rows come and go

    def keep(self, groups: Tensor, rows: Tensor) -> None:
        """Forget all prompts but these (G',), and of each all rows but these (G', n'), which may come repeatedly."""
        chosen = (groups[:, None] * self.copies + rows).flatten()
        if len(groups) < len(self.lengths):
            self._read = [(keys[groups], values[groups]) for keys, values in self._read]
            self.lengths = [self.lengths[g] for g in groups.tolist()]
        self._own = [(keys[chosen], values[chosen]) for keys, values in self._own]
        self.counts = [self.counts[row] for row in chosen.tolist()]
        self.copies = rows.shape[1]


def _common_beginning(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that all prompts begin with, their last ones not among them; 0 where these are few."""
    if len(prompts) == 1:
        return 0
    first, last = min(map(list, prompts)), max(map(list, prompts))  # what these have in common all have
    most = min(map(len, prompts)) - 1
    common = next((i for i in range(most) if first[i] != last[i]), most)
    return common if common >= COMMON_TOKENS else 0


def _attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """(rows, H, T, D), keys and values (rows, H_kv, reach, D) -> (rows, H, T, D)."""
    rows, heads, length, width = q.shape
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=heads != k.shape[1])
    # With a mask torch multiplies all keys by the scale, and looks for rows that see nothing.
    scores = (q * width**-0.5).reshape(rows, k.shape[1], -1, width) @ k.transpose(2, 3)  # (rows, H_kv, each * T, reach)
    scores.view(rows, k.shape[1], -1, length, k.shape[2]).add_(mask[:, :, None])
    y: Tensor = (scores.softmax(-1) @ v).view(rows, heads, length, width)
    return y


def _added(seen: Tensor) -> Tensor:
    """Zero where seen, minus infinity elsewhere."""
    return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, -torch.inf)
