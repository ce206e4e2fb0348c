"""A model of which each process holds a part, as a whole: its gradient's norm, its weights, its optimizers' state."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from gptcore.model.families import build
from gptcore.model.gpt import GPT
from gptcore.training.layout import laid_out, whole
from gptcore.training.optimizer import Optimizers


def clip(model: GPT, limit: float) -> Tensor:
    """Scale the gradient down to a global norm, of parameters distributed and not; the norm before. Collective."""
    kinds: tuple[list[Tensor], list[Tensor]] = ([], [])
    for parameter in model.parameters():
        if parameter.grad is not None:
            kinds[isinstance(parameter.grad, DTensor)].append(parameter)
    norms = [whole(get_total_norm([p.grad for p in kind if p.grad is not None])) for kind in kinds if kind]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    for kind in kinds:
        clip_grads_with_norm_(kind, limit, norm)
    return norm


def plain_copy(model: GPT, keep: bool) -> GPT:
    """The whole model on the CPU, if it is to be kept; else an empty one. Collective."""
    copy = build(model.config)
    plain = copy.state_dict()
    for name, tensor in model.state_dict().items():
        gathered = whole(tensor)
        if keep:
            plain[name].copy_(gathered.reshape(plain[name].shape))
    return copy


def copied(model: GPT) -> dict[str, Tensor]:
    """Every weight as it is now, whole and on the CPU, in every process. Collective."""
    return {name: whole(tensor.detach()).to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def restore_weights(model: GPT, weights: Mapping[str, Tensor]) -> None:
    """Put back what `copied` gave: of each tensor the part that this process holds."""
    for name, tensor in model.state_dict().items():
        tensor.copy_(laid_out(weights[name], like=tensor))


def restore_whole(
    model: GPT, optimizers: Optimizers, weights: Mapping[str, Tensor], slots: Mapping[str, Tensor]
) -> None:
    """Take this process's part of whole tensors."""
    restore_weights(model, weights)
    parameters = dict(model.named_parameters())
    held = {}
    for key, value in slots.items():
        name = key.rsplit(":", 1)[0]
        held[key] = laid_out(value, like=parameters[name]) if value.dim() else value
    optimizers.restore(model, held)
