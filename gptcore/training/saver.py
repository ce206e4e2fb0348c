"""When a run is saved, and what happens while there is no room."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gptcore.model.gpt import GPT
from gptcore.training.checkpoint import Checkpoints, Progress
from gptcore.training.guard import Guard
from gptcore.training.optimizer import Optimizers
from gptcore.training.rollback import is_due, is_milestone, needed
from gptcore.work import FULL_DISK, Work


@dataclass
class Saver:
    """When to save, and what to do while the disk is full: train on, try again after 1, 2, 4 … updates."""

    checkpoints: Checkpoints
    work: Work
    owed_since: int | None = field(default=None, init=False)
    """The step whose save failed first."""
    next_try: int = field(default=0, init=False)

    def will_save(self, step: int) -> bool:
        """Whether a save is due after an update, or a failed one to be tried again."""
        return is_due(step, self.work.runtime) or (self.owed_since is not None and step >= self.next_try)

    def after_update(
        self, model: GPT, optimizers: Optimizers, guard: Guard, now: Progress, required: bool = False
    ) -> None:
        """Save when required, when due, or when a failed save is to be tried again."""
        if not required and not self.will_save(now.step):
            return
        try:
            position = self.work.metrics.position()
            runtime = self.work.runtime
            back_to = needed({*self.checkpoints.steps(), now.step}, guard.skips(now.step), runtime)
            placed, lasting = replace(now, metrics_position=position), is_milestone(now.step, runtime)
            self.checkpoints.save(model, optimizers, placed, guard, lasting, back_to)
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
