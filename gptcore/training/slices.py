"""Tensor parallelism: each process computes some heads and some of the hidden layer of every block.

Column-wise into a block, row-wise out of it (Shoeybi et al. 2019, section 3): in between, no process needs another's
numbers, so a block speaks twice in each direction. Tables, norms and head stand whole in every process.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import Placement, _StridedShard

from gptcore.model.gpt import GPT
from gptcore.training.divided import Divided
from gptcore.training.layout import own, whole
from gptcore.training.optimizer import Optimizers

OUT_OF_BLOCK = ("c_proj", "out", "down")
"""Projections back into the residual stream, in any family; the other matrices of a block lead in."""
PER_HEAD = ("q_norm.weight", "k_norm.weight")
"""Weights that every head is multiplied with: each process knows its own heads' share of their gradient."""


class Slices(Divided):
    """A team whose every process computes the whole batch, and a part of every block."""

    def __init__(self) -> None:
        super().__init__()
        self.shares = 1

    def place(self, model: GPT, device: torch.device) -> GPT:
        """Cut the matrices of the blocks, each between heads or hidden units."""
        model.to(device)
        mesh = init_device_mesh(device.type, (self.size,))
        for name, pieces in model.stacks.items():
            path = name.removesuffix(".weight")
            linear, (above, _, last) = model.get_submodule(path), path.rpartition(".")
            assert isinstance(linear, nn.Linear)
            sliced = Outward(linear, mesh) if last in OUT_OF_BLOCK else Inward(linear, pieces, mesh)
            setattr(model.get_submodule(above), last, sliced)
        for name, parameter in model.named_parameters():
            if name.endswith(PER_HEAD):
                parameter.register_hook(_summed)  # type: ignore[no-untyped-call]
        return model

    def total(self, loss: Tensor) -> Tensor:
        """Each has computed it all."""
        return loss

    def state(self, model: GPT, optimizers: Optimizers) -> dict[str, Mapping[str, Tensor]]:
        """Gathered tensor by tensor, and kept where this process writes."""

        def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            found = {}
            for name, tensor in tensors.items():
                all_of_it = whole(tensor)
                if self.writes:
                    found[name] = all_of_it.cpu()
            return found

        return {"model": gathered(model.state_dict()), "optimizer": gathered(optimizers.tensors(model))}


class Inward(nn.Module):
    """A linear layer of whose outputs each process computes a part.

    pieces: parts that lie one below the other in its weights, such as queries, keys and values. Each is cut by
    itself, so that a process has all three of its own heads: the part's output looks like a whole one of fewer heads.
    """

    def __init__(self, linear: nn.Linear, pieces: int, mesh: DeviceMesh) -> None:
        super().__init__()
        self.mesh = mesh
        # torch cuts every piece by itself under this private name only.
        cut = Shard(0) if pieces == 1 else _StridedShard(0, split_factor=pieces)
        self.weight = _distributed(linear.weight, mesh, cut)
        self.bias = None if linear.bias is None else _distributed(linear.bias, mesh, cut)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, in), the same everywhere -> (B, T, out / processes)."""
        # Forward nothing happens; backward the gradients of all processes meet.
        x = DTensor.from_local(x, self.mesh, [Replicate()], run_check=False).to_local(grad_placements=[Partial()])
        return F.linear(x, own(self.weight), None if self.bias is None else own(self.bias))


class Outward(nn.Module):
    """A linear layer of whose inputs each process has a part, and whose outputs they add up."""

    def __init__(self, linear: nn.Linear, mesh: DeviceMesh) -> None:
        super().__init__()
        self.mesh = mesh
        self.weight = _distributed(linear.weight, mesh, Shard(1))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, in / processes) -> (B, T, out), the same everywhere."""
        part = DTensor.from_local(F.linear(x, own(self.weight)), self.mesh, [Partial()], run_check=False)
        y = part.redistribute(placements=[Replicate()]).to_local()
        return y if self.bias is None else y + self.bias


def _distributed(parameter: Tensor, mesh: DeviceMesh, cut: Placement) -> nn.Parameter:
    return nn.Parameter(distribute_tensor(parameter.detach(), mesh, [cut], src_data_rank=None))


def _summed(gradient: Tensor) -> Tensor:
    """Over the processes' heads. Collective."""
    gradient = gradient.contiguous().clone()
    dist.all_reduce(gradient)
    return gradient
