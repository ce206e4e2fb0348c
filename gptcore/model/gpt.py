"""GPT-2: pre-norm transformer with learned positions, GELU and a tied head (Radford et al. 2019, section 2.3).

B rows, T positions, C = n_embd, V = vocab_size, H heads of D = C / H.
Parameters are named as in transformers' GPT2Model; the weights of c_attn, c_proj and c_fc are its transposed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptcore import config

IGNORED = -100
"""A target that no loss is taken on."""


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a network: `config.Model` plus what the tokenizer decides."""

    family: str
    n_layer: int
    n_head: int
    n_embd: int
    context: int
    vocab_size: int
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.family not in config.CONTEXT_LIMITS:
            raise ValueError(f"family {self.family!r} is not one of {sorted(config.CONTEXT_LIMITS)}")
        for name in ("n_layer", "n_head", "n_embd", "context", "vocab_size"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} {value!r} is not a positive whole number")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_head {self.n_head} does not divide n_embd {self.n_embd}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout!r} is not in [0, 1)")

    @classmethod
    def of(cls, model: config.Model, vocab_size: int) -> GPTConfig:
        """The preset's model section with the tokenizer's vocabulary."""
        return cls(**model.model_dump(), vocab_size=vocab_size)


class Attend(Protocol):
    """How queries meet keys: within the sequence, or with those a cache remembers."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, H, T, D) each, and so is the result."""
        ...


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.n_head, self.dropout = layer, config.n_head, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, attend: Attend | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        rows, length, width = x.shape
        heads = self.c_attn(x).view(rows, length, 3, self.n_head, width // self.n_head)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        if attend is None:
            p = self.dropout if self.training else 0.0
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        else:
            y = attend(self.layer, q, k, v)
        out: Tensor = self.c_proj(y.transpose(1, 2).reshape(rows, length, width))
        return out


class MLP(nn.Module):
    """Two linear layers around GELU in its tanh form, `gelu_new` (as in GPT-2's released code)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        out: Tensor = self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))
        return out


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(config.n_embd), Attention(config, layer)
        self.ln_2, self.mlp = nn.LayerNorm(config.n_embd), MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, attend: Attend | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.dropout(self.attn(self.ln_1(x), attend))
        x = x + self.dropout(self.mlp(self.ln_2(x)))
        return x


class GPT(nn.Module):
    """The language model; its head is the token embedding, transposed."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.context, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)

    def initialise(self, seed: int) -> GPT:
        """Draw the first weights: biases 0, norms 1, matrices N(0, std), positions as sinusoids of the same size.

        std is GPT-2's 0.02 at its width of 768 and grows as 1/sqrt(n_embd) for narrower models, whose attention would
        otherwise start, and long stay, uniform. Learned positions that begin as sinusoids let a head attend at a
        distance from the first update on. Both together: benchmarks/RESULTS.md, "first weights".
        Projections back into the residual stream are scaled by 1/sqrt(2 n_layer), one over the root of the number of
        residual additions (Radford et al. 2019, section 2.3). Drawn on the CPU, so that every device starts equal.
        """
        draw = torch.Generator().manual_seed(seed)
        std = 0.02 * math.sqrt(768 / self.config.n_embd)
        for name, parameter in self.named_parameters():
            with torch.no_grad():
                if name.endswith("bias"):
                    parameter.zero_()
                elif parameter.dim() == 1:
                    parameter.fill_(1.0)
                elif name == "wpe.weight":
                    parameter.copy_(sinusoids(*parameter.shape) * std)
                else:
                    scale = std / math.sqrt(2 * self.config.n_layer) if name.endswith("c_proj.weight") else std
                    parameter.copy_(torch.empty(parameter.shape).normal_(0.0, scale, generator=draw))
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.wte.weight.device

    def hidden(self, ids: Tensor, positions: Tensor | None = None, attend: Attend | None = None) -> Tensor:
        """Ids (B, T) -> last hidden states (B, T, C). Without `positions` (B, T) they count from 0.

        Raises ValueError when T exceeds the context.
        """
        length = ids.shape[1]
        if length > self.config.context:
            raise ValueError(f"a sequence of {length} tokens exceeds the model's context of {self.config.context}")
        places = self.wpe.weight[:length] if positions is None else self.wpe(positions)
        x: Tensor = self.dropout(self.wte(ids) + places)
        for block in self.h:
            x = block(x, attend)
        x = self.ln_f(x)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., C) -> (..., V)."""
        return F.linear(hidden, self.wte.weight)

    def forward(
        self, ids: Tensor, targets: Tensor | None = None, places: Tensor | None = None, reduction: str = "mean"
    ) -> Tensor:
        """Logits (B, T, V) of ids (B, T); with targets (B, T) their cross-entropy in nats instead.

        Targets of IGNORED do not count. `places` are the flat indices (into B*T) of those that do: with it the head
        computes only them. `reduction` is mean, sum or none (one loss a place).
        """
        x = self.hidden(ids)
        if targets is None:
            return self.logits(x)
        x, targets = x.flatten(0, 1), targets.flatten()  # (B*T, C), (B*T,)
        if places is not None:
            x, targets = x[places], targets[places]
        return F.cross_entropy(self.logits(x).float(), targets, ignore_index=IGNORED, reduction=reduction)


def sinusoids(length: int, width: int) -> Tensor:
    """Sinusoidal positions (length, width) of mean square 1 (Vaswani et al. 2017, section 3.5, times root two)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))  # (width/2,)
    angles = torch.arange(length)[:, None] * rates  # (length, width/2)
    return math.sqrt(2) * torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]


def parameter_count(model: nn.Module) -> int:
    """All trained numbers; the tied head counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def flops_per_token(model: GPT, length: int) -> int:
    """Floating-point operations of forward and backward, a token, in sequences of `length`.

    6 N + 12 n_layer n_embd length (PaLM, Chowdhery et al. 2022, appendix B). N leaves out the position table, which is
    looked up and never multiplied; the token table stays, being the head.
    """
    multiplied = parameter_count(model) - model.wpe.weight.numel()
    return 6 * multiplied + 12 * model.config.n_layer * model.config.n_embd * length
