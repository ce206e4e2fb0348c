"""The modern family: rotary positions, RMSNorm, normed queries and keys, SwiGLU, no biases, an untied head.

What each part is: rotary positions (Su et al. 2021, section 3.4), RMSNorm (Zhang and Sennrich 2019), normed queries
and keys (Henry et al. 2020), SwiGLU (Shazeer 2020, with its hidden layer of 8/3 the width). It is the arrangement of
Qwen3, so that `transformers` loads it with no code of ours. Letters for shapes: gptcore/model/gpt.py.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptcore.model import cpu
from gptcore.model.cpu import EPSILON
from gptcore.model.gpt import GPT, Attend, GPTConfig, parameter_count

ROPE_BASE = 10_000.0
HIDDEN_MULTIPLE = 32
"""The hidden layer's width is a multiple of this."""


def hidden_width(n_embd: int) -> int:
    """8/3 of the width, so that three matrices hold what GPT-2's two of 4 times the width do."""
    return HIDDEN_MULTIPLE * math.ceil(8 * n_embd / 3 / HIDDEN_MULTIPLE)


class RMSNorm(nn.Module):
    """x / root mean square(x) * gain, over the last dimension."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> the same."""
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), EPSILON)


class Attention(nn.Module):
    """Causal multi-head self-attention with rotary positions."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_width, self.dropout = layer, config.n_embd // config.n_head, config.dropout
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.q_norm = RMSNorm(self.head_width)
        self.k_norm = RMSNorm(self.head_width)
        self.out = nn.Linear(config.n_embd, config.n_embd, bias=False)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], attend: Attend | None) -> Tensor:
        """(B, T, C) -> (B, T, C). turn: cosines and sines of the positions, (T, D) or (B, 1, T, D)."""
        rows, length, _ = x.shape
        q, k, v = self.qkv(x).view(rows, length, 3, -1, self.head_width).permute(2, 0, 3, 1, 4)
        q, k = rotated(self.q_norm(q), turn), rotated(self.k_norm(k), turn)  # (B, H, T, D)
        if attend is None:
            p = self.dropout if self.training else 0.0
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        else:
            y = attend(self.layer, q, k, v)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        hidden = hidden_width(config.n_embd)
        self.gate_up = nn.Linear(config.n_embd, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, config.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        out: Tensor = self.down(F.silu(gate) * up)
        return out


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.norm_1, self.attention = RMSNorm(config.n_embd), Attention(config, layer)
        self.norm_2, self.mlp = RMSNorm(config.n_embd), MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], attend: Attend | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        a, m = self.attention, self.mlp
        dropping = self.training and self.dropout.p > 0
        if attend is None and turn[0].dim() == 2 and not dropping and cpu.helps(x, a.qkv, a.out, m.gate_up, m.down):
            parts = (self.norm_1, a.qkv, a.q_norm, a.k_norm, a.out, self.norm_2, m.gate_up, m.down)
            out: Tensor = cpu.ModernBlock.apply(x, x.shape[2] // a.head_width, turn, *(p.weight for p in parts))  # type: ignore[no-untyped-call]
            return out
        x = x + self.dropout(a(self.norm_1(x), turn, attend))
        x = x + self.dropout(m(self.norm_2(x)))
        return x


class Modern(GPT):
    """Every projection back into the residual stream, and the head, start at zero."""

    cosines: Tensor
    sines: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.tokens = nn.Embedding(config.vocab_size, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = RMSNorm(config.n_embd)
        self.unembed = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        cosines, sines = turns(config.context, config.n_embd // config.n_head)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)

    def initialise(self, seed: int) -> Modern:
        """Norms 1, the token table N(0, 1), matrices N(0, 1/fan-in); head and projections into the stream 0."""
        draw = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            with torch.no_grad():
                if parameter.dim() == 1:
                    parameter.fill_(1.0)
                elif name.endswith(("out.weight", "down.weight", "unembed.weight")):
                    parameter.zero_()
                else:
                    std = 1.0 if name == "tokens.weight" else parameter.shape[1] ** -0.5
                    parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=draw))
        return self

    @property
    def head(self) -> Tensor:
        """A matrix of its own."""
        return self.unembed.weight

    @property
    def multiplied(self) -> int:
        """All but the token table."""
        return parameter_count(self) - self.tokens.weight.numel()

    @property
    def stacks(self) -> dict[str, int]:
        """Queries, keys and values lie in one; so do gate and up."""
        names = [name for name, parameter in self.layers.named_parameters(prefix="layers") if parameter.dim() == 2]
        return {name: {"qkv": 3, "gate_up": 2}.get(name.split(".")[-2], 1) for name in names}

    def embed(self, ids: Tensor, positions: Tensor | None) -> Tensor:
        """The token table alone; positions enter in attention."""
        x: Tensor = self.dropout(self.tokens(ids))
        return x

    def blocks(self, x: Tensor, positions: Tensor | None, attend: Attend | None) -> Tensor:
        """Every block, then the last norm."""
        if positions is None:
            turn = self.cosines[: x.shape[1]], self.sines[: x.shape[1]]  # (T, D)
        else:
            turn = self.cosines[positions][:, None], self.sines[positions][:, None]  # (B, 1, T, D)
        for layer in self.layers:
            x = layer(x, turn, attend)
        x = self.norm(x)
        return x


def turns(length: int, width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (length, width) of the angles by which rotary positions turn; ValueError for an odd width."""
    if width % 2:
        raise ValueError(f"rotary positions need heads of even width, not {width}: change n_embd or n_head")
    rates = ROPE_BASE ** (-torch.arange(0, width, 2) / width)  # (width/2,)
    angles = torch.arange(length)[:, None] * rates  # (length, width/2)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotated(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (x_i, x_{i+D/2}) of (B, H, T, D) by its position's angle."""
    cosines, sines = turn
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([-second, first], dim=-1) * sines
