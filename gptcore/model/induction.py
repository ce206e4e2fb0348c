"""First weights in which two heads already copy: what followed the last time, follows again.

Attention comes to copy from its context through pairs of heads (Olsson et al. 2022, "induction heads"): one that tells
each token which token stood before it, and one in a later layer that looks behind an earlier place of the same token
and repeats what it finds there. Found by training alone, they appear at once after millions of tokens, and a small run
ends before. Here they are laid by hand into the weights that training begins with (as Trockman and Kolter 2023 lay
other patterns of trained attention), and training makes of them what it likes: architecture and export know nothing
of it. Letters for shapes: gptcore/model/gpt.py.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from gptcore.config import no_induction
from gptcore.model.gpt import GPT
from gptcore.model.positions import ROPE_BASE

CONSTANT = 3.0
"""What every token's embedding holds in its first place, so that a query can be the same for all."""
ROOM = 0.3
"""The token table's size in the half of the stream that the two heads write to."""
FAST = 4
"""Pairs of a head's width that tell neighbours apart."""
FAST_GAIN, SLOW_GAIN = 2.0, 1.5
"""How sharply the two heads look."""
LOUDNESS = 0.1
"""What a copied token's logit counts at first."""


@torch.no_grad()
def with_induction(model: GPT) -> GPT:
    """Lay the two heads into a network that is just initialised; returns it.

    1. The stream: a constant, then the token; the other half is nearly empty, for what the heads write. 2. In the first
    block a head whose query and key are constants, one place turned apart: it sees the token before, and writes it
    down. 3. In the second a head that asks with its token for places that have it written down, by the slowest pairs of
    the turning, which forget the distance; it writes down the token found there. 4. The output table reads that.
    """
    shape = model.config
    assert no_induction(shape) is None
    width = shape.n_embd // shape.n_head  # D
    seen = min(width // 2, shape.n_embd // 4)  # numbers of a token's embedding that the heads deal with
    half = shape.n_embd // 2
    token, before, copied = slice(1, 1 + seen), slice(half, half + seen), slice(half + seen, half + 2 * seen)
    one = torch.eye(seen)
    blocks: Any = model.layers
    tables: Any = model

    # 1. The stream.
    tables.tokens.weight[:, half:] *= ROOM
    tables.tokens.weight[:, 0] = CONSTANT
    # 2. What stood before.
    first = blocks[0].attention
    query, key, value = first.qkv.weight.split(shape.n_embd)  # (C, C) each, the first head's rows first
    for part in (query, key, value):
        part[:width] = 0
    fast = min(FAST, width // 4)
    for pair in range(fast):
        angle = ROPE_BASE ** (-2 * pair / width)
        query[pair, 0] = 1.0
        key[pair, 0], key[pair + width // 2, 0] = math.cos(angle), math.sin(angle)
        for norm in (first.q_norm, first.k_norm):
            norm.weight[[pair, pair + width // 2]] = FAST_GAIN
    value[:seen, token] = one
    first.out.weight[before, :seen] = one
    # 3. What stood behind the same token.
    second = blocks[1].attention
    query, key, value = second.qkv.weight.split(shape.n_embd)
    for part in (query, key, value):
        part[:width] = 0
    slow = torch.arange(width // 2 - seen // 2, width // 2)
    slow = torch.cat([slow, slow + width // 2])[:seen]
    query[slow, token] = torch.eye(len(slow), seen)
    key[slow, before] = torch.eye(len(slow), seen)
    for norm in (second.q_norm, second.k_norm):
        norm.weight[slow] = SLOW_GAIN
    value[:seen, token] = one
    second.out.weight[copied, :seen] = one
    # 4. The answer.
    tables.unembed.weight[:, copied] = LOUDNESS * tables.tokens.weight[:, token]
    return model
