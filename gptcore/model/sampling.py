"""How the next token is chosen from logits.

R rows, V = vocab_size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """Settings, applied in this order: penalty, temperature, top_k, top_p, min_p. ValueError for an impossible one."""

    temperature: float | None = None
    """What logits are divided by; None takes the likeliest token and draws nothing."""
    top_k: int | None = None
    """Only so many likeliest tokens are drawn from (Fan et al. 2018)."""
    top_p: float | None = None
    """Only the likeliest tokens that together reach this probability (Holtzman et al. 2020)."""
    min_p: float | None = None
    """Only tokens at least this share as likely as the likeliest (Nguyen et al. 2024)."""
    repetition_penalty: float | None = None
    """Logits of tokens that stand in the prompt or the answer are divided by it, multiplied where below zero (Keskar et
    al. 2019, section 4.1)."""

    def __post_init__(self) -> None:
        limits = {
            "temperature": (self.temperature, 0.0, math.inf, "a positive number; leave it out for the likeliest token"),
            "top_p": (self.top_p, 0.0, 1.0, "above 0 and at most 1"),
            "min_p": (self.min_p, 0.0, 1.0, "above 0 and at most 1"),
            "repetition_penalty": (self.repetition_penalty, 0.0, math.inf, "a positive number"),
        }
        for name, (value, above, most, allowed) in limits.items():
            if value is not None and not (above < value <= most and math.isfinite(value)):
                raise ValueError(f"{name} {value} must be {allowed}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k {self.top_k} must be at least 1")
        unused = [name for name in ("top_k", "top_p", "min_p") if getattr(self, name) is not None]
        if self.temperature is None and unused:
            raise ValueError(f"{', '.join(unused)} without a temperature: nothing is drawn; give one, such as 1.0")

    def penalised(self, logits: Tensor, seen: Tensor) -> Tensor:
        """Logits (R, V) after the penalty; seen (R, V): whether a token stands in the row."""
        if self.repetition_penalty is None:
            return logits
        p = self.repetition_penalty
        return torch.where(seen, torch.where(logits > 0, logits / p, logits * p), logits)

    def draw(self, logits: Tensor, numbers: Tensor) -> Tensor:
        """One token a row (R,), from logits (R, V) after the penalty, by a random number each, [0, 1)."""
        assert self.temperature is not None
        reached = self._kept(logits.double() / self.temperature).softmax(-1).cumsum(-1)  # (R, V)
        return (reached <= numbers[:, None] * reached[:, -1:]).sum(-1).clamp_(max=logits.shape[-1] - 1)

    def _kept(self, scaled: Tensor) -> Tensor:
        """Logits (R, V), minus infinity where a token may not be drawn."""
        if self.top_k is not None and self.top_k < scaled.shape[-1]:
            scaled = scaled.masked_fill(scaled < scaled.topk(self.top_k).values[:, -1:], -torch.inf)
        if self.top_p is not None and self.top_p < 1:
            odds, order = scaled.softmax(-1).sort(dim=-1, descending=True, stable=True)
            beyond = odds.cumsum(-1) - odds >= self.top_p  # what comes before reaches it already
            scaled = scaled.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)
        if self.min_p is not None:
            least = scaled.max(-1, keepdim=True).values + math.log(self.min_p)
            scaled = scaled.masked_fill(scaled < least, -torch.inf)
        return scaled
