"""What a network of a given shape holds and costs: plain arithmetic, no torch.

L layers of width C = n_embd, H heads of D = C / H, T positions, V = vocab_size. A weight is a float32 everywhere; bytes
are bytes, FLOP are floating-point operations. tests/test_sizes.py holds all of it against the real networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

from gptcore.config import Model, activation_of, positions_of
from gptcore.hardware import Device

FLOAT32 = 4
"""Bytes."""
WIDTH = {"float32": 4, "bfloat16": 2}
"""Bytes of a number the forward pass computes with."""
LOGITS_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 26}
"""The loss takes no more."""
SLACK = 1.2
"""What passes by, gradients on their way back and gaps of the allocator, on top of what is kept: docs/sizes.md has the
estimates beside measurements."""


@dataclass(frozen=True)
class Shape:
    """A network before it is built."""

    family: str
    n_layer: int
    n_head: int
    n_embd: int
    context: int
    vocab_size: int
    activation: str | None = None
    bias: bool | None = None
    positions: str | None = None
    n_kv_head: int | None = None
    window: int | None = None

    @classmethod
    def of(cls, model: Model, vocab_size: int) -> Shape:
        """The preset's model section with the tokenizer's vocabulary."""
        return cls(**model.model_dump(exclude={"init", "dropout"}), vocab_size=vocab_size)

    @classmethod
    def like(cls, network: object) -> Shape:
        """That of a `gptcore.model.gpt.GPTConfig`, which has every field of this and more."""
        return cls(**{field.name: getattr(network, field.name) for field in fields(cls)})


@dataclass(frozen=True)
class Count:
    """Trained numbers, by what they do."""

    matrices: int
    """Inside the blocks: what Muon updates."""
    vectors: int
    """Biases and norms."""
    head: int
    """Turns hidden states into logits; a tied one is the token table as well."""
    looked_up: int
    """Tables that nothing is multiplied with."""

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.multiplied + self.looked_up

    @property
    def multiplied(self) -> int:
        """Those a token is multiplied with."""
        return self.matrices + self.vectors + self.head


@dataclass(frozen=True)
class Family:
    """The arithmetic of one architecture."""

    count: Callable[[Shape], Count]
    kept: Callable[[Shape], tuple[int, int]]
    """Numbers a block keeps of each token for the way back: of the residual stream, which stays float32, and others."""


def _classic_count(s: Shape) -> Count:
    """Attention 4 C^2, the MLP 8 C^2; norms two a layer, one at the end; biases eleven and one; a tied head.

    gpt1 has no norm at the end, gpt3 no biases of queries, keys and values.
    """
    c, bias, end = s.n_embd, s.bias is not False, s.family != "gpt1"
    biases = s.n_layer * (8 if s.family == "gpt3" else 11) + end if bias else 0
    vectors = 2 * s.n_layer + end + biases
    return Count(12 * s.n_layer * c * c, vectors * c, s.vocab_size * c, _table(s))


def _table(s: Shape) -> int:
    """Learned positions; the other kinds are computed."""
    return s.context * s.n_embd if positions_of(s) == "learned" else 0


def _classic_kept(s: Shape) -> tuple[int, int]:
    """Two norms' outputs, queries, keys, values, attention's output, the MLP before and behind its GELU.

    With rotary positions queries and keys plain and turned.
    """
    turned = 2 if positions_of(s) == "rotary" else 0
    return 2 * s.n_embd, (2 + 3 + turned + 1 + 4 + 4) * s.n_embd


def _hidden(s: Shape) -> int:
    """SwiGLU's width: 8/3 of the network's, rounded up to 32."""
    return 32 * math.ceil(8 * s.n_embd / 3 / 32)


def _modern_count(s: Shape) -> Count:
    """Attention 4 C^2, or less where heads share keys and values; the MLP; norms of width C twice and of a head's
    twice; an untied head. SwiGLU has three matrices; squared ReLU two of four times the width, and no gains.
    """
    c, table = s.n_embd, s.vocab_size * s.n_embd
    shared = (s.n_kv_head or s.n_head) * (c // s.n_head)
    swiglu = activation_of(s) == "swiglu"
    vectors = s.n_layer * (2 * c + 2 * (c // s.n_head)) + c if swiglu else 0
    mlp = 3 * c * _hidden(s) if swiglu else 8 * c * c
    return Count(s.n_layer * (2 * c * c + 2 * c * shared + mlp), vectors, table, table + _table(s))


def _modern_kept(s: Shape) -> tuple[int, int]:
    """As GPT-2, with normed and turned queries and keys beside the plain ones, and four of SwiGLU's hidden width.

    Of squared ReLU's three. Keys and values that heads share are repeated for attention.
    """
    mlp = 4 * _hidden(s) if activation_of(s) == "swiglu" else 3 * 4 * s.n_embd
    return 2 * s.n_embd, (2 + 3 + 2 + 1 + 1) * s.n_embd + mlp


CLASSIC, MODERN = Family(_classic_count, _classic_kept), Family(_modern_count, _modern_kept)
FAMILIES = {"gpt1": CLASSIC, "gpt2": CLASSIC, "gpt3": CLASSIC, "modern": MODERN}


def count(shape: Shape) -> Count:
    """Trained numbers of a shape."""
    return FAMILIES[shape.family].count(shape)


def flops_per_token(shape: Shape, length: int, head: bool = True) -> int:
    """FLOP of forward and backward, a token, in sequences of `length`; without `head`, of the rest alone.

    6 N + 12 L C length (PaLM, Chowdhery et al. 2022, appendix B), N being what a token is multiplied with.
    """
    found = count(shape)
    return 6 * (found.multiplied - (0 if head else found.head)) + 12 * shape.n_layer * shape.n_embd * length


def optimizer_bytes(shape: Shape, optimizer: str) -> int:
    """AdamW keeps two moments of every number, Muon one of each of its matrices."""
    found = count(shape)
    muons = found.matrices if optimizer == "muon" else 0
    return FLOAT32 * (2 * (found.parameters - muons) + muons)


def checkpoint_bytes(shape: Shape, optimizer: str) -> int:
    """Weights and the optimizer's state."""
    return FLOAT32 * count(shape).parameters + optimizer_bytes(shape, optimizer)


