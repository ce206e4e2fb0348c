"""What every family has in common: the shape, the head, the loss. The families stand in files of their own.

B rows, T positions, C = n_embd, V = vocab_size, H heads of D = C / H.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch.nn.functional as F
from torch import Tensor, device, nn

from gptcore import config
from gptcore.model.loss import each_loss, summed_loss
from gptcore.model.positions import Rotary


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
    activation: str | None = None
    bias: bool | None = None
    positions: str | None = None
    n_kv_head: int | None = None
    window: int | None = None

    def __post_init__(self) -> None:
        if self.family not in list(config.CONTEXT_LIMITS):
            raise ValueError(f"family {self.family!r} is not one of {sorted(config.CONTEXT_LIMITS)}")
        needed = {name: getattr(self, name) for name in ("n_layer", "n_head", "n_embd", "context", "vocab_size")}
        given = {name: value for name in ("n_kv_head", "window") if (value := getattr(self, name)) is not None}
        for name, value in {**needed, **given}.items():
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} {value!r} is not a positive whole number")
        if self.bias is not None and type(self.bias) is not bool:
            raise ValueError(f"bias {self.bias!r} is neither true nor false")
        config.check_shape(self)
        if type(self.dropout) not in (int, float) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout!r} is not a number in [0, 1)")

    def band(self, layer: int) -> int | None:
        """Tokens that a layer looks back, itself among them; None for all (Brown et al. 2020, section 2.1)."""
        return (self.window or config.BAND) if self.family == "gpt3" and layer % 2 else None

    @classmethod
    def of(cls, model: config.Model, vocab_size: int) -> GPTConfig:
        """The preset's model section with the tokenizer's vocabulary."""
        return cls(**model.model_dump(exclude={"init"}), vocab_size=vocab_size)


@dataclass(frozen=True)
class Parts:
    """What a block is made of: norms and linear layers, some of which may be wrapped, and what stands between them."""

    norm_1: Any
    qkv: tuple[Any, ...]
    """Queries, keys and values, their outputs one after the other."""
    q_norm: Any
    """Of each head; None without."""
    k_norm: Any
    out: Any
    norm_2: Any
    up: Any
    activation: str
    down: Any
    band: int | None = None
    post_norm: bool = False
    """Norms stand behind the sums."""


class Attend(Protocol):
    """How queries meet keys: within the sequence, or with those a cache remembers."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, band: int | None) -> Tensor:
        """(B, H, T, D), keys and values (B, H_kv, T, D) -> (B, H, T, D); `band` as `GPTConfig.band`."""
        ...


class GPT(nn.Module, ABC):
    """A language model: token ids in, logits of the next token out."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.rotary: Rotary | None = None
        self.times_head: Callable[[Tensor], Tensor] | None = None
        """A product with `head` that `logits` takes instead of its own (gptcore/model/int8.py)."""

    @abstractmethod
    def initialise(self, seed: int) -> GPT:
        """Draw the first weights, on the CPU, so that every device starts equal."""

    @abstractmethod
    def embed(self, ids: Tensor, positions: Tensor | None) -> Tensor:
        """Ids (B, T) -> the residual stream that the first block reads (B, T, C)."""

    @abstractmethod
    def blocks(self, x: Tensor, positions: Tensor | None, attend: Attend | None) -> Tensor:
        """The residual stream (B, T, C) -> last hidden states (B, T, C)."""

    @property
    def head(self) -> Tensor:
        """The weights (V, C) that turn a hidden state into logits."""
        weight: Tensor = self.last.weight
        return weight

    @property
    @abstractmethod
    def multiplied(self) -> int:
        """Trained numbers that a token is multiplied with; tables that are only looked up do not count."""

    @property
    @abstractmethod
    def stacks(self) -> dict[str, int]:
        """The matrices inside the blocks by name, and how many lie in each parameter, one below the other."""

    @property
    @abstractmethod
    def parts(self) -> list[Parts]:
        """The blocks, one after the other."""

    @property
    @abstractmethod
    def last_norm(self) -> nn.Module | None:
        """Before the head."""

    @property
    @abstractmethod
    def last(self) -> Any:
        """The module whose weight is the head."""

    @property
    def device(self) -> device:
        """Where the weights are."""
        return self.head.device

    def hidden(self, ids: Tensor, positions: Tensor | None = None, attend: Attend | None = None) -> Tensor:
        """Ids (B, T) -> last hidden states (B, T, C). Without `positions` (B, T) they count from 0.

        Raises ValueError when T exceeds the context; with positions, rows may hold several sequences end to end.
        """
        length = ids.shape[1]
        if positions is None and length > self.config.context:
            raise ValueError(f"a sequence of {length} tokens exceeds the model's context of {self.config.context}")
        return self.blocks(self.embed(ids, positions), positions, attend)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., C) -> (..., V)."""
        return F.linear(hidden, self.head) if self.times_head is None else self.times_head(hidden)

    def forward(
        self,
        ids: Tensor,
        targets: Tensor | None = None,
        places: Tensor | None = None,
        weights: Tensor | None = None,
        reduction: Literal["sum", "none"] = "sum",
        positions: Tensor | None = None,
        attend: Attend | None = None,
    ) -> Tensor:
        """Logits (B, T, V) of ids (B, T); with targets (B, T) their cross-entropy in nats instead.

        Targets of IGNORED do not count. `places` (N,) are the flat indices (into B*T) of those that do: with it the
        head computes only them. sum: one number, every loss times its weight in `weights` (N,), 1 without;
        none: one loss a place (N,).
        """
        x = self.hidden(ids, positions, attend)
        if targets is None:
            return self.logits(x)
        x, targets = x.flatten(0, 1), targets.flatten()  # (B*T, C), (B*T,)
        if places is not None:
            x, targets = x[places], targets[places]
        return summed_loss(x, self.head, targets, weights) if reduction == "sum" else each_loss(x, self.head, targets)


def parameter_count(model: nn.Module) -> int:
    """All trained numbers; a tied head counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def flops_per_token(model: GPT, length: int) -> int:
    """Floating-point operations of forward and backward, a token, in sequences of `length`.

    6 N + 12 n_layer n_embd length (PaLM, Chowdhery et al. 2022, appendix B), N being `model.multiplied`.
    """
    return 6 * model.multiplied + 12 * model.config.n_layer * model.config.n_embd * length
