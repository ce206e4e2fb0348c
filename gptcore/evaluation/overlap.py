"""How much of a test set stands in the training text: shared 13-grams (GPT-3, Brown et al. 2020, appendix C).

The words and their hashes are those by which a corpus is cleared of benchmarks (gptcore/text/run_index.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gptcore.text.run_index import index_runs
from gptcore.text.words import Hashes, run_hashes, word_hashes

Flags = npt.NDArray[np.bool_]

N = 13
"""Words in an n-gram."""
BLOCK = 1 << 16
"""Words looked up at once, and characters hashed at once: 60 bytes each."""

_BOUNDARY = np.zeros(1, np.uint64)
"""In the place of a word: no n-gram spans two documents. A word has this hash with a chance of 2^-64."""
_BREAK = re.compile(r"\s")


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
        return self.overlapping / self.items if self.items else 0.0


def together(tasks: Sequence[Overlap]) -> Overlap:
    """The counts of several tasks' items as one."""
    return Overlap(
        sum(task.items for task in tasks),
        sum(task.long_enough for task in tasks),
        sum(task.overlapping for task in tasks),
    )


def overlaps(
    tasks: Mapping[str, Sequence[Sequence[str]]], training: Iterable[str], own: Mapping[str, Iterable[str]] = {}
) -> dict[str, Overlap]:
    """Of each task (the pieces of its test items) how much the training texts hold; these are gone through once.

    own: texts that count for one task alone.
    """
    if not tasks:
        return {}
    counter = OverlapCounter(tasks.items())
    for text in training:
        counter.add(text)
    hits = counter.hits()
    for name, texts in own.items():
        alone = OverlapCounter([(name, tasks[name])])
        for text in texts:
            alone.add(text)
        hits[name] |= alone.hits()[name]
    return counter.counted(hits)


class OverlapCounter:
    """Holds the n-grams of tasks' test items, and is shown the training documents one by one."""

    def __init__(self, tasks: Iterable[tuple[str, Iterable[Sequence[str]]]]) -> None:
        """`tasks`: (name, of each test item the pieces); no n-gram spans two pieces. ValueError for a name twice."""
        self._index = index_runs(tasks, N)
        self._seen = np.zeros(len(self._index.hashes), bool)
        self._waiting: list[Hashes] = []
        self._words = 0

    def add(self, text: str) -> None:
        """Look through one training document."""
        for part in _parts(text):
            found = word_hashes(part)
            self._waiting.append(found)
            self._words += len(found)
            if self._words >= BLOCK:
                self._look()
        self._waiting.append(_BOUNDARY)

    def _look(self) -> None:
        """Mark the n-grams among the words that wait; NumPy's cost is a call's, so many documents share one."""
        if not self._waiting:
            return
        hashes = np.concatenate(self._waiting)
        places = self._index.where(run_hashes(hashes, N))
        self._seen[places[places >= 0]] = True
        self._waiting = [hashes[max(0, len(hashes) - N + 1) :].copy()]  # the last words begin n-grams that go on
        self._words = len(self._waiting[0])

    def hits(self) -> dict[str, Flags]:
        """Which items of each task overlap so far, (items,)."""
        self._look()
        hit = np.zeros(self._index.items, bool)
        hit[self._index.item[self._index.equal_runs(np.flatnonzero(self._seen))]] = True
        borders = np.cumsum([task.items for task in self._index.benchmarks])[:-1]
        return {task.name: own for task, own in zip(self._index.benchmarks, np.split(hit, borders), strict=True)}

    def counted(self, hits: Mapping[str, Flags]) -> dict[str, Overlap]:
        """The counts of hits, by task."""
        return {
            task.name: Overlap(task.items, task.items - task.too_short, int(hits[task.name].sum()))
            for task in self._index.benchmarks
        }

    def results(self) -> dict[str, Overlap]:
        """The counts so far, by task."""
        return self.counted(self.hits())


def _parts(text: str) -> Iterator[str]:
    """A text in pieces of BLOCK characters or a little more, cut at blanks, where there are some."""
    begin = 0
    while len(text) - begin > BLOCK:
        cut = _BREAK.search(text, begin + BLOCK)
        if cut is None:
            break
        yield text[begin : cut.start()]
        begin = cut.start()
    yield text[begin:]
