"""The modern family: rotary positions, RMSNorm, normed queries and keys, SwiGLU, no biases, an untied head.

What each part is: rotary positions (Su et al. 2021, section 3.4), RMSNorm (Zhang and Sennrich 2019), normed queries
and keys (Henry et al. 2020), SwiGLU (Shazeer 2020, with its hidden layer of 8/3 the width), keys and values that heads
share (Ainslie et al. 2023). It is the arrangement of Qwen3, so that `transformers` loads it with no code of ours.

With squared ReLU (So et al. 2021) it is that of nanochat instead: an MLP of four times the width, norms without gains,
and one more behind the token table. Letters for shapes: gptcore/model/gpt.py; H_kv heads of keys and values.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptcore.config import activation_of, positions_of
from gptcore.model import cpu
from gptcore.model.attention import causal
from gptcore.model.cpu import EPSILON
from gptcore.model.gpt import GPT, Attend, GPTConfig, Parts, parameter_count
from gptcore.model.positions import Rotary, Turn, rotated, sinusoids, table

HIDDEN_MULTIPLE = 32
"""The hidden layer's width is a multiple of this."""


def hidden_width(n_embd: int) -> int:
    """8/3 of the width, so that three matrices hold what GPT-2's two of 4 times the width do."""
    return HIDDEN_MULTIPLE * math.ceil(8 * n_embd / 3 / HIDDEN_MULTIPLE)


def has_gains(config: GPTConfig) -> bool:
    """Whether norms are followed by gains."""
    return activation_of(config) != "relu_squared"


