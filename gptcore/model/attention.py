"""Causal attention within a sequence: to all before, or within a band. Letters for shapes: gptcore/model/gpt.py."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def causal(q: Tensor, k: Tensor, v: Tensor, band: int | None = None, dropout: float = 0.0) -> Tensor:
    """Queries (B, H, T, D), keys and values (B, H_kv, T, D) -> (B, H, T, D).

    With a band a token sees so many tokens, the last of them itself (Child et al. 2019, section 4.2: the local half of
    their patterns). Query heads share keys and values in groups of neighbours (Ainslie et al. 2023).
    """
    k, v = shared(k, q.shape[1]), shared(v, q.shape[1])
    if band is None or q.shape[2] <= band:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
    if q.shape[2] <= 2 * band:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=banded(q.shape[2], band, q), dropout_p=dropout)
    return _in_chunks(q, k, v, band, dropout)


def shared(x: Tensor, heads: int) -> Tensor:
    """Keys or values (B, H_kv, T, D) for every query head (B, H, T, D)."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def banded(length: int, band: int, like: Tensor) -> Tensor:
    """Who is seen by whom (T, T): query i sees keys i - band + 1 to i."""
    places = torch.arange(length, device=like.device)
    back = places[:, None] - places
    return (back >= 0) & (back < band)


def _in_chunks(q: Tensor, k: Tensor, v: Tensor, band: int, dropout: float) -> Tensor:
    """Chunks of as many queries as the band is wide need the keys of their own chunk and the one before.

    What is computed grows with T x band, not with T x T.
    """
    length, chunks = q.shape[2], -(-q.shape[2] // band)

    def cut(x: Tensor) -> Tensor:
        """(B, H, T, D) -> (B, H, chunks, band, D), zeros behind."""
        padded = F.pad(x, (0, 0, 0, chunks * band - length))
        return padded.view(*x.shape[:2], chunks, band, x.shape[3])

    def with_earlier(x: Tensor) -> Tensor:
        """(B, H, T, D) -> (B, H, chunks, 2 band, D), zeros before the first."""
        own = cut(x)
        return torch.cat([F.pad(own, (0, 0, 0, 0, 1, 0))[:, :, :-1], own], dim=3)

    keys = torch.arange(2 * band, device=q.device)
    back = band + torch.arange(band, device=q.device)[:, None] - keys  # (band, 2 band)
    seen = (back >= 0) & (back < band)
    first = seen & (keys >= band)
    mask = torch.stack([first, *[seen] * (chunks - 1)])  # (chunks, band, 2 band)
    y = F.scaled_dot_product_attention(cut(q), with_earlier(k), with_earlier(v), attn_mask=mask, dropout_p=dropout)
    return y.flatten(2, 3)[:, :, :length]
