"""What evaluations say about a run: which was the best, when to stop, how far validation has fallen behind training."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gptcore.config import Training
from gptcore.model.gpt import GPT
from gptcore.training.shared import copied, restore_weights

GAP_WINDOW = 50
"""Updates whose mean loss the validation loss is held against: one batch of 1,024 tokens says little, and the mean of
hundreds lags behind a loss that falls."""


@dataclass(frozen=True)
class GapLimits:
    """Nats by which the validation loss may lie above the training loss; None where nothing follows."""

    warning: float | None = None
    stop: float | None = None


class Watch:
    """Fed with every training loss and every evaluation of one run; `stop` then says why the run should end, if so.

    Its state, with the weights of the best evaluation, is part of every checkpoint. A checkpoint is written before the
    evaluation of its step, and so is the state in it: a resumed run evaluates, and judges, as the first one did.
    """

    def __init__(
        self, config: Training, gap: GapLimits | None, say: Callable[[str], None], device: torch.device
    ) -> None:
        """gap: None where the two losses are not alike, and their difference means nothing."""
        self.device = device
        self.patience, self.keep_best, self.gap, self.say = config.patience, config.keep_best, gap, say
        self.stop: str | None = None
        self.best_step: int | None = None
        self.best_scores: dict[str, float] = {}
        self.best_weights: Mapping[str, Tensor] = {}
        """Whole copies on the CPU; empty without `keep_best`, and before the first evaluation."""
        self._last: dict[str, float] = {}
        self._unimproved = 0
        self._losses: deque[Tensor] = deque(maxlen=GAP_WINDOW)
        self._gap_open = False

    def trained(self, loss: Tensor, skip: Tensor) -> None:
        """Take in the loss of an update, unless it was skipped: scalars on the device, which nobody waits for here."""
        self._losses.append(torch.where(skip > 0, math.nan, loss))

    def _seen(self) -> list[float | None]:
        """The losses of the window; None where the update was skipped."""
        found = torch.stack(list(self._losses)).tolist() if self._losses else []
        return [None if math.isnan(loss) else loss for loss in found]

    def judge(self, scores: Mapping[str, float], step: int, model: GPT) -> dict[str, float]:
        """Take in an evaluation, `val_loss` (nats) among it; returns it with what is to be logged beside it.

        Collective where processes share the weights.
        """
        self._last, beside = dict(scores), {}
        losses = [loss for loss in self._seen() if loss is not None]
        if self.gap is not None and losses:
            gap = beside["generalization_gap"] = scores["val_loss"] - math.fsum(losses) / len(losses)
            self._judge_gap(gap, step, self.gap)
        if scores["val_loss"] < self.best_scores.get("val_loss", math.inf):
            self.best_step, self.best_scores, self._unimproved = step, self._last, 0
            if self.keep_best:
                self.best_weights = copied(model)
        else:
            self._unimproved += 1
            if self._unimproved == self.patience:
                self.stop = f"no val_loss below that of step {self.best_step} in {self.patience} evaluations"
        return {**scores, **beside}

    def _judge_gap(self, gap: float, step: int, limits: GapLimits) -> None:
        is_open = limits.warning is not None and gap > limits.warning
        if is_open and not self._gap_open:
            self.say(
                f"step {step}: val_loss is {gap:.3f} above the training loss (gap_warning {limits.warning}): the model "
                "begins to learn its text by heart; more text, fewer steps or dropout close the gap"
            )
        self._gap_open = is_open
        if limits.stop is not None and gap > limits.stop:
            self.stop = f"val_loss is {gap:.3f} above the training loss (gap_stop {limits.stop})"

    def final(self, model: GPT, step: int) -> dict[str, float]:
        """After the last evaluation, at `step`: the best one's weights into the model, where they are kept; its scores.

        Without `keep_best` the last one's scores, and the model as it is.
        """
        if not self.keep_best or self.best_step in (None, step):
            return dict(self._last)
        restore_weights(model, self.best_weights)
        self.say(
            f"the model of step {self.best_step} is kept (val_loss {self.best_scores['val_loss']:.4f}); "
            f"at step {step} it was {self._last['val_loss']:.4f}"
        )
        return dict(self.best_scores)

    def state(self) -> dict[str, Any]:
        """All but the weights, for JSON."""
        best = {"step": self.best_step, "scores": self.best_scores}
        return {"best": best, "unimproved": self._unimproved, "losses": self._seen(), "gap_open": self._gap_open}

    def restore(self, state: Mapping[str, Any], best_weights: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave, and the weights with it; nothing, where no state was saved yet."""
        if not state:
            return
        self.best_step, self.best_scores = state["best"]["step"], dict(state["best"]["scores"])
        self.best_weights = best_weights
        self._unimproved, self._gap_open = state["unimproved"], state["gap_open"]
        losses = (torch.tensor(math.nan if loss is None else loss) for loss in state["losses"])
        self._losses = deque((loss.to(self.device) for loss in losses), maxlen=GAP_WINDOW)
