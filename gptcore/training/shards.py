"""Data parallelism for a model that does not fit: each process holds a part of every parameter (Zhao et al. 2023).

On FSDP2: the whole of a block stands in every process only while the block computes. The processes of one machine
share the parameters; several machines hold them once each, so that only gradients travel between machines.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from gptcore.model.gpt import GPT
from gptcore.model.weights import read_tensors
from gptcore.training.checkpoint import SHARDS, Checkpoints, Parts, Progress, Written
from gptcore.training.divided import Divided
from gptcore.training.guard import Guard
from gptcore.training.optimizer import Optimizers
from gptcore.training.shard_files import load_shards, names_in, sealed, write_shards
from gptcore.training.team import Forward
from gptcore.training.team_checkpoint import TeamCheckpoints


class Shards(Divided):
    """A team on fully_shard."""

    def place(self, model: GPT, device: torch.device) -> GPT:
        """Every block by itself, then what is left: the tables, the last norm, the head."""
        names = ("machine", "shard")
        self._mesh = init_device_mesh(device.type, (self.machines, self.local_size), mesh_dim_names=names)
        mesh = self._mesh if self.machines > 1 else self._mesh["shard"]
        self.here = self._mesh["shard"].get_group()
        for block in blocks(model):
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model.to(device)

    def forward(self, model: GPT) -> Forward:
        """The model itself, whose hooks gather and scatter."""
        assert isinstance(model, FSDPModule)
        self._model = model
        return model

    @contextmanager
    def exchanging(self, last: bool) -> Iterator[None]:
        """Gradients of the micro-batches before the last stay here, whole."""
        self._model.set_requires_gradient_sync(last)
        yield

    def checkpoints(self, root: Path, fingerprint: Mapping[str, str], say: Callable[[str], None]) -> Checkpoints:
        """Each writes its part."""
        self.check_agreement(fingerprint)
        return ShardedCheckpoints(root, fingerprint, say, self)

    def as_held_here(self, tensor: Tensor) -> Tensor:
        """A tensor as the processes of this machine share it: the other machines hold the same."""
        if not isinstance(tensor, DTensor):
            return tensor
        shape, stride = tensor.shape, tensor.stride()
        mesh, placements = self._mesh["shard"], tensor.placements[-1:]
        return DTensor.from_local(tensor.to_local(), mesh, placements, run_check=False, shape=shape, stride=stride)


class ShardedCheckpoints(TeamCheckpoints):
    """Model and optimizer in a folder of shards, the rest as one process writes it."""

    team: Shards

    def gather(self, model: GPT, optimizers: Optimizers, progress: Progress) -> tuple[Parts, Written]:
        """1. Shards aside, by all. 2. Synced, digests taken, by all. Collective."""
        shards, team = self.aside(progress) / SHARDS, self.team
        rest: Parts = {"random": self.every_random_state()}
        try:
            team.together(lambda: shards.mkdir(parents=True) if team.writes else None)
            team.together(lambda: write_shards(shards, self._tensors(model, optimizers), team.here))
        except OSError:
            if team.writes:
                shutil.rmtree(shards.parent, ignore_errors=True)
            raise
        sizes = team.gathered((team.machine, sealed(shards, team.local_rank, team.local_size)))
        return rest, {name: size for machine, found in sizes if machine == team.machine for name, size in found.items()}

    def load(self, directory: Path, model: GPT, optimizers: Optimizers, guard: Guard | None) -> None:
        """From shards without ever holding the whole, whatever the number of processes that wrote them."""
        shards = directory / SHARDS
        if not shards.is_dir():
            super().load(directory, model, optimizers, guard)
            return
        parameters, slots = dict(model.named_parameters()), {}
        for key in names_in(shards):
            if key.startswith("optimizer."):
                name, slot = key.removeprefix("optimizer.").rsplit(":", 1)
                slots[f"{name}:{slot}"] = torch.zeros(()) if slot == "step" else torch.zeros_like(parameters[name])
        optimizers.restore(model, slots)
        load_shards(shards, self._tensors(model, optimizers), self.team.here)
        self.restore_own_random_state(read_tensors(directory / "random.safetensors"))
        if guard:
            guard.restore(read_tensors(directory / "guard.safetensors"))

    def _tensors(self, model: GPT, optimizers: Optimizers) -> dict[str, Tensor]:
        named = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        named |= {f"optimizer.{name}": tensor for name, tensor in optimizers.tensors(model).items()}
        return {name: self.team.as_held_here(tensor) for name, tensor in named.items()}


def blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of any family: what its list of modules holds."""
    (stack,) = (child for child in model.children() if isinstance(child, nn.ModuleList))
    return list(stack)
