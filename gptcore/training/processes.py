"""Several processes as a team, on torch.distributed: what they have in common, however they share the model."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gptcore.model.gpt import GPT
from gptcore.shuffle import key_of
from gptcore.training.batches import Batch
from gptcore.training.checkpoint import Checkpoints
from gptcore.training.optimizer import Optimizers
from gptcore.training.team import Team
from gptcore.training.team_checkpoint import TeamCheckpoints

Value = TypeVar("Value")


class Processes(Team):
    """A team of several. torchrun's environment says who this one is; the process group must stand.

    What is agreed upon goes through gloo on the CPU, so a process that waits for another's evaluation burns no GPU.
    """

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.local_rank, self.local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        self.machine, self.machines = self.rank // self.local_size, self.size // self.local_size
        self.shares = self.size
        self.writes = self.local_rank == 0

    def seed(self, seed: int) -> int:
        """Its own for every share: equal masks on different rows would be less noise than asked for."""
        share = self.rank % self.shares
        return seed if share == 0 else key_of(seed, "dropout", share) % (1 << 32)  # torch's CPU generator takes 32 bits

    def share(self, batch: Batch) -> Batch:
        """As many rows for each; where they do not come out even, empty rows fill up."""
        return batch.share(self.rank % self.shares, self.shares)

    def total(self, loss: Tensor) -> Tensor:
        """Summed over the shares."""
        summed = loss.detach().clone()
        dist.all_reduce(summed)
        return summed

    def evaluated(self, evaluate: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Process 0 has all the weights and computes alone; the others wait for its word."""
        return self.told_by_first(evaluate() if self.rank == 0 else {})

    def checkpoints(self, root: Path, fingerprint: Mapping[str, str], say: Callable[[str], None]) -> Checkpoints:
        """Written on every machine by its first process."""
        self.check_agreement(fingerprint)
        return TeamCheckpoints(root, fingerprint, say, self)

    def check_agreement(self, fingerprint: Mapping[str, str]) -> None:
        """ValueError when the machines bring other data, or share the model in other ways. Collective."""
        fingerprint = {**fingerprint, "model sharing (pretrain.parallel)": type(self).__name__}
        for theirs in self.gathered(dict(fingerprint)):
            other = sorted(name for name in theirs if theirs[name] != fingerprint[name])
            if other:
                raise ValueError(f"the machines differ in {', '.join(other)}: give each the same preset and data")

    def state(self, model: GPT, optimizers: Optimizers) -> dict[str, Mapping[str, Tensor]]:
        """The whole tensors of `model` and `optimizer`, where this process writes. Collective."""
        return {"model": model.state_dict(), "optimizer": optimizers.tensors(model)}

    def restore_state(
        self, model: GPT, optimizers: Optimizers, weights: Mapping[str, Tensor], slots: Mapping[str, Tensor]
    ) -> None:
        """Take this process's part of whole tensors."""
        model.load_state_dict(weights)
        optimizers.restore(model, slots)

    def together(self, action: Callable[[], None]) -> None:
        """Their errors meet as numbers."""
        mine: OSError | None = None
        try:
            action()
        except OSError as error:
            mine = error
        number = 0 if mine is None else mine.errno or errno.EIO
        worst = self._largest(number)
        if mine is not None:
            raise mine
        if worst:
            raise OSError(worst, os.strerror(worst))

    def agreed_signal(self, signum: int | None) -> int | None:
        """The largest, where there are two."""
        return self._largest(signum or 0) or None

    def _largest(self, number: int) -> int:
        found = torch.tensor(number)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return int(found)

    def told_by_first(self, value: Value) -> Value:
        """What process 0 has. Collective."""
        held = [value]
        dist.broadcast_object_list(held)
        return held[0]

    def gathered(self, value: Value) -> list[Value]:
        """What each process has, by rank. Collective."""
        held: list[Value] = [value] * self.size
        dist.all_gather_object(held, value)
        return held
