"""GPT-2: pre-norm transformer with learned positions, GELU and a tied head (Radford et al. 2019, section 2.3).

Parameters are named as in transformers' GPT2Model; the weights of c_attn, c_proj and c_fc are its transposed.
Letters for shapes: gptcore/model/gpt.py.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptcore.model.gpt import GPT, Attend, GPTConfig, parameter_count


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_width, self.dropout = layer, config.n_embd // config.n_head, config.dropout
        bias = config.bias is not False
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=bias)

    def forward(self, x: Tensor, attend: Attend | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        rows, length, _ = x.shape
        heads = self.c_attn(x).view(rows, length, 3, -1, self.head_width)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        if attend is None:
            p = self.dropout if self.training else 0.0
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        else:
            y = attend(self.layer, q, k, v)
        out: Tensor = self.c_proj(y.transpose(1, 2).flatten(2))
        return out


class MLP(nn.Module):
    """Two linear layers around GELU; `gelu_tanh`, the default, is that of GPT-2's released code."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.approximate = "none" if config.activation == "gelu" else "tanh"
        bias = config.bias is not False
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        out: Tensor = self.c_proj(F.gelu(self.c_fc(x), approximate=self.approximate))
        return out


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        bias = config.bias is not False
        self.ln_1, self.attn = nn.LayerNorm(config.n_embd, bias=bias), Attention(config, layer)
        self.ln_2, self.mlp = nn.LayerNorm(config.n_embd, bias=bias), MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, attend: Attend | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.dropout(self.attn(self.ln_1(x), attend))
        x = x + self.dropout(self.mlp(self.ln_2(x)))
        return x


class GPT2(GPT):
    """Its head is the token embedding, transposed."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.context, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, bias=config.bias is not False)

    def initialise(self, seed: int) -> GPT2:
        """Biases 0, norms 1, matrices N(0, std), positions as sinusoids of the same size.

        std is GPT-2's 0.02 at its width of 768 and grows as 1/sqrt(n_embd) for narrower models, whose attention would
        otherwise start, and long stay, uniform. Learned positions that begin as sinusoids let a head attend at a
        distance from the first update on. Both together: benchmarks/RESULTS.md, "first weights".
        Projections back into the residual stream are scaled by 1/sqrt(2 n_layer), one over the root of the number of
        residual additions (Radford et al. 2019, section 2.3).
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
    def head(self) -> Tensor:
        """The token table."""
        return self.wte.weight

    @property
    def multiplied(self) -> int:
        """All but the position table; the token table stays, being the head."""
        return parameter_count(self) - self.wpe.weight.numel()

    @property
    def stacks(self) -> dict[str, int]:
        """Queries, keys and values lie in one."""
        names = [name for name, parameter in self.h.named_parameters(prefix="h") if parameter.dim() == 2]
        return {name: 3 if name.endswith("c_attn.weight") else 1 for name in names}

    def embed(self, ids: Tensor, positions: Tensor | None) -> Tensor:
        """Token table plus position table."""
        places = self.wpe.weight[: ids.shape[1]] if positions is None else self.wpe(positions)
        x: Tensor = self.dropout(self.wte(ids) + places)
        return x

    def blocks(self, x: Tensor, positions: Tensor | None, attend: Attend | None) -> Tensor:
        """Every block, then the last norm."""
        for block in self.h:
            x = block(x, attend)
        x = self.ln_f(x)
        return x


def sinusoids(length: int, width: int) -> Tensor:
    """Sinusoidal positions (length, width) of mean square 1 (Vaswani et al. 2017, section 3.5, times root two)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))  # (width/2,)
    angles = torch.arange(length)[:, None] * rates  # (length, width/2)
    return math.sqrt(2) * torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]
