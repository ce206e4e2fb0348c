"""The part of `gptmill plan` about the network: its size, and what training it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gptcore.config import Preset
from gptcore.cost import StageCost
from gptcore.named_sizes import NAMED, PUBLISHED_AS

ROUNDING = 0.005
"""Published numbers of parameters are rounded by up to this share."""


def block(preset: Preset, model: Mapping[str, Any], found: Mapping[str, StageCost], warnings: Sequence[str]) -> str:
    """The lines below the table of stages; ~ marks an estimate."""
    lines = [
        f"model: {_amount(model['parameters'])} parameters, {model['family']}, {model['n_layer']} layers of "
        f"{model['n_embd']}, {model['n_head']} heads, context {model['context']:,}, vocabulary "
        f"{model['vocab_size']:,}{_asked(preset)}{_published(preset, model['parameters'])}",
        f"{'training':<24} {'updates x tokens':>19} {'tokens':>8} {'FLOP':>8} {'memory':>9} {'disk':>9} "
        f"{'expected':>11}",
    ]
    for name, cost in found.items():
        updates = f"{cost.steps:,} x {cost.batch_tokens:,}"
        lines.append(
            f"{name:<24} {updates:>19} {_amount(cost.steps * cost.batch_tokens):>8} {cost.flops:>8.1e} "
            f"{_size(cost.memory_bytes):>9} {_size(cost.disk_bytes):>9} {expected(cost):>11}"
        )
    return "\n".join([*lines, *(f"warning: {line}" for line in warnings)])


def expected(cost: StageCost) -> str:
    """Seconds, minutes, hours or days, `~` before an estimate."""
    if cost.expected_s is None:
        return "?"
    mark = "" if cost.measured else "~"
    for unit, seconds, limit in (("s", 1, 600), ("min", 60, 180 * 60), ("h", 3600, 72 * 3600)):
        if cost.expected_s < limit:
            return f"{mark}{cost.expected_s / seconds:,.1f} {unit}"
    return f"{mark}{cost.expected_s / 86_400:,.1f} d"


def _asked(preset: Preset) -> str:
    """What `pretrain.size` was asked for."""
    dial = preset.pretrain
    if dial.size is None:
        return ""
    budget = f" for {dial.budget_minutes:g} minutes" if dial.budget_minutes else ""
    budget = f" for {_amount(dial.budget_tokens)} tokens" if dial.budget_tokens else budget
    return f"; size {dial.size}{budget}"


def _published(preset: Preset, parameters: int) -> str:
    """Where a named size has other parameters than its name promises: those, and the network that has them."""
    name = preset.pretrain.size
    if name not in NAMED or abs(parameters / NAMED[name].parameters - 1) < ROUNDING:
        return ""
    family, context, vocabulary = PUBLISHED_AS[name]
    return (
        f" ({_amount(NAMED[name].parameters)} as published: family {family}, context {context:,}, vocabulary "
        f"{vocabulary:,})"
    )


def _amount(number: float) -> str:
    """1.33 M."""
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return f"{number:g}"


def _size(number: float) -> str:
    return f"{number / 1e9:,.1f} GB" if number >= 1e9 else f"{number / 1e6:,.0f} MB"
