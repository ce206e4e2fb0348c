"""AdamW, and its state by parameter name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gptcore.config import Training


def build_optimizer(model: nn.Module, config: Training) -> torch.optim.AdamW:
    """Fused AdamW (Loshchilov and Hutter 2019); decay on matrices and embeddings, none on biases and norms."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state as `<parameter>:<slot>` -> tensor."""
    return {
        f"{name}:{slot}": value
        for name, parameter in model.named_parameters()
        for slot, value in optimizer.state[parameter].items()
    }


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        name, slot = key.rsplit(":", 1)
        optimizer.state[parameters[name]][slot] = value.to(parameters[name].device)
