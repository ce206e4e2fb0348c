"""The n-grams that occur more than once in a text, found without looking at those that cannot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from itertools import accumulate, islice


class Phrases:
    """Repeated n-grams of a sequence: of words, or of characters in scripts without spaces.

    An n-gram can only be repeated where the (n-1)-gram before its last item is. So the first order costs a look at
    every position, each further one only at the positions that are still repeated, which in prose are few.
    """

    def __init__(self, items: Sequence[Hashable], sizes: Iterable[int], first: int) -> None:
        """`sizes`: characters of each item. `first`: the smallest order that will be asked for."""
        self._items = items
        self._ends = [0, *accumulate(sizes)]  # characters before each item
        self._first = first
        self._orders: list[list[list[int]]] = []

    def groups(self, n: int) -> list[list[int]]:
        """For every n-gram that occurs at least twice, where it begins; in order of first occurrence."""
        assert n >= self._first, f"order {n} is below the first, {self._first}"
        if not self._orders:
            self._orders.append(self._starting_groups())
        while len(self._orders) <= n - self._first:
            self._orders.append(self._longer(self._orders[-1], self._first + len(self._orders)))
        return self._orders[n - self._first]

    def _starting_groups(self) -> list[list[int]]:
        found: defaultdict[tuple[Hashable, ...], list[int]] = defaultdict(list)
        for position, gram in enumerate(zip(*(islice(self._items, k, None) for k in range(self._first)), strict=False)):
            found[gram].append(position)
        return [group for group in found.values() if len(group) > 1]

    def _longer(self, groups: list[list[int]], n: int) -> list[list[int]]:
        items, last = self._items, len(self._items) - n
        longer = []
        for group in groups:
            found: defaultdict[Hashable, list[int]] = defaultdict(list)
            for position in group:
                if position <= last:
                    found[items[position + n - 1]].append(position)
            longer += [part for part in found.values() if len(part) > 1]
        return longer

    def _covered(self, positions: Iterable[int], n: int) -> int:
        """Characters inside the n-grams that begin at ascending positions, each character once."""
        ends, covered, end = self._ends, 0, 0
        for position in positions:
            covered += ends[position + n] - ends[max(position, end)]
            end = position + n
        return covered

    def top(self, n: int) -> float:
        """Share of the characters that stand in the n-gram that fills most; 0 where none occurs twice."""
        most = max((self._covered(group, n) for group in self.groups(n)), default=0)
        return most / self._ends[-1] if most else 0.0

    def duplicated(self, n: int) -> float:
        """Share of the characters that stand in an n-gram that stood in the text before."""
        again = sorted(position for group in self.groups(n) for position in group[1:])
        return self._covered(again, n) / self._ends[-1] if again else 0.0
