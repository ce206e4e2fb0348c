"""Loss on text that training never sees."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gptcore.model.gpt import GPT
from gptcore.model.loss import IGNORED
from gptcore.training.batches import Batch, Example, Integers, Windows, collate, fill
from gptcore.training.device import autocast

PASS_TOKENS = {"cpu": 4096, "cuda": 32_768}
"""Tokens in one forward pass."""


def _losses(model: GPT, batches: list[Batch], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Nats (N,) of every target that counts, in float64, and the targets (N,), on the CPU."""
    losses, targets = [], []
    was_training = model.training
    model.eval()
    with torch.no_grad(), autocast(model.device, dtype):
        for batch in batches:
            places = (batch.targets.flatten() != IGNORED).nonzero()[:, 0]
            wanted = batch.targets.to(model.device)
            loss = model(batch.inputs.to(model.device), wanted, places.to(model.device), reduction="none")
            losses.append(loss.double().cpu())
            targets.append(batch.targets.flatten()[places])
    model.train(was_training)
    return torch.cat(losses), torch.cat(targets)


def held_out_windows(shards: Windows, token_bytes: Integers, context: int, most_tokens: int) -> Batch:
    """Windows of at most so many tokens in all, spread evenly over the split.

    ValueError for a split of under two tokens, or without text.
    """
    context = min(context, shards.total - 1)
    if context < 1:
        raise ValueError(f"the validation split holds {shards.total} tokens, too few: raise corpus.validation_share")
    count = (shards.total - 1) // context
    taken = min(count, max(1, most_tokens // context))
    starts = np.arange(taken) * count // taken * context
    ids = torch.from_numpy(np.stack([shards.window(int(s), context + 1) for s in starts]).astype(np.int64))
    if not token_bytes[ids[:, 1:].numpy()].any():
        raise ValueError("the validation split holds no text, only special tokens: raise corpus.validation_share")
    return Batch(ids[:, :-1], ids[:, 1:], taken * context)


def evaluate_text(model: GPT, held_out: Batch, token_bytes: Integers, dtype: torch.dtype) -> dict[str, float]:
    """`val_loss`, nats a token, and `val_bits_per_byte`, which compares models with different tokenizers.

    The bits spent on tokens that stand for text, over that text's bytes (`token_bytes`, one count a token id); tokens
    of no bytes (end of text) count in the loss only.
    """
    passes = held_out.split(PASS_TOKENS[model.device.type])
    losses, targets = _losses(model, [Batch(inputs, wanted, wanted.numel()) for inputs, wanted, *_ in passes], dtype)
    size = torch.from_numpy(token_bytes)[targets]
    bits = losses[size > 0].sum().item() / math.log(2)
    return {"val_loss": losses.mean().item(), "val_bits_per_byte": bits / int(size.sum())}


def evaluate_examples(model: GPT, examples: Sequence[Example], dtype: torch.dtype) -> dict[str, float]:
    """`val_loss`, nats a token of the answers."""
    lengths: Integers = np.array([len(example) for example in examples])
    order = np.argsort(lengths, kind="stable")
    parts = fill(order, lengths, PASS_TOKENS[model.device.type])
    batches = [collate([examples[i] for i in part]) for part in parts]
    losses, _ = _losses(model, batches, dtype)
    return {"val_loss": losses.mean().item()}
