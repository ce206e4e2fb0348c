"""Every run of words of the benchmarks, as sorted hashes that worker processes map and search.

It clears a corpus of benchmarks (decontamination.py), and tells at benchmark time how much of a task was trained on
(gptcore/evaluation/overlap.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gptcore.durable import write_json, writing
from gptcore.text.words import Hashes, run_hashes, word_hashes

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Indexed:
    """One benchmark of an index."""

    name: str
    """As the data card and the reasons call it."""
    items: int
    """Its items, the short ones included."""
    too_short: int
    """Items with fewer words than a run, which cannot be found."""


@dataclass(frozen=True)
class RunIndex:
    """Runs of `words` words and the items they stand in; items are numbered through all benchmarks, in order.

    A hash of 64 bits stands for its run unverified: of 200 million runs of training text (1 GB) and 2 million of
    benchmarks, two different ones share a hash with a chance of 2 in 100,000.
    """

    words: int
    """Words in a run."""
    benchmarks: tuple[Indexed, ...]
    """In the order of their items."""
    hashes: Hashes
    """(runs,) ascending; a run that several items hold is there once for each."""
    item: npt.NDArray[np.uint64]
    """The item that holds each run (runs,)."""

    @property
    def items(self) -> int:
        """Items of all benchmarks."""
        return sum(benchmark.items for benchmark in self.benchmarks)

    def where(self, hashes: Hashes) -> Indices:
        """For each hash the first of the index's runs that has it, or -1, (hashes,)."""
        found = np.full(len(hashes), -1)
        if not len(self.hashes):
            return found
        # Nearly all are told absent by one bit; a search of the whole index takes four times as long.
        bits, shift = self._present
        begins = hashes >> shift
        likely = np.flatnonzero(bits[begins >> np.uint64(3)] >> (begins & np.uint64(7)).astype(np.uint8) & 1)
        places = np.searchsorted(self.hashes, hashes[likely])
        places[places == len(self.hashes)] = 0
        places[self.hashes[places] != hashes[likely]] = -1
        found[likely] = places
        return found

    @cached_property
    def _present(self) -> tuple[npt.NDArray[np.uint8], np.uint64]:
        """A bit for every beginning of a hash, set where a run of the index has it, and how far that is shifted down:
        8 to 16 beginnings a run, 8 MB at most."""
        length = min((8 * len(self.hashes)).bit_length(), 26)
        shift = np.uint64(64 - length)
        bits = np.zeros(1 << length, bool)
        bits[self.hashes >> shift] = True
        return np.packbits(bits, bitorder="little"), shift

    def equal_runs(self, places: Indices) -> Indices:
        """All of the index's runs with the hashes of these ones, ascending, each once."""
        wanted = np.unique(self.hashes[places])
        firsts = np.searchsorted(self.hashes, wanted, side="left")
        ends = np.searchsorted(self.hashes, wanted, side="right")
        return np.concatenate([np.arange(0), *map(np.arange, firsts, ends)])

    def hits(self, text: str) -> Indices:
        """The index's runs that a text holds, ascending, each once (hits,)."""
        places = self.where(run_hashes(word_hashes(text), self.words))
        return self.equal_runs(places[places >= 0])

    def name(self, item: int) -> str:
        """An item by its benchmark and its number there, counted from 0: `benchmark squad item 17`."""
        for benchmark in self.benchmarks:
            if item < benchmark.items:
                return f"benchmark {benchmark.name} item {item}"
            item -= benchmark.items
        raise IndexError(f"item {item} past the last one")

    def without(self, runs: npt.NDArray[np.bool_]) -> RunIndex:
        """The same index less some runs (runs,)."""
        return replace(self, hashes=self.hashes[~runs], item=self.item[~runs])

    def save(self, directory: Path) -> None:
        """Write `runs.npy` (2, runs) and then `runs.json`, which says that both are whole."""
        with writing(directory / "runs.npy") as file:
            np.save(file, np.stack((self.hashes, self.item)))
        known = [[benchmark.name, benchmark.items, benchmark.too_short] for benchmark in self.benchmarks]
        write_json(directory / "runs.json", {"words": self.words, "benchmarks": known})

    @classmethod
    def open(cls, directory: Path) -> RunIndex:
        """A saved index; its runs are mapped, so that all processes share one copy."""
        about = json.loads((directory / "runs.json").read_bytes())
        # Plain arrays over the mapped file: searching a memmap costs twice the time in wrapping.
        hashes, item = np.asarray(np.load(directory / "runs.npy", mmap_mode="r"))
        return cls(about["words"], tuple(Indexed(*known) for known in about["benchmarks"]), hashes, item)


def index_runs(benchmarks: Iterable[tuple[str, Iterable[str | Sequence[str]]]], words: int) -> RunIndex:
    """Index every run of `words` words of (benchmark name, its items); ValueError for a name given twice.

    An item is a text, or the pieces of one, and then no run spans two of them.
    """
    known: list[Indexed] = []
    none = np.zeros(0, np.uint64)
    hashes, owners = [none], [none]
    total = 0
    for name, texts in benchmarks:
        if any(name == benchmark.name for benchmark in known):
            raise ValueError(f"benchmark {name!r} is there twice; give each its own name")
        items = too_short = 0
        for text in texts:
            pieces = (text,) if isinstance(text, str) else text
            runs = np.unique(np.concatenate([none, *(run_hashes(word_hashes(piece), words) for piece in pieces)]))
            hashes.append(runs)
            owners.append(np.full(len(runs), total + items, np.uint64))
            too_short += not len(runs)
            items += 1
        known.append(Indexed(name, items, too_short))
        total += items
    every, item = np.concatenate(hashes), np.concatenate(owners)
    order = np.argsort(every, kind="stable")  # items ascending among equal runs
    return RunIndex(words, tuple(known), every[order], item[order])
