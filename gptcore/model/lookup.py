"""Guessing ahead by what stands in the text already: the tokens that followed when the last two stood there before.

A pass over several tokens costs little more than one over one, since both read every weight; so a few guesses are
checked with each new token (Leviathan et al. 2023, section 2; guesses by lookup: Yang et al. 2023). A guess counts
where it equals the model's own choice, made with the same random number: what is written stays what it was. It pays
where answers copy from their prompts, or repeat themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

MOST_AHEAD = 7
COST = {1: 1.0, 2: 1.05, 4: 1.1, 8: 1.27, 16: 1.95, 32: 3.5, 64: 6.5}
"""Time of a pass by its tokens, all rows together; straight lines between (benchmarks/RESULTS.md, "generation")."""
FREE = {1: 0.0, 8: 0.0}
"""Cost of a guess by lookup. With more rows a pass is bound by arithmetic, and there is nothing to gain."""
ROUNDED = {1: 0.5, 2: 0.62, 4: 0.78}
"""Of one by the rounded copy."""
ROUNDED_ODDS = 0.85
"""That such a one is right."""
MEMORY = 0.9
"""Share of what was known of guesses before, when a round adds to it."""
TRIED_EVERY = 16
"""Rounds after which one guess is made even where none pays: what follows may be more like what was."""


class Lookup:
    """The tokens of a row, prompt and answer, and where each pair of them was followed by what."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._after: dict[tuple[int, int], int] = {}
        self.add(prompt)

    @property
    def length(self) -> int:
        """Tokens so far."""
        return len(self._tokens)

    def add(self, tokens: Sequence[int]) -> None:
        """More of them."""
        for token in tokens:
            if len(self._tokens) > 1:
                self._after[self._tokens[-2], self._tokens[-1]] = len(self._tokens)
            self._tokens.append(token)

    def guess(self, count: int) -> list[int]:
        """So many tokens that may follow, or none; what would stand behind the last goes round."""
        found = self._after.get((self._tokens[-2], self._tokens[-1])) if len(self._tokens) > 1 else None
        if found is None:
            return []
        round_trip = len(self._tokens) - found
        return [self._tokens[found + place % round_trip] for place in range(count)]


class Pace:
    """How far ahead to guess: as far as pays, by how often guesses have been right."""

    def __init__(self, guess_costs: Mapping[int, float] = FREE, odds: float = 0.5) -> None:
        """guess_costs: time of a guess by the rows that guess. odds: that a guess is right, until more is known."""
        self._right, self._asked, self._round = 2 * odds, 2.0, 0
        self._costs = guess_costs

    def ahead(self, rows: int) -> int:
        """Guesses of the next round for each row."""
        if rows > max(self._costs):
            return 0
        self._round += 1
        odds, guess = self._right / self._asked, _between(self._costs, rows)
        gains = [_expected(odds, n) / (_between(COST, rows * (1 + n)) + n * guess) for n in range(MOST_AHEAD + 1)]
        return max(gains.index(max(gains)), int(self._round % TRIED_EVERY == 0))

    def learn(self, asked: int, right: int) -> None:
        """Of a row's guesses so many were right before the first wrong one."""
        self._right = self._right * MEMORY + right
        self._asked = self._asked * MEMORY + min(asked, right + 1)


def _between(costs: Mapping[int, float], size: int) -> float:
    return float(np.interp(size, list(costs), list(costs.values())))


def _expected(odds: float, guesses: int) -> float:
    """Tokens of a round: one, and one more for each guess that is right before the first wrong one."""
    return sum(odds**count for count in range(guesses + 1))
