"""A micro-batch that does not fit the memory is halved, and the same update tried again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gptcore.config import Training
from gptcore.model.gpt import GPT
from gptcore.training.batches import Batch
from gptcore.training.checkpoint import random_states, restore_random_states
from gptcore.training.gradient import gradient, pass_tokens
from gptcore.training.team import ALONE, Team
from gptcore.work import Work

SAID = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "std::bad_alloc")
"""What a RuntimeError of torch says when memory is what it lacks: its allocator, cuBLAS, C++."""


class TooLarge(RuntimeError):
    """Not even one sequence at a time fits the memory, or a process of several ran out of it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it was memory that was lacking."""
    lacking = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return lacking or (isinstance(error, RuntimeError) and any(said in str(error) for said in SAID))


class Passes:
    """Gradients in passes that fit. Micro-batches add up, so that the mathematics of an update stays what it was."""

    def __init__(self, name: str, tokens: int | None, work: Work, team: Team = ALONE) -> None:
        self.name, self.tokens, self._work, self._team = name, tokens, work, team
        self.found: int | None = None
        """Tokens in a pass, once it was halved."""

    def begin_with(self, found: int | None) -> None:
        """What an earlier part of the run found to fit."""
        if found is not None:
            self.found = self.tokens = min(found, self.tokens or found)

    def gradient(
        self,
        compiled: Callable[..., Tensor],
        model: GPT,
        batch: Batch,
        config: Training,
        dtype: torch.dtype,
        step: int,
    ) -> tuple[Tensor, Tensor]:
        """As `gptcore.training.gradient.gradient`; TooLarge when a single sequence does not fit.

        Where several train, none can try again alone, and what does not fit is TooLarge at once.
        """
        while True:
            states = random_states()
            try:
                return gradient(compiled, model, batch, config, dtype, self.tokens, self._team)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self._team.size > 1:  # the others are in the middle of this update, and wait for this process
                    raise TooLarge(self._alone(model, batch)) from error
            # Out here the failed pass holds nothing any more.
            model.zero_grad(set_to_none=True)
            restore_random_states(states)  # dropout
            if model.device.type == "cuda":
                torch.cuda.empty_cache()
            self._halve(model, batch, step)

    def _alone(self, model: GPT, batch: Batch) -> str:
        share = self._team.share(batch)
        tokens = share.rows(pass_tokens(self.tokens, model)) * share.inputs.shape[1]
        return (
            f"out of memory in process {self._team.rank} with {tokens} tokens in a pass; several processes cannot try "
            f"an update again: set runtime.micro_batch_tokens below {tokens}, or take more devices or a smaller model"
        )

    def _halve(self, model: GPT, batch: Batch, step: int) -> None:
        length = batch.inputs.shape[1]
        rows = batch.rows(pass_tokens(self.tokens, model))
        if rows == 1:
            raise TooLarge(
                f"one sequence of {length} tokens does not fit the memory of the {model.device.type}, forward and "
                "backward; take a smaller model or a shorter context"
            )
        self.found = self.tokens = (rows + 1) // 2 * length
        self._work.say(f"out of memory with {rows * length} tokens in a pass; going on with {self.tokens}")
        self._work.log({f"{self.name}/micro_batch_tokens": float(self.tokens)}, step)
