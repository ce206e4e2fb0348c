"""Who trains one model: this process alone, or several that stay in step.

Every process of a team makes the same calls in the same order, and each call that speaks to the others says so. One
process is a team too, so that the loop, the gradient and the stages know no other case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gptcore.model.gpt import GPT
from gptcore.training.batches import Batch
from gptcore.training.checkpoint import Checkpoints
from gptcore.work import MetricLog, Metrics, Work

Forward = Callable[..., Tensor]


class Team:
    """One process: it does everything itself and asks nobody."""

    rank = 0
    """This process's number, from 0."""
    size = 1
    """Processes in all."""
    shares = 1
    """Parts into which a batch is cut."""
    writes = True
    """Whether this process writes the stage's files: one on each machine does."""

    def place(self, model: GPT, device: torch.device) -> GPT:
        """The model with its weights, or this process's part of them, on the device."""
        return model.to(device)

    def forward(self, model: GPT) -> Forward:
        """What computes the loss, so that its gradient reaches every process."""
        return model

    def seed(self, seed: int) -> int:
        """What this process's dropout begins from."""
        return seed

    def share(self, batch: Batch) -> Batch:
        """The rows of a batch that this process computes."""
        return batch

    def exchanging(self, last: bool) -> AbstractContextManager[None]:
        """Around a micro-batch: gradients are exchanged with the last one only."""
        return nullcontext()

    def total(self, loss: Tensor) -> Tensor:
        """The sum of all shares' losses. Collective."""
        return loss

    def clip(self, model: GPT, limit: float) -> Tensor:
        """Scale the gradient down to a global norm; returns the norm before. Collective."""
        return torch.nn.utils.clip_grad_norm_(model.parameters(), limit)

    def evaluated(self, evaluate: Callable[[], dict[str, float]]) -> dict[str, float]:
        """The scores, the same for every process. Collective."""
        return evaluate()

    def checkpoints(self, root: Path, fingerprint: Mapping[str, str], say: Callable[[str], None]) -> Checkpoints:
        """Where the run's state is kept. Collective, and so are its save and restore."""
        return Checkpoints(root, fingerprint, say)

    def whole(self, model: GPT) -> GPT:
        """The model with all its weights; only where `writes` need they be right. Collective."""
        return model

    # What a stage's workspace asks of the processes that share it.

    def together(self, action: Callable[[], None]) -> None:
        """Do it here; an OSError of any process is raised in all, so that none goes on alone. Collective."""
        action()

    def agreed_signal(self, signum: int | None) -> int | None:
        """The signal that any process has received. Collective."""
        return signum


ALONE = Team()


class SharedLog(MetricLog):
    """A metric log of which one process on each machine is the writer, and the others keep its rhythm."""

    def __init__(self, path: Path, team: Team) -> None:
        self.team, self.path = team, path
        if team.writes:
            super().__init__(path)

    def append(self, metrics: Metrics, step: int) -> None:
        """Add one line, where this process writes."""
        if self.team.writes:
            super().append(metrics, step)

    def position(self) -> int:
        """Bytes so far, 0 where another writes; a full disk of one stops the save of all. Collective."""
        found = 0

        def ask() -> None:
            nonlocal found
            found = super(SharedLog, self).position() if self.team.writes else 0

        self.team.together(ask)
        return found

    def rewind(self, position: int) -> None:
        """Forget what was logged after a checkpoint."""
        if self.team.writes:
            super().rewind(position)

    def close(self) -> None:
        """Close the file, where this process has it open."""
        if self.team.writes:
            super().close()


@dataclass
class Member(Work):
    """A stage's workspace as one process of a team sees it.

    Interrupts concern all: `interrupted` and `stop_if_interrupted` are collective, and give every process one answer.
    """

    team: Team = ALONE

    def __post_init__(self) -> None:
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.metrics = SharedLog(self.directory / "metrics.jsonl", self.team)
        self._pending: int | None = None
        self._deferring = False
        self._received: int | None = None

    def receive(self, signum: int) -> None:
        """A signal for the team has reached this process; it is honoured at the next step boundary."""
        self._received = signum

    @property
    def interrupted(self) -> bool:
        """Whether a signal has reached any of the processes. Collective."""
        if self._pending is None:
            self._pending = self.team.agreed_signal(self._received)
        return self._pending is not None

    def stop_if_interrupted(self) -> None:
        """Raise Interrupted in every process, if a signal has reached any. Collective."""
        if self.interrupted:
            super().stop_if_interrupted()


def team_of(work: Work) -> Team:
    """The team that a workspace belongs to."""
    return work.team if isinstance(work, Member) else ALONE
