"""Checkpoints of several processes: all stop at one update, one process on each machine writes, or each its part."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from gptcore.model.gpt import GPT
from gptcore.training.checkpoint import (
    Checkpoints,
    Parts,
    Progress,
    Written,
    random_states,
    remove,
    restore_random_states,
    state_tensors,
)
from gptcore.training.checkpoint_names import committed, damage, directory_of, step_of
from gptcore.training.guard import Guard
from gptcore.training.optimizer import Optimizers

if TYPE_CHECKING:
    from gptcore.training.processes import Processes


class TeamCheckpoints(Checkpoints):
    """The checkpoints of a team's run: the same files as one process leaves, with every process's random state."""

    def __init__(self, root: Path, fingerprint: Mapping[str, str], say: Callable[[str], None], team: Processes) -> None:
        self.team = team
        if team.writes:
            super().__init__(root, fingerprint, say)
        else:
            self.root, self.fingerprint, self.say = root, dict(fingerprint), say

    def gather(self, model: GPT, optimizers: Optimizers, progress: Progress) -> tuple[Parts, Written]:
        """Whole tensors, where this process writes. Collective."""
        return {**self.team.state(model, optimizers), "random": self.every_random_state()}, {}

    def commit(
        self,
        progress: Progress,
        tensors: Parts,
        written: Written,
        milestone: bool = False,
        needed: Collection[int] = (),
    ) -> None:
        """Where this process writes; OSError in every process when the disk of one is full. Collective."""
        commit = partial(super().commit, progress, tensors, written, milestone, needed)
        self.team.together(lambda: commit() if self.team.writes else None)

    def restore(self, model: GPT, optimizers: Optimizers, guard: Guard | None = None) -> Progress | None:
        """Load the newest checkpoint that every machine has whole; None when there is none. Collective.

        A newer one, which a kill kept from another machine, is removed. ValueError when it belongs to other data, or
        when a machine lacks what the others have.
        """
        while (step := self._newest_of_all()) is not None:
            directory = directory_of(self.root, step)
            if all(self.team.gathered(not self.team.writes or self.holds(directory))):
                break
        else:
            return None
        if self.team.writes:
            for newer in (d for d in committed(self.root) if step_of(d) > step):
                self.say(f"checkpoint {newer.name} is not on every machine; {directory.name} is used")
                remove(newer)
        progress = self.progress(directory)
        self.load(directory, model, optimizers, guard)
        return progress

    def steps(self) -> list[int]:
        """Of the checkpoints that every machine has, the newest first. Collective."""
        every = self.team.gathered(super().steps() if self.team.writes else None)
        return sorted(set.intersection(*(set(steps) for steps in every if steps is not None)), reverse=True)

    def drop_after(self, step: int) -> None:
        """Remove what is newer, on every machine, before anyone goes on. Collective."""
        newer = super().drop_after
        self.team.together(lambda: newer(step) if self.team.writes else None)

    def load(self, directory: Path, model: GPT, optimizers: Optimizers, guard: Guard | None) -> None:
        """Take this process's part of a checkpoint's tensors, however many processes wrote it."""
        tensors = state_tensors(directory)
        self.team.restore_state(model, optimizers, tensors["model"], tensors["optimizer"])
        self.restore_own_random_state(tensors["random"])
        if guard:
            guard.restore(tensors["guard"])

    def restore_own_random_state(self, states: Mapping[str, Tensor]) -> None:
        """Of as many processes as wrote; a process beyond them begins from its seed."""
        own = {key.split(":")[0]: state for key, state in states.items() if _owner(key) == self.team.rank}
        if own:
            restore_random_states(own)

    def _newest_of_all(self) -> int | None:
        """The newest step that every machine has, by the look of it."""
        mine = {step_of(d) for d in committed(self.root) if damage(d) is None} if self.team.writes else None
        every = [steps for steps in self.team.gathered(mine) if steps is not None]
        common = set.intersection(*every)
        if not common and max(map(len, every)) > 1:  # one alone is the first, which a kill kept from the others
            raise ValueError(
                f"the machines' checkpoints have no step in common: {[sorted(steps) for steps in every]}; "
                f"copy {self.root} from one to the others, or remove it on all to start over"
            )
        return max(common, default=None)

    def every_random_state(self) -> dict[str, Tensor]:
        """By device, and for the processes after the first by rank: `cpu`, `cpu:1`."""
        every = self.team.gathered(random_states())
        return {f"{key}:{r}" if r else key: s for r, states in enumerate(every) for key, s in states.items()}


def _owner(key: str) -> int:
    """The rank whose state this is."""
    return int(key.partition(":")[2] or 0)
