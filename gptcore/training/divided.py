"""Several processes of which each holds a part of the model: what is the same however it is cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from gptcore.model.gpt import GPT
from gptcore.training.optimizer import Optimizers
from gptcore.training.processes import Processes
from gptcore.training.shared import clip, plain_copy, restore_whole


class Divided(Processes):
    """A team that needs every process for a pass."""

    def clip(self, model: GPT, limit: float) -> Tensor:
        """Each holds a part of the gradient."""
        return clip(model, limit)

    def evaluated(self, evaluate: Callable[[], dict[str, float]]) -> dict[str, float]:
        """All compute the same."""
        return self.told_by_first(evaluate())

    def restore_state(
        self, model: GPT, optimizers: Optimizers, weights: Mapping[str, Tensor], slots: Mapping[str, Tensor]
    ) -> None:
        """From what one process, or another kind of team, has written."""
        restore_whole(model, optimizers, weights, slots)

    def whole(self, model: GPT) -> GPT:
        """A copy on the CPU, tensor by tensor."""
        return plain_copy(model, keep=self.writes)
