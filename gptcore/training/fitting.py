"""How several processes share a model, where the preset leaves it open: by what fits the memory of a device."""

from __future__ import annotations

import os
from typing import Literal

from gptcore.config import Training
from gptcore.hardware import resolve_device
from gptcore.model.gpt import GPTConfig
from gptcore.work import Work

Sharing = Literal["ddp", "fsdp", "tensor"]

STATE_BYTES = 16
"""Of a parameter: weight, gradient and AdamW's two moments, in float32."""
GATHERED_BYTES = 8
"""Of a parameter while FSDP has the whole of it: weight and gradient."""
GATHERED_AT_ONCE = 2
"""Blocks of which FSDP has the whole: the one that computes and the one that comes."""
SHARE = 0.7
"""Of the memory, for these; the rest is for activations and logits."""


def sharing(config: Training, shape: GPTConfig, work: Work) -> Sharing:
    """`config.parallel`, with auto resolved. ValueError where the model cannot be shared so."""
    found = config.parallel
    if found == "auto":
        found = fitting(shape, memory_bytes(resolve_device(work.runtime), config.devices))
    if found == "tensor" and shape.n_head % config.devices:
        raise ValueError(
            f"parallel: tensor gives each process whole heads; {config.devices} do not divide {shape.n_head}"
        )
    if found == "tensor" and work.runtime.nodes > 1:
        raise ValueError(f"parallel: tensor stays on one machine, not runtime.nodes {work.runtime.nodes}; take fsdp")
    return found


def fitting(shape: GPTConfig, memory: float) -> Sharing:
    """The simplest that fits devices of so many bytes.

    A block has 12 n_embd^2 parameters (attention 4, MLP 8) in every family, but for its norms and biases.
    """
    room = SHARE * memory
    block, tables = 12 * shape.n_embd**2, (2 * shape.vocab_size + shape.context) * shape.n_embd
    if STATE_BYTES * (shape.n_layer * block + tables) <= room:
        return "ddp"
    return "fsdp" if GATHERED_AT_ONCE * GATHERED_BYTES * max(block, tables) <= room else "tensor"


def memory_bytes(device: str, devices: int) -> float:
    """Of the smallest GPU, or of a process's share of the machine."""
    if device == "cpu":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / devices
    import pynvml  # asking torch would take a GPU's memory in a process that trains nothing

    pynvml.nvmlInit()
    try:
        every = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return float(min(pynvml.nvmlDeviceGetMemoryInfo(gpu).total for gpu in every))
    finally:
        pynvml.nvmlShutdown()