class RMSNorm(nn.Module):
    """x / root mean square(x) * gain, over the last dimension; the gain may be left out."""

    def __init__(self, width: int, gain: bool) -> None:
        super().__init__()
        self.shape = (width,)
        self.weight = nn.Parameter(torch.ones(width)) if gain else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> the same."""
        return F.rms_norm(x, self.shape, None if self.weight is None else self.weight.to(x.dtype), EPSILON)


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_width, self.dropout = layer, config.n_embd // config.n_head, config.dropout
        if config.n_kv_head is None:
            self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        else:
            self.q = nn.Linear(config.n_embd, config.n_embd, bias=False)
            self.kv = nn.Linear(config.n_embd, 2 * config.n_kv_head * self.head_width, bias=False)
        self.q_norm = RMSNorm(self.head_width, has_gains(config))
        self.k_norm = RMSNorm(self.head_width, has_gains(config))
        self.out = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.grouped = config.n_kv_head is not None

    def forward(self, x: Tensor, turn: Turn | None, attend: Attend | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        if self.grouped:
            (q,), (k, v) = self._heads(self.q(x), 1), self._heads(self.kv(x), 2)
        else:
            q, k, v = self._heads(self.qkv(x), 3)
        q, k = rotated(self.q_norm(q), turn), rotated(self.k_norm(k), turn)  # (B, H, T, D), (B, H_kv, T, D)
        if attend is None:
            y = causal(q, k, v, dropout=self.dropout if self.training else 0.0)
        else:
            y = attend(self.layer, q, k, v, None)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out

    def _heads(self, x: Tensor, parts: int) -> Tensor:
        """(B, T, parts * heads * D) -> (parts, B, heads, T, D)."""
        return x.view(*x.shape[:2], parts, -1, self.head_width).permute(2, 0, 3, 1, 4)


class SwiGLU(nn.Module):
    """silu(gate) * up, and back."""

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


class SquaredReLU(nn.Module):
    """relu(up) squared, and back."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.down = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        out: Tensor = self.down(self.up(x).relu().square())
        return out


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        gains = has_gains(config)
        self.norm_1, self.attention = RMSNorm(config.n_embd, gains), Attention(config, layer)
        self.norm_2, self.mlp = RMSNorm(config.n_embd, gains), SwiGLU(config) if gains else SquaredReLU(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, turn: Turn | None, attend: Attend | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        if (
            attend is None
            and turn is not None
            and turn[0].dim() == 2
            and (found := self._written_out(x, turn)) is not None
        ):
            return found
        x = x + self.dropout(self.attention(self.norm_1(x), turn, attend))
        x = x + self.dropout(self.mlp(self.norm_2(x)))
        return x

    def _written_out(self, x: Tensor, turn: Turn | None) -> Tensor | None:
        """The same with its backward pass written out, where there is such a thing."""
        a, m = self.attention, self.mlp
        if a.grouped or not isinstance(m, SwiGLU) or turn is None or turn[0].dim() > 2:
            return None
        if self.training and self.dropout.p > 0:
            return None
        if not cpu.helps(x, a.qkv, a.out, m.gate_up, m.down):
            return None
        parts = (self.norm_1, a.qkv, a.q_norm, a.k_norm, a.out, self.norm_2, m.gate_up, m.down)
        out: Tensor = cpu.ModernBlock.apply(x, x.shape[2] // a.head_width, turn, *(p.weight for p in parts))  # type: ignore[no-untyped-call]
        return out


class Modern(GPT):
    """Every projection back into the residual stream, and the head, start at zero."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        gains, kind = has_gains(config), positions_of(config)
        self.tokens = nn.Embedding(config.vocab_size, config.n_embd)
        self.places = table(kind, config.context, config.n_embd, size=1.0)
        self.rotary = Rotary(config.context, config.n_embd // config.n_head) if kind == "rotary" else None
        self.tokens_norm = nn.Identity() if gains else RMSNorm(config.n_embd, gain=False)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = RMSNorm(config.n_embd, gains)
        self.unembed = nn.Linear(config.n_embd, config.vocab_size, bias=False)

    def initialise(self, seed: int) -> Modern:
        """Norms 1, the token table N(0, 1), matrices N(0, 1/fan-in); head and projections into the stream 0.

        Learned positions begin as sinusoids of the token table's size.
        """
        draw = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            with torch.no_grad():
                if parameter.dim() == 1:
                    parameter.fill_(1.0)
                elif name.endswith(("out.weight", "down.weight", "unembed.weight")):
                    parameter.zero_()
                elif name == "places.weight":
                    parameter.copy_(sinusoids(*parameter.shape))
                else:
                    std = 1.0 if name == "tokens.weight" else parameter.shape[1] ** -0.5
                    parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=draw))
        return self

    @property
    def multiplied(self) -> int:
        """All but the token table and the position table."""
        tables = (self.tokens, self.places)
        return parameter_count(self) - sum(t.weight.numel() for t in tables if isinstance(t, nn.Embedding))

    @property
    def stacks(self) -> dict[str, int]:
        """Queries, keys and values lie in one, or keys and values where heads share them; so do gate and up."""
        names = [name for name, parameter in self.layers.named_parameters(prefix="layers") if parameter.dim() == 2]
        return {name: {"qkv": 3, "kv": 2, "gate_up": 2}.get(name.split(".")[-2], 1) for name in names}

    @property
    def parts(self) -> list[Parts]:
        """The blocks, one after the other."""
        activation = activation_of(self.config)
        found = []
        for block in self.layers:
            a: Any = block.attention
            m: Any = block.mlp
            qkv = (a.q, a.kv) if a.grouped else (a.qkv,)
            up = m.gate_up if activation == "swiglu" else m.up
            found.append(Parts(block.norm_1, qkv, a.q_norm, a.k_norm, a.out, block.norm_2, up, activation, m.down))
        return found

    @property
    def last_norm(self) -> nn.Module | None:
        """Before the head."""
        return self.norm

    @property
    def last(self) -> nn.Module:
        """A matrix of its own."""
        return self.unembed

    def embed(self, ids: Tensor, positions: Tensor | None) -> Tensor:
        """Token table, and position table where there is one; rotary positions enter in attention."""
        x: Tensor = self.tokens_norm(self.tokens(ids))
        if self.places is not None:
            x = x + (self.places.weight[: ids.shape[1]] if positions is None else self.places(positions))
        x = self.dropout(x)
        return x

    def blocks(self, x: Tensor, positions: Tensor | None, attend: Attend | None) -> Tensor:
        """Every block, then the last norm."""
        turn = None if self.rotary is None else self.rotary(x.shape[1], positions)
        for layer in self.layers:
            x = layer(x, turn, attend)
        x = self.norm(x)
        return x
