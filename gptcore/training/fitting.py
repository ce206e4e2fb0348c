"""How several processes share a model, where the preset leaves it open: by what fits the memory of a device."""

from __future__ import annotations

from typing import Literal

from gptcore.config import Training
from gptcore.model.gpt import GPTConfig
from gptcore.sizes import FLOAT32, Shape, count, optimizer_bytes
from gptcore.speed import this_machine
from gptcore.work import Work

Sharing = Literal["ddp", "fsdp", "tensor"]

GATHERED_BYTES = 2 * FLOAT32
"""Of a parameter while FSDP has the whole of it: weight and gradient."""
GATHERED_AT_ONCE = 2
"""Blocks of which FSDP has the whole: the one that computes and the one that comes."""
SHARE = 0.7
"""Of the memory, for these; the rest is for activations and logits."""


def sharing(config: Training, shape: GPTConfig, work: Work) -> Sharing:
    """`config.parallel`, with auto resolved. ValueError where the model cannot be shared so."""
    found = config.parallel
    if found == "auto":
        machine = this_machine(work.runtime)
        share = config.devices if machine.device == "cpu" else 1  # a GPU is one process's, a CPU's memory everyone's
        found = fitting(shape, config.optimizer, machine.memory_bytes and machine.memory_bytes / share)
    heads = {"n_head": shape.n_head, **({"n_kv_head": shape.n_kv_head} if shape.n_kv_head else {})}
    uneven = [f"{name} {number}" for name, number in heads.items() if number % config.devices]
    if found == "tensor" and uneven:
        few = ", ".join(uneven)
        raise ValueError(
            f"parallel: tensor gives each process whole heads, and devices {config.devices} does not divide {few}; "
            "take a number of devices that does, or parallel fsdp"
        )
    if found == "tensor" and work.runtime.nodes > 1:
        raise ValueError(f"parallel: tensor stays on one machine, not runtime.nodes {work.runtime.nodes}; take fsdp")
    return found


def fitting(shape: GPTConfig, optimizer: str, memory: float | None) -> Sharing:
    """The simplest that fits devices of so many bytes; ddp where nobody knows how many."""
    if memory is None:
        return "ddp"
    own = Shape.like(shape)
    found, room = count(own), SHARE * memory
    if 2 * FLOAT32 * found.parameters + optimizer_bytes(own, optimizer) <= room:  # weights, gradients, moments
        return "ddp"
    most = max(found.matrices // own.n_layer, found.head + found.looked_up)
    return "fsdp" if GATHERED_AT_ONCE * GATHERED_BYTES * most <= room else "tensor"
