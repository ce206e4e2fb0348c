"""The networks by the name of their family."""

from __future__ import annotations

from gptcore.model.gpt import GPT, GPTConfig
from gptcore.model.gpt2 import GPT2
from gptcore.model.modern import Modern

FAMILIES: dict[str, type[GPT]] = {"gpt1": GPT2, "gpt2": GPT2, "gpt3": GPT2, "modern": Modern}


def build(shape: GPTConfig) -> GPT:
    """A network of this shape, its weights not yet drawn."""
    return FAMILIES[shape.family](shape)
