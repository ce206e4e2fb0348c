"""The gradient of one update, in as many passes as the memory asks for."""

from __future__ import annotations

from collections.abc import Callable

import torch

from gptcore.config import Training
from gptcore.model.gpt import GPT
from gptcore.model.loss import IGNORED
from gptcore.model.packed import PackedAttention
from gptcore.training.batches import Batch
from gptcore.training.device import autocast

GPU_MICRO_BATCH_TOKENS = 32_768


def gradient(
    compiled: Callable[..., torch.Tensor],
    model: GPT,
    batch: Batch,
    config: Training,
    dtype: torch.dtype,
    micro_batch_tokens: int | None,
) -> tuple[float, float]:
    """Leave the clipped gradient of the batch's mean loss in the parameters; returns that loss and the norm before.

    Micro-batches add up sums over the whole batch's count, so their size changes nothing but rounding.
    """
    device, whole = model.device, batch.weight
    if micro_batch_tokens is None and device.type == "cuda":
        micro_batch_tokens = GPU_MICRO_BATCH_TOKENS
    loss = torch.zeros((), device=device)
    for inputs, targets, weights, positions in batch.split(micro_batch_tokens):
        with autocast(device, dtype):
            if weights is None:
                part = compiled(inputs.to(device), targets.to(device)) / whole
            else:  # fine-tuning counts one token in twenty: the head need not see the others
                places = (targets.flatten() != IGNORED).nonzero()[:, 0]
                shares = weights.flatten()[places].to(device)
                apart = _apart(positions, model)
                part = compiled(inputs.to(device), targets.to(device), places.to(device), shares, "sum", *apart) / whole
        part.backward()  # type: ignore[no-untyped-call]
        loss += part.detach()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
    return loss.item(), norm.item()


def _apart(positions: torch.Tensor | None, model: GPT) -> tuple[torch.Tensor, PackedAttention] | tuple[None, None]:
    """Positions and attention that keep the examples of a row apart, where it holds several."""
    if positions is None:
        return None, None
    attend = PackedAttention.of(positions, model.config.dropout if model.training else 0.0)
    return positions.to(model.device), attend.to(model.device)
