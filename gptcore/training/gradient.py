"""The gradient of one update, in as many passes as the memory asks for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gptcore.config import Training
from gptcore.model.gpt import GPT
from gptcore.model.loss import IGNORED
from gptcore.model.packed import PackedAttention
from gptcore.training.batches import Batch
from gptcore.training.device import autocast
from gptcore.training.team import ALONE, Team

GPU_PASS_TOKENS = 32_768
CPU_PASS_NUMBERS = 1_800_000
"""Tokens times layers times width of a pass: about 120 MB are kept for the way back. More is hardly faster."""


def pass_tokens(asked: int | None, model: GPT) -> int:
    """`runtime.micro_batch_tokens`, or what it is by default."""
    by_default = GPU_PASS_TOKENS
    if model.device.type == "cpu":
        by_default = CPU_PASS_NUMBERS // (model.config.n_layer * model.config.n_embd)
    return asked or max(1, by_default)


def gradient(
    compiled: Callable[..., Tensor],
    model: GPT,
    batch: Batch,
    config: Training,
    dtype: torch.dtype,
    micro_batch_tokens: int | None,
    team: Team = ALONE,
) -> tuple[Tensor, Tensor]:
    """Leave the clipped gradient of the batch's mean loss in the parameters; returns that loss and the norm before.

    Micro-batches add up sums over the whole batch's count, so their size changes nothing but rounding. So do the
    shares of a team, whose gradients are averaged: each counts as often as there are shares. Both scalars stay on the
    device, which nobody waits for here.
    """
    device, whole = model.device, batch.weight
    loss = torch.zeros((), device=device)
    parts = list(team.share(batch).split(pass_tokens(micro_batch_tokens, model)))
    for number, (inputs, targets, weights, positions) in enumerate(parts, start=1):
        with team.exchanging(last=number == len(parts)):
            with autocast(device, dtype):
                if weights is None:
                    part = compiled(inputs.to(device), targets.to(device)) / whole
                else:  # fine-tuning counts one token in twenty: the head need not see the others
                    places = (targets.flatten() != IGNORED).nonzero()[:, 0]
                    factors = weights.flatten()[places].to(device)
                    counted = (targets.to(device), places.to(device), factors, "sum", *_apart(positions, model))
                    part = compiled(inputs.to(device), *counted) / whole
            (part * team.shares).backward()  # type: ignore[no-untyped-call]
        loss += part.detach()
    norm = team.clip(model, config.grad_clip)
    return team.total(loss), norm


def _apart(positions: Tensor | None, model: GPT) -> tuple[Tensor, PackedAttention] | tuple[None, None]:
    """Positions and attention that keep the examples of a row apart, where it holds several."""
    if positions is None:
        return None, None
    attend = PackedAttention.of(positions, model.config.dropout if model.training else 0.0)
    return positions.to(model.device), attend.to(model.device)
