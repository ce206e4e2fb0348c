"""How much of a test set stands in the training text: shared 13-grams (GPT-3, Brown et al. 2020, appendix C)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gptcore.text.words import words

N = 13
"""Words in an n-gram."""

_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that no word's place in the n-gram loses bits


_BLOCK = 1 << 16
"""Words hashed at once."""


@dataclass(frozen=True)
class Overlap:
    """How many test items share a 13-gram with the training text."""

    items: int
    """Test items in all."""
    long_enough: int
    """Items with at least 13 words; the others cannot overlap."""
    overlapping: int
    """Items with at least one 13-gram that the training text holds."""

    @property
    def share(self) -> float:
        """Overlapping items over all items."""
        return self.overlapping / self.items


def _hashes(ids: Sequence[int]) -> np.ndarray:
    """One 64-bit hash per n-gram (len(ids) - 12,), polynomial and wrapping; 0 where a word is unknown (id 0)."""
    numbers = np.array(ids, dtype=np.uint64)
    count = len(numbers) - N + 1
    total = np.zeros(count, dtype=np.uint64)
    known = np.ones(count, dtype=bool)
    for place in range(N):
        piece = numbers[place : place + count]
        total = total * np.uint64(_MULTIPLIER) + piece
        known &= piece != 0
    total[~known] = 0
    return total


class OverlapCounter:
    """Holds the test items' n-grams, and is shown the training documents one by one."""

    def __init__(self, texts: Iterable[Sequence[str]]) -> None:
        """`texts`: the pieces of each test item; no n-gram spans two pieces."""
        # Only words of the test items get an id, so memory does not grow with the training text.
        self._ids: dict[str, int] = {}
        hashes, owners = [], []
        self._items = self._long = 0
        for owner, pieces in enumerate(texts):
            self._items += 1
            found = [words(piece) for piece in pieces]
            found = [piece for piece in found if len(piece) >= N]
            self._long += bool(found)
            for piece in found:
                grams = _hashes([self._ids.setdefault(word, _spread(len(self._ids) + 1)) for word in piece])
                hashes.append(grams)
                owners.append(np.full(len(grams), owner))
        self._hashes = np.concatenate(hashes) if hashes else np.zeros(0, dtype=np.uint64)
        self._owners = np.concatenate(owners) if owners else np.zeros(0, dtype=np.int64)
        self._wanted = np.unique(self._hashes)
        self._seen = np.zeros(len(self._wanted), dtype=bool)
        self._pending: list[int] = []

    def add(self, text: str) -> None:
        """Look through one training document."""
        lookup = self._ids.get
        self._pending += [lookup(word, 0) for word in words(text)]
        self._pending.append(0)  # an unknown word: no n-gram spans two documents
        if len(self._pending) >= _BLOCK:
            self._look()

    def _look(self) -> None:
        """Mark the wanted n-grams among the words that wait; NumPy's cost is a call's, so many documents share one."""
        ids, self._pending = self._pending, []
        if len(ids) < N or not len(self._wanted):
            return
        grams = _hashes(ids)
        grams = grams[grams != 0]
        places = np.searchsorted(self._wanted, grams)
        places[places == len(self._wanted)] = 0
        self._seen[places[self._wanted[places] == grams]] = True

    def result(self) -> Overlap:
        """The counts so far."""
        self._look()
        hit = np.isin(self._hashes, self._wanted[self._seen])
        return Overlap(self._items, self._long, len(np.unique(self._owners[hit])))


def _spread(number: int) -> int:
    """A 64-bit id for the number-th word, never 0 (splitmix64's mixing, a bijection)."""
    mask = (1 << 64) - 1
    value = number * _MULTIPLIER & mask
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & mask
    value = (value ^ value >> 27) * 0x94D049BB133111EB & mask
    return value ^ value >> 31
