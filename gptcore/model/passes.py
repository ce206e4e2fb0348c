"""A network's passes over new tokens: compiled for a few on a CPU, torch's otherwise; and a rounded copy that guesses.

Letters: gptcore/model/gpt.py and cache.py.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from gptcore.model.cache import Cache
from gptcore.model.gpt import GPT
from gptcore.model.int8 import quantized

FEW = 64
"""Tokens, all rows together, up to which the compiled pass is the faster (benchmarks/RESULTS.md, "generation")."""


class Passes:
    """What reads the next tokens of every row. `faster_rounded`: whether a rounded copy would be faster."""

    def __init__(self, model: GPT) -> None:
        self.context, self._threads = model.config.context, torch.get_num_threads()
        self._model, self._few = model, None
        if model.device.type == "cpu":
            from gptcore.model.step import Step, fits  # numba takes a third of a second

            self._few = Step(model, self._threads) if fits(model) else None
        self.faster_rounded = self._few is not None and model.times_head is None  # is not rounded yet

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Around passes and what stands between them: torch has one thread, except for passes of its own.

        The threads that torch has woken look for work for a millisecond, and would hold up those of the next pass.
        """
        if self._few is None:
            yield
            return
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def __call__(self, ids: Tensor, cache: Cache) -> Tensor:
        """T tokens a row (R, T) -> logits of what follows each (R, T, V); `cache.advance` makes them count."""
        if self._few is not None and ids.numel() <= FEW:
            return self._few(ids, cache)
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            last = self.context - 1  # rows that have ended, and vain guesses, may stand beyond
            positions = cache.begin(ids.shape[1]).clamp(max=last)
            return self._model.logits(self._model.hidden(ids.to(positions.device), positions, cache.writing)).float()
        finally:
            torch.set_num_threads(before)


_ROUNDED: WeakKeyDictionary[GPT, tuple[list[int], Passes]] = WeakKeyDictionary()


def rounded(model: GPT) -> Passes:
    """Passes of the model rounded to 8 bits, over the model's own cache.

    Made once, and again when the weights have changed; a quarter of the model's memory.
    """
    versions = [torch.get_num_threads(), *(0 if p.is_inference() else p._version for p in model.parameters())]
    found = _ROUNDED.get(model)
    if found is None or found[0] != versions:
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        found = versions, Passes(quantized(copy.deepcopy(model, shared).eval()))
        _ROUNDED[model] = found
    return found[1]
