"""Batched generation with a key-value cache, for prompts of unequal length."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gptcore import durable
from gptcore.model.attention import causal
from gptcore.model.gpt import GPT

CACHE_BYTES = {"cpu": 1 << 29, "cuda": 8 << 30}
"""What the cache may take; fewer rows go at once when they are long."""


def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int | Sequence[int],
    stop: Set[int],
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
    batch_rows: int = 64,
) -> list[list[int]]:
    """The new tokens of every prompt, in the prompts' order, without the stop token that ended them.

    A row ends at a stop token, at its `max_new_tokens` (one number, or one a prompt), or where prompt and answer fill
    the context. Temperature 0 takes the likeliest token; above it, sampling from the `top_k` likeliest (None: all).
    A row's random numbers depend on the seed and its own prompt, never on its neighbours.
    ValueError for an empty prompt, one that leaves no room in the context, or an impossible setting.
    """
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    context = model.config.context
    problems = [f"prompt {i} has {len(p)} tokens" for i, p in enumerate(prompts) if not 1 <= len(p) < context]
    if problems:
        raise ValueError(f"{problems[0]} ({len(problems)} such); allowed: 1 to {context - 1} (the context less one)")
    if len(limits) != len(prompts):
        raise ValueError(f"{len(limits)} values of max_new_tokens for {len(prompts)} prompts")
    if temperature < 0 or (top_k is not None and top_k < 1):
        raise ValueError(f"temperature {temperature} must be >= 0 and top_k {top_k} at least 1")
    draws = _generators(prompts, seed) if temperature > 0 else [None] * len(prompts)
    rows = [Row(p, min(limit, context - len(p)), draw) for p, limit, draw in zip(prompts, limits, draws, strict=True)]
    waiting = sorted((row for row in rows if row.limit > 0), key=lambda row: len(row.prompt))
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            while waiting:
                count = _rows_that_fit(model, waiting[-batch_rows:])
                _generate_batch(model, waiting[-count:], stop, temperature, top_k)
                del waiting[-count:]  # the longest go first: what memory it takes shows at once
    finally:
        model.train(was_training)
    return [row.answer for row in rows]


@dataclass(eq=False)
class Row:
    """One prompt on its way."""

    prompt: Sequence[int]
    limit: int
    """New tokens at most."""
    draw: np.random.Generator | None
    """Its random numbers; None takes the likeliest token."""
    answer: list[int] = field(default_factory=list)
    ended: bool = False

    def take(self, token: int, stop: Set[int]) -> None:
        """Add a token, or end at it."""
        if not self.ended:
            if token not in stop:
                self.answer.append(token)
            self.ended = token in stop or len(self.answer) == self.limit


def _rows_that_fit(model: GPT, rows: list[Row]) -> int:
    """How many of the rows the cache's bound allows, at least one."""
    longest = max(len(row.prompt) + row.limit for row in rows)
    c = model.config
    row_bytes = 2 * 4 * c.n_layer * (c.n_kv_head or c.n_head) * (c.n_embd // c.n_head) * longest
    return max(1, min(len(rows), CACHE_BYTES[model.device.type] // row_bytes))


def _generators(prompts: Sequence[Sequence[int]], seed: int) -> list[np.random.Generator | None]:
    """One a prompt, keyed by the seed, the prompt, and which of its repetitions this is."""
    seen: Counter[bytes] = Counter()
    draws: list[np.random.Generator | None] = []
    for prompt in prompts:
        digest = hashlib.sha256(durable.canonical_json([seed, list(prompt)])).digest()
        key = int.from_bytes(digest[:16], "little") + seen[digest]
        draws.append(np.random.Generator(np.random.Philox(key=key % (1 << 128))))
        seen[digest] += 1
    return draws


class Cache:
    """Keys and values of every layer, (layer, B, H, length, D), allocated once for a batch.

    Prompts are padded on the right: causal attention hides the padding from the prompt, and each new token overwrites
    its row's next padded place before a query can see it.
    """

    def __init__(self, model: GPT, rows: int, length: int, used: Tensor) -> None:
        c = model.config
        shape = (c.n_layer, rows, c.n_kv_head or c.n_head, length, c.n_embd // c.n_head)
        self.keys = torch.zeros(shape, device=model.device)
        self.values = torch.zeros(shape, device=model.device)
        self.used = used  # (B,) tokens of each row that the cache holds
        self.rows = torch.arange(rows, device=model.device)
        self.visible = 0  # columns that any row uses
        self._masks: dict[int | None, Tensor] = {}

    def advance(self) -> None:
        """Make room for one more token a row; a row that has ended and waits to leave rewrites its last place."""
        self.used.clamp_(max=self.keys.shape[3] - 1)
        self.visible = int(self.used.max()) + 1
        self._masks = {}

    def _mask(self, band: int | None) -> Tensor:
        """What to add to the scores of the visible columns, (B, 1, 1, visible)."""
        if band not in self._masks:
            columns, newest = torch.arange(self.visible, device=self.used.device), self.used[:, None]
            hidden = columns > newest  # (B, visible)
            if band is not None:
                hidden |= columns <= newest - band
            zeros = torch.zeros(hidden.shape, device=hidden.device)
            self._masks[band] = zeros.masked_fill_(hidden, -torch.inf)[:, None, None]
        return self._masks[band]

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these."""
        self.keys, self.values, self.used = self.keys[:, rows], self.values[:, rows], self.used[rows]
        self.rows = self.rows[: len(rows)]

    def prefill(self, layer: int, q: Tensor, k: Tensor, v: Tensor, band: int | None) -> Tensor:
        """Attention within the prompts (B, H, T, D), whose keys and values are kept."""
        length = k.shape[2]
        self.keys[layer, :, :, :length], self.values[layer, :, :, :length] = k, v
        return causal(q, k, v, band)

    def decode(self, layer: int, q: Tensor, k: Tensor, v: Tensor, band: int | None) -> Tensor:
        """Attention of one new token a row (B, H, 1, D) to all before it, or those within a band."""
        keys, values = self.keys[layer], self.values[layer]
        keys[self.rows, :, self.used], values[self.rows, :, self.used] = k[:, :, 0], v[:, :, 0]
        keys, values = keys[:, :, : self.visible], values[:, :, : self.visible]
        rows, heads, _, width = q.shape
        q = q.view(rows, keys.shape[1], -1, width)  # query heads that share keys and values: rows of one matrix
        y = F.scaled_dot_product_attention(q, keys, values, attn_mask=self._mask(band))
        return y.view(rows, heads, 1, width)


def _generate_batch(model: GPT, rows: list[Row], stop: Set[int], temperature: float, top_k: int | None) -> None:
    """Answer the rows.

    1. One pass over the padded prompts fills the cache. 2. Each round picks a token a row, and ends rows.
    3. Once a quarter of the rows have ended they leave the cache; leaving one by one would copy it too often.
    """
    device = model.device
    lengths = torch.tensor([len(row.prompt) for row in rows])  # (B,)
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)  # (B, T)
    for place, row in enumerate(rows):
        ids[place, : len(row.prompt)] = torch.tensor(row.prompt)
    cache = Cache(model, len(rows), max(len(row.prompt) + row.limit for row in rows), lengths.to(device))
    hidden = model.hidden(ids.to(device), attend=cache.prefill)  # (B, T, C)
    hidden = hidden[cache.rows, cache.used - 1]  # (B, C)
    while True:
        tokens = pick(model.logits(hidden).float(), temperature, top_k, [row.draw for row in rows])  # (B,)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            row.take(token, stop)
        living = [place for place, row in enumerate(rows) if not row.ended]
        if not living:
            return
        if len(living) <= 0.75 * len(rows):
            kept = torch.tensor(living, device=device)
            cache.keep(kept)
            rows, tokens = [rows[place] for place in living], tokens[kept]
        cache.advance()
        hidden = model.hidden(tokens[:, None], cache.used[:, None], cache.decode)[:, 0]  # (B, C)
        cache.used = cache.used + 1


def pick(logits: Tensor, temperature: float, top_k: int | None, draws: list[np.random.Generator | None]) -> Tensor:
    """One token a row (B,) from logits (B, V): the likeliest at temperature 0, else by each row's own generator."""
    if temperature == 0:
        return logits.argmax(-1)
    scaled = logits.double() / temperature
    if top_k is not None and top_k < scaled.shape[-1]:
        least = scaled.topk(top_k).values[:, -1:]  # (B, 1)
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    reached = scaled.softmax(-1).cumsum(-1)  # (B, V)
    numbers = [draw.random() for draw in draws if draw is not None]
    drawn = torch.tensor(numbers, dtype=torch.double, device=logits.device)[:, None]  # (B, 1)
    return (reached <= drawn * reached[:, -1:]).sum(-1).clamp_(max=logits.shape[-1] - 1)
