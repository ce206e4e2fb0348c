"""The gradient of one update, in as many passes as the memory asks for."""

from __future__ import annotations

from collections.abc import Callable

import torch

from gptcore.config import Training
from gptcore.model.gpt import GPT, IGNORED
from gptcore.training.batches import Batch
from gptcore.training.device import autocast
from gptcore.training.team import ALONE, Team

GPU_MICRO_BATCH_TOKENS = 32_768


def gradient(
    compiled: Callable[..., torch.Tensor],
    model: GPT,
    batch: Batch,
    config: Training,
    dtype: torch.dtype,
    micro_batch_tokens: int | None,
    team: Team = ALONE,
) -> tuple[float, float]:
    """Leave the clipped gradient of the batch's mean loss in the parameters; returns that loss and the norm before.

    Micro-batches add up sums over the whole batch's count, so their size changes nothing but rounding. So do the
    shares of a team, whose gradients are averaged: each counts as often as there are shares.
    """
    device, whole = model.device, batch.weight
    if micro_batch_tokens is None and device.type == "cuda":
        micro_batch_tokens = GPU_MICRO_BATCH_TOKENS
    loss = torch.zeros((), device=device)
    parts = list(team.share(batch).split(micro_batch_tokens))
    for number, (inputs, targets, weights) in enumerate(parts, start=1):
        with team.exchanging(last=number == len(parts)):
            with autocast(device, dtype):
                if weights is None:
                    part = compiled(inputs.to(device), targets.to(device), reduction="sum") / whole
                else:  # fine-tuning counts one token in twenty: the head need not see the others
                    places = (targets.flatten() != IGNORED).nonzero()[:, 0]
                    losses = compiled(inputs.to(device), targets.to(device), places.to(device), reduction="none")
                    part = (losses * weights.flatten()[places].to(device)).sum() / whole
            (part * team.shares).backward()  # type: ignore[no-untyped-call]
        loss += part.detach()
    norm = team.clip(model, config.grad_clip)
    return team.total(loss).item(), norm.item()
