"""When a run is saved, and what happens while there is no room."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gptcore.model.gpt import GPT
from gptcore.training.checkpoint import Checkpoints, Progress
from gptcore.training.optimizer import Optimizers
from gptcore.work import FULL_DISK, Work


@dataclass
class Saver:
    """When to save, and what to do while the disk is full: train on, try again after 1, 2, 4 … updates."""

    checkpoints: Checkpoints
    work: Work
    owed_since: int | None = field(default=None, init=False)
    """The step whose save failed first."""
    next_try: int = field(default=0, init=False)

    def after_update(self, model: GPT, optimizers: Optimizers, now: Progress, required: bool) -> None:
        """Save when required, when due, or when a failed save is to be tried again."""
        due = required or now.step % self.work.runtime.checkpoint_every == 0
        if not due and (self.owed_since is None or now.step < self.next_try):
            return
        try:
            position = self.work.metrics.position()
            self.checkpoints.save(model, optimizers, replace(now, metrics_position=position))
        except OSError as error:
            if error.errno not in FULL_DISK:
                raise
            if self.owed_since is None:
                self.owed_since = now.step
                kept = self.checkpoints.latest()
                self.work.say(
                    f"no room for the checkpoint of step {now.step} ({error.strerror}); training goes on and tries "
                    f"again; last good one: {kept.name if kept else 'none'}; free space under {self.checkpoints.root}"
                )
            self.next_try = now.step + max(1, now.step - self.owed_since)
        else:
            if self.owed_since is not None:
                self.work.say(f"checkpoint of step {now.step} saved; there is room again")
            self.owed_since = None
