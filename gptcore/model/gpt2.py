"""GPT-2: pre-norm transformer with learned positions, GELU and a tied head (Radford et al. 2019, section 2.3).

And its neighbours, which are made of the same parts. GPT-1 puts the norms behind the residual additions and none at the
end (Radford et al. 2018, section 4.1). GPT-3 lets every second layer attend within a band (Brown et al. 2020, section
2.1); its queries, keys and values have no biases, like GPT-Neo's.

Parameters are named as in transformers' GPT2Model; the weights of c_attn, c_proj and c_fc are its transposed.
Letters for shapes: gptcore/model/gpt.py.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptcore.config import activation_of, positions_of
from gptcore.model.attention import causal
from gptcore.model.gpt import GPT, Attend, GPTConfig, Parts, parameter_count
from gptcore.model.positions import Rotary, Turn, rotated, sinusoids, table


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_width, self.dropout = layer, config.n_embd // config.n_head, config.dropout
        self.band, bias = config.band(layer), config.bias is not False
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=bias and config.family != "gpt3")
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=bias)

    def forward(self, x: Tensor, turn: Turn | None, attend: Attend | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        rows, length, _ = x.shape
        heads = self.c_attn(x).view(rows, length, 3, -1, self.head_width)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        q, k = rotated(q, turn), rotated(k, turn)
        if attend is None:
            y = causal(q, k, v, self.band, self.dropout if self.training else 0.0)
        else:
            y = attend(self.layer, q, k, v, self.band)
        out: Tensor = self.c_proj(y.transpose(1, 2).flatten(2))
        return out


class MLP(nn.Module):
    """Two linear layers around GELU; `gelu_tanh`, the default, is that of GPT-2's released code."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.approximate = "none" if activation_of(config) == "gelu" else "tanh"
        bias = config.bias is not False
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        out: Tensor = self.c_proj(F.gelu(self.c_fc(x), approximate=self.approximate))
        return out


class Block(nn.Module):
    """Pre-norm: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        bias = config.bias is not False
        self.ln_1, self.attn = nn.LayerNorm(config.n_embd, bias=bias), Attention(config, layer)
        self.ln_2, self.mlp = nn.LayerNorm(config.n_embd, bias=bias), MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, turn: Turn | None, attend: Attend | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.dropout(self.attn(self.ln_1(x), turn, attend))
        x = x + self.dropout(self.mlp(self.ln_2(x)))
        return x


class PostNormBlock(Block):
    """Post-norm: norm(x + attention(x)), then norm(x + mlp(x))."""

    def forward(self, x: Tensor, turn: Turn | None, attend: Attend | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = self.ln_1(x + self.dropout(self.attn(x, turn, attend)))
        x = self.ln_2(x + self.dropout(self.mlp(x)))
        return x


class GPT2(GPT):
    """Its head is the token embedding, transposed."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        kind, post_norm = positions_of(config), config.family == "gpt1"
        self.wpe = table(kind, config.context, config.n_embd, self.std)
        self.rotary = Rotary(config.context, config.n_embd // config.n_head) if kind == "rotary" else None
        self.dropout = nn.Dropout(config.dropout)
        block = PostNormBlock if post_norm else Block
        self.h = nn.ModuleList(block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.Identity() if post_norm else nn.LayerNorm(config.n_embd, bias=config.bias is not False)

    @property
    def std(self) -> float:
        """Of the first weights: GPT-2's 0.02 at its width of 768, as 1/sqrt(n_embd) at others.

        Narrower models would otherwise start, and long stay, with uniform attention.
        """
        return 0.02 * math.sqrt(768 / self.config.n_embd)

    def initialise(self, seed: int) -> GPT2:
        """Biases 0, norms 1, matrices N(0, std), positions as sinusoids of the same size.

        Learned positions that begin as sinusoids let a head attend at a distance from the first update on. That and
        std by width: benchmarks/RESULTS.md, "first weights".
        Projections back into the residual stream are scaled by 1/sqrt(2 n_layer), one over the root of the number of
        residual additions (Radford et al. 2019, section 2.3).
        """
        draw = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            with torch.no_grad():
                if name.endswith("bias"):
                    parameter.zero_()
                elif parameter.dim() == 1:
                    parameter.fill_(1.0)
                elif name == "wpe.weight":
                    parameter.copy_(sinusoids(*parameter.shape) * self.std)
                else:
                    scale = (
                        self.std / math.sqrt(2 * self.config.n_layer) if name.endswith("c_proj.weight") else self.std
                    )
                    parameter.copy_(torch.empty(parameter.shape).normal_(0.0, scale, generator=draw))
        return self

    @property
    def multiplied(self) -> int:
        """All but the position table; the token table stays, being the head."""
        return parameter_count(self) - (self.wpe.weight.numel() if isinstance(self.wpe, nn.Embedding) else 0)

    @property
    def stacks(self) -> dict[str, int]:
        """Queries, keys and values lie in one."""
        names = [name for name, parameter in self.h.named_parameters(prefix="h") if parameter.dim() == 2]
        return {name: 3 if name.endswith("c_attn.weight") else 1 for name in names}

    @property
    def parts(self) -> list[Parts]:
        """The blocks, one after the other."""
        activation, post_norm = activation_of(self.config), self.config.family == "gpt1"
        found = []
        for layer, block in enumerate(self.h):
            a: Any = block.attn
            m: Any = block.mlp
            qkv, band = (a.c_attn,), self.config.band(layer)
            found.append(
                Parts(block.ln_1, qkv, None, None, a.c_proj, block.ln_2, m.c_fc, activation, m.c_proj, band, post_norm)
            )
        return found

    @property
    def last_norm(self) -> nn.Module | None:
        """None behind post-norm blocks."""
        return None if isinstance(self.ln_f, nn.Identity) else self.ln_f

    @property
    def last(self) -> nn.Module:
        """The token table."""
        return self.wte

    def embed(self, ids: Tensor, positions: Tensor | None) -> Tensor:
        """Token table, and position table where there is one."""
        x: Tensor = self.wte(ids)
        if self.wpe is not None:
            x = x + (self.wpe.weight[: ids.shape[1]] if positions is None else self.wpe(positions))
        x = self.dropout(x)
        return x

    def blocks(self, x: Tensor, positions: Tensor | None, attend: Attend | None) -> Tensor:
        """Every block, then the last norm, where there is one."""
        turn = None if self.rotary is None else self.rotary(x.shape[1], positions)
        for block in self.h:
            x = block(x, turn, attend)
        x = self.ln_f(x)
        return x
