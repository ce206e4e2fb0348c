"""Sequences that begin alike, arranged so that what they share is computed once.

Sequences are sorted, so that those with a common beginning stand together: a range of them is a tree. A small tree is
read at once. A large one has its trunk, what all its sequences begin with, read first and its keys and values kept;
where the trunk is short it is read again with each part instead.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gptcore.model.tree import Tree, path_of

TREE_TOKENS = 1024
"""Of a tree that is read at once: what its attention computes grows with their square."""
TRUNK_TOKENS = 64
"""A shorter trunk is not worth a pass of its own."""


@dataclass(frozen=True)
class Branch:
    """Sequences begin <= i < end from depth `base` on, behind a trunk of so many tokens."""

    begin: int
    end: int
    base: int
    size: int
    """Tokens, shared ones once."""


@dataclass(frozen=True)
class Stem:
    """What sequences begin <= i < end have in common from depth `base` to `top`, read before what follows it."""

    begin: int
    end: int
    base: int
    top: int


class Prefixes:
    """Different sequences in order."""

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        """Sorted, none twice, none empty."""
        self.sequences = sequences
        self._common = [0, *(_common(a, b) for a, b in pairwise(sequences))]
        """Tokens that each shares with the one before."""

    def split(self, begin: int, end: int, base: int) -> tuple[list[Branch], list[Stem]]:
        """What to read behind a trunk of `base` tokens that all of these sequences begin with."""
        branches, stems = [], []
        waiting = [(begin, end)] if begin < end else []
        while waiting:
            first, stop = waiting.pop()
            if len(self.sequences[first]) == base:  # ends with the trunk; being the shortest, it is the first
                first += 1
            if first == stop:
                continue
            size = self._size(first, stop, base)
            if size <= TREE_TOKENS or stop - first == 1:
                branches.append(Branch(first, stop, base, size))
                continue
            inner = self._common[first + 1 : stop]
            top = min(inner)
            if top - base >= TRUNK_TOKENS:
                stems.append(Stem(first, stop, base, top))
                continue
            cuts = [first, *(first + 1 + i for i, common in enumerate(inner) if common == top), stop]
            waiting += pairwise(cuts)
        return sorted(branches, key=lambda b: (-b.size, b.begin)), sorted(stems, key=lambda s: s.begin)

    def _size(self, begin: int, end: int, base: int) -> int:
        """Tokens from depth `base` on, shared ones once."""
        rest = (len(self.sequences[i]) - max(self._common[i], base) for i in range(begin + 1, end))
        return len(self.sequences[begin]) - base + sum(rest)

    def tree(self, branch: Branch) -> tuple[Tree, list[list[int]]]:
        """The tree, and for each sequence the places of its nodes, from depth `base` on."""
        tokens: list[int] = []
        depths: list[int] = []
        ends: list[int] = []
        paths: list[list[int]] = []
        path: list[int] = []
        for i in range(branch.begin, branch.end):
            sequence = self.sequences[i]
            kept = 0 if i == branch.begin else max(self._common[i] - branch.base, 0)
            first = len(tokens)
            for place in path[kept:]:
                ends[place] = first
            new = sequence[branch.base + kept :]
            path = [*path[:kept], *range(first, first + len(new))]
            tokens += new
            depths += range(branch.base + kept, len(sequence))
            ends += [0] * len(new)
            paths.append(path)
        for place in path:
            ends[place] = len(tokens)
        return Tree(tokens, depths, ends), paths

    def stem(self, stem: Stem) -> Tree:
        """Its one path."""
        return path_of(self.sequences[stem.begin][stem.base : stem.top], stem.base)


def batches(branches: Sequence[Branch], tokens: int, squares: int) -> Iterator[list[Branch]]:
    """Branches, the largest first, in groups of so many tokens at most, or one branch; each padded to the largest.

    squares: what the number of branches times the square of the largest may come to.
    """
    begin = 0
    while begin < len(branches):
        end, total, largest = begin, 0, branches[begin].size + branches[begin].base
        while end < len(branches):
            total += branches[end].size
            count = end - begin + 1
            if count > 1 and (total > tokens or count * branches[begin].size * largest > squares):
                break
            end += 1
        yield list(branches[begin:end])
        begin = end


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens that two lists begin with alike."""
    most = min(len(a), len(b))
    return bisect_left(range(1, most + 1), True, key=lambda n: a[:n] != b[:n])