@dataclass(frozen=True)
class Memory:
    """What training holds at its fullest, bytes; torch itself, 0.3 to 0.5 GB, is not in it."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def training_memory(shape: Shape, optimizer: str, tokens: int, dtype: str, device: Device = "cpu") -> Memory:
    """Of passes of so many tokens, a micro-batch. Attention keeps no table of T x T.

    Weights are float32, and once more in bfloat16 where that computes. Muon's directions lie beside the gradients. Of
    the logits of some tokens there are two at once, in float32: themselves and their log-probabilities.
    """
    found = count(shape)
    stream, others = FAMILIES[shape.family].kept(shape)
    kept = shape.n_layer * (FLOAT32 * stream + WIDTH[dtype] * others)
    return Memory(
        weights=FLOAT32 * found.parameters + (WIDTH[dtype] * found.multiplied if dtype != "float32" else 0),
        gradients=FLOAT32 * (found.parameters + (found.matrices if optimizer == "muon" else 0)),
        optimizer=optimizer_bytes(shape, optimizer),
        activations=round(SLACK * tokens * kept),
        logits=round(SLACK * 2 * FLOAT32 * min(tokens * shape.vocab_size, LOGITS_AT_ONCE[device])),
    )


def evaluation_bytes(shape: Shape, optimizer: str, tokens: int, device: Device = "cpu") -> int:
    """What an evaluation in the middle of training holds: no gradients, some logits twice, one block's numbers."""
    stream, others = FAMILIES[shape.family].kept(shape)
    logits = 2 * min(tokens * shape.vocab_size, LOGITS_AT_ONCE[device])
    passing = FLOAT32 * (logits + tokens * (stream + others))
    return checkpoint_bytes(shape, optimizer) + round(SLACK * passing)
