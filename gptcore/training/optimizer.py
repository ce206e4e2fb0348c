"""What updates the weights: AdamW, or Muon for the matrices inside the network and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from gptcore.config import Training
from gptcore.model.gpt import GPT
from gptcore.training.muon import Muon


class Optimizers:
    """Several optimizers, each with parameters of its own, as one."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = parts
        self._groups = [(group, group["lr"]) for part in parts for group in part.param_groups]

    def step(self, rate_share: float, skip: Tensor | None = None) -> None:
        """Update the weights, with this share of each optimizer's peak rate, and forget the gradients.

        skip: a scalar on the device; where it is 1.0 weights and state stay as they are, whatever the gradients hold.
        """
        skipped = False
        if skip is not None and skip.device.type == "cpu":  # nobody waits: the branch is cheaper than the arithmetic
            skipped, skip = bool(skip), None
        for group, peak in self._groups:
            group["lr"] = peak * rate_share
        for part in self.parts:
            part.found_inf = skip  # type: ignore[attr-defined]  # torch's fused AdamW, and our Muon, look for it here
            if not skipped:
                part.step()
            part.zero_grad(set_to_none=True)

    def tensors(self, model: nn.Module) -> dict[str, Tensor]:
        """The state as `<parameter>:<slot>` -> tensor."""
        return {
            f"{name}:{slot}": value
            for name, parameter in model.named_parameters()
            for part in self.parts
            if parameter in part.state
            for slot, value in part.state[parameter].items()
        }

    def restore(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        parameters = dict(model.named_parameters())
        owners = {p: part for part in self.parts for group in part.param_groups for p in group["params"]}
        for key, value in tensors.items():
            name, slot = key.rsplit(":", 1)
            parameter = parameters[name]
            owners[parameter].state[parameter][slot] = value.to(parameter.device)


def build_optimizers(model: GPT, config: Training) -> Optimizers:
    """Fused AdamW (Loshchilov and Hutter 2019), decay on matrices and tables, none on biases and norms.

    With `optimizer: muon` the matrices inside the blocks are Muon's, which decays nothing. Frozen weights are nobody's;
    beside them stand LoRA's factors, which are AdamW's: an update that is made orthogonal has no room in rank 8.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    whole = all(p.requires_grad for p in model.parameters())
    stacks = model.stacks if config.optimizer == "muon" and whole else {}
    rest = [p for name, p in trained.items() if name not in stacks]
    betas = (config.beta1, config.beta2)
    parts: list[torch.optim.Optimizer] = []
    for distributed in (False, True):  # the fused update takes one kind at a time
        kind = [p for p in rest if isinstance(p, DTensor) == distributed]
        if kind:
            groups = [
                {"params": [p for p in kind if p.dim() >= 2], "weight_decay": config.weight_decay},
                {"params": [p for p in kind if p.dim() < 2], "weight_decay": 0.0},
            ]
            parts.append(torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True))
    if stacks:
        matrices = [(p, stacks[name]) for name, p in model.named_parameters() if name in stacks]
        parts.append(Muon(matrices, config.matrix_learning_rate, config.matrix_momentum, config.matrix_turns))
    return Optimizers(parts)
