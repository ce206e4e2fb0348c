"""Going back: to the checkpoint before a series of skipped updates, and past the data that it was trained on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from gptcore.config import Runtime, Training
from gptcore.model.gpt import GPT
from gptcore.training.checkpoint import Checkpoints, Progress
from gptcore.training.checkpoint_names import directory_of
from gptcore.training.guard import Diverged, Guard, NotFinite, Skip
from gptcore.training.optimizer import Optimizers
from gptcore.work import Work

ADVICE = "try a lower learning_rate or a longer warm-up"


def good_before(skip: int, steps: Collection[int], runtime: Runtime) -> int | None:
    """The checkpoint, among those of `steps`, to go back to from a skip; None where there is none.

    Those of the schedule come first: one that a signal asked for lies at another step in every run, and a run that was
    stopped would go back elsewhere than one that was not.
    """
    before = [step for step in steps if step < skip]
    return max((step for step in before if is_due(step, runtime)), default=max(before, default=None))


def is_due(step: int, runtime: Runtime) -> bool:
    """Whether the schedule asks for a checkpoint here."""
    return step % runtime.checkpoint_every == 0 or is_milestone(step, runtime)


def is_milestone(step: int, runtime: Runtime) -> bool:
    """Whether the checkpoint of this step is kept for good."""
    return runtime.milestone_every is not None and step % runtime.milestone_every == 0


def needed(steps: Collection[int], skips: Collection[Skip], runtime: Runtime) -> set[int]:
    """The checkpoints that the next series of skips, or one that has begun, may go back to."""
    after = max(steps) + 1
    return {good for skip in (*(s.step for s in skips), after) if (good := good_before(skip, steps, runtime))}


def go_back(
    model: GPT,
    optimizers: Optimizers,
    guard: Guard,
    checkpoints: Checkpoints,
    now: Progress,
    config: Training,
    work: Work,
) -> Progress:
    """Restore the last state before the skips that the window holds; its progress, with the data since passed over.

    A kill at any instant changes nothing: until the next checkpoint stands, a resumed run meets the same data, and goes
    back the same way. Raises Diverged where the run may not, or cannot, go back.
    """
    skips, skipped = guard.skips(now.step), guard.skipped
    seen = f"{skips[0]}; {len(skips)} of the last {min(now.step, guard.size)} updates were skipped"
    advice = ADVICE if not skips[0].finite else f"{ADVICE}, or set spike_z higher, or to null"
    error = Diverged if all(skip.finite for skip in skips) else NotFinite
    good = good_before(skips[0].step, checkpoints.steps(), work.runtime)
    if good is None:
        raise error(f"{seen}, and there is no checkpoint yet from before; {advice}")
    if now.rollbacks >= config.most_rollbacks:
        kept = f"the last good checkpoint is {directory_of(checkpoints.root, good)}"
        raise error(f"{seen}, and the run went back {now.rollbacks} times already; {kept}; {advice}")
    checkpoints.drop_after(good)
    before = checkpoints.restore(model, optimizers, guard)
    if before is None:
        raise error(f"{seen}, and no checkpoint from before is whole; {advice}")
    work.metrics.rewind(before.metrics_position)
    guard.begin_again(skipped)
    over = now.step - before.step
    work.say(f"{seen}: back to the checkpoint of step {before.step}, and {over} batches are passed over")
    return replace(before, passed_over=now.passed_over + over, rollbacks=now.rollbacks + 1)
