"""Published sizes by name, and the ladder of shapes that `pretrain.size: auto` climbs."""

from __future__ import annotations

from dataclasses import dataclass

MI = 1_048_576


@dataclass(frozen=True)
class NamedSize:
    """One row of a published table."""

    n_layer: int
    n_head: int
    n_embd: int
    batch_tokens: int
    """Tokens in one update."""
    parameters: float
    """As published, rounded as there."""
    learning_rate: float | None = None
    """Peak of Adam; None where none was published."""
    training_flops: float | None = None
    """FLOP of the whole published training."""
    petaflop_days: float | None = None
    """The same in units of 10^15 x 86,400 FLOP."""


GPT3_TOKENS = 300e9
"""Tokens each size of GPT-3 was trained on (Brown et al. 2020, table 2.1)."""

GPT3 = {
    "gpt3-small": NamedSize(12, 12, 768, MI // 2, 125e6, 6e-4, 2.25e20, 2.60),
    "gpt3-medium": NamedSize(24, 16, 1024, MI // 2, 356e6, 3e-4, 6.41e20, 7.42),
    "gpt3-large": NamedSize(24, 16, 1536, MI // 2, 760e6, 2.5e-4, 1.37e21, 15.8),
    "gpt3-xl": NamedSize(24, 16, 2048, MI, 1320e6, 2e-4, 2.38e21, 27.5),
    "gpt3-2.7b": NamedSize(32, 32, 2560, MI, 2650e6, 1.6e-4, 4.77e21, 55.2),
    "gpt3-6.7b": NamedSize(32, 32, 4096, 2 * MI, 6660e6, 1.2e-4, 1.20e22, 139),
    "gpt3-13b": NamedSize(40, 40, 5120, 2 * MI, 12850e6, 1e-4, 2.31e22, 268),
    "gpt3-175b": NamedSize(96, 96, 12288, 3 * MI, 174_600e6, 0.6e-4, 3.14e23, 3640),
}
"""Brown et al. 2020: shape, batch and rate from table 2.1, parameters and training from table D.1. Batches of "0.5M",
"1M", "2M" and "3.2M" tokens are taken as powers of two and three times one. Two of the table's shapes cannot be:
24 heads of 128 are no 2,048 (XL: 16 are), and 40 of 128 are no 5,140 (13B: they are 5,120). With the values here the
parameters come out as in table D.1, with the printed ones they do not."""

GPT2 = {
    "gpt2-small": NamedSize(12, 12, 768, MI // 2, 124e6),
    "gpt2-medium": NamedSize(24, 16, 1024, MI // 2, 355e6),
    "gpt2-large": NamedSize(36, 20, 1280, MI // 2, 774e6),
    "gpt2-xl": NamedSize(48, 25, 1600, MI // 2, 1558e6),
}
"""Radford et al. 2019, table 2 (layers and widths) and section 2.3 (512 sequences of 1,024); heads and parameters are
those of the released models, the table's counts being too low. No rate was published."""

GPT1 = {"gpt1": NamedSize(12, 12, 768, 64 * 512, 117e6, 2.5e-4)}
"""Radford et al. 2018, section 4.1: 64 sequences of 512 tokens a batch. The number of parameters is the one Radford et
al. 2019 give it in table 2, where it is the smallest; of the released model's 40,478 tokens it is 116.5 M."""

NAMED = {**GPT1, **GPT2, **GPT3}

PUBLISHED_AS = {
    **dict.fromkeys(GPT1, ("gpt1", 512, 40_478)),
    **dict.fromkeys(GPT2, ("gpt2", 1024, 50_257)),
    **dict.fromkeys(GPT3, ("gpt3", 2048, 50_257)),
}
"""Family, context and vocabulary with which a size has its published parameters."""

LADDER = (
    (4, 2, 128),
    (4, 3, 192),
    (6, 4, 256),
    (6, 5, 320),
    (8, 6, 384),
    (8, 8, 512),
    (10, 10, 640),
    (12, 12, 768),
    (16, 16, 1024),
    *((size.n_layer, size.n_head, size.n_embd) for size in list(GPT3.values())[1:]),
)
"""(n_layer, n_head, n_embd), mostly about twice the one before. Heads of 64, as in GPT-2's smallest: at width 128 two
are better than four (benchmarks/RESULTS.md). From 24 layers of 1,024 on GPT-3's shapes."""
