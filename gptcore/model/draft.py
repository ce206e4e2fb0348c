"""Guessing ahead: a copy of the model rounded to 8 bits proposes tokens, the model itself checks several at once.

One new token needs every weight once, and so does a pass over several: on a CPU, where reading weights takes the time,
checking a few guesses costs little more than computing one token (Leviathan et al. 2023, section 2). The copy's guesses
are cheap, its matrices taking a quarter of the bytes, and mostly right. What is written is what the model alone would
write: a guess counts where it equals the model's own choice, which is made with the same random number.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from gptcore.model.gpt import GPT
from gptcore.model.int8 import quantized

LARGE_BYTES = 1 << 25
"""Of weights a token; less stays in the caches of a processor, where reading takes no time to speak of."""
MOST_AHEAD = 7
ROWS = 8
"""With more rows a pass is bound by arithmetic, and there is nothing to gain."""
GUESS = 0.3
"""Time of a guess over that of a pass for one token."""
CHECK = 0.08
"""Time that each guess adds to the pass that checks it, likewise."""
MEMORY = 0.9
"""Share of what was known of guesses before, when a round adds to it."""


class Draft:
    """The rounded copy of a model on a CPU (gptcore/model/int8.py); it shares all but the matrices, and the cache."""

    @classmethod
    def of(cls, model: GPT) -> Draft | None:
        """One where it pays: of a large model on a CPU that is not rounded itself."""
        large = model.device.type == "cpu" and model.rounded_head is None and 4 * model.multiplied >= LARGE_BYTES
        return cls(model) if large else None

    def __init__(self, model: GPT) -> None:
        kept = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self.model = quantized(copy.deepcopy(model, kept)).eval()


class Pace:
    """How far ahead to guess: as far as pays, by how often guesses have been right."""

    def __init__(self, possible: bool) -> None:
        self.most = MOST_AHEAD if possible else 0
        self._right, self._asked = 0.9, 1.0

    def ahead(self, rows: int) -> int:
        """Guesses of the next round."""
        if rows > ROWS or not self.most:
            return 0
        odds = self._right / self._asked
        gains = [_expected(odds, count) / (1 + count * (GUESS + CHECK)) for count in range(self.most + 1)]
        return gains.index(max(gains))

    def learn(self, right: Sequence[int], guesses: int) -> None:
        """Of each row how many guesses were right before the first wrong one."""
        for found in right if guesses else ():
            self._right = self._right * MEMORY + found
            self._asked = self._asked * MEMORY + min(guesses, found + 1)


def _expected(odds: float, guesses: int) -> float:
    """Tokens of a round: one, and one more for each guess that is right before the first wrong one."""
    return sum(odds**count for count in range(guesses + 1))
