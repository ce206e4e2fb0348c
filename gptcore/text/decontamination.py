"""Drops training documents that share a run of words with a benchmark (GPT-3: Brown et al. 2020, appendix C).

Two things differ from the paper. A document with a hit goes whole, where the paper cuts out the run and 200 characters
around it: documents here are short, and cut text reads badly. And words are runs of letters, digits and underscores,
where the paper splits at white space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from gptcore.text.run_index import Indices, RunIndex
from gptcore.text.steps.step import Dropped, Kept
from gptcore.text.words import run_hashes, word_hashes, words

RULE = "contaminated"


def make_decontaminate(index: RunIndex, hit: npt.NDArray[np.bool_]) -> Callable[[str], Kept | Dropped]:
    """The step for one worker: a text that holds a run of the index is dropped, with the first such run as the reason.

    `hit` (index.items,) is the caller's: every item found is marked there. Those of all workers or blocks, combined by
    `|`, tell what the whole corpus holds, however the documents were shared out. The verdict does not depend on it.
    """

    def decontaminate(text: str) -> Kept | Dropped:
        places = index.where(run_hashes(word_hashes(text), index.words))
        found = np.flatnonzero(places >= 0)
        if not len(found):
            return Kept(text)
        hit[index.item[index.equal_runs(places[found])]] = True
        first = int(found[0])
        run = " ".join(words(text)[first : first + index.words])
        item = index.name(int(index.item[places[first]]))
        return Dropped(RULE, f"{item} shares {index.words} words: '{run}'")

    return decontaminate


def documents_with(index: RunIndex, texts: Iterable[str]) -> Indices:
    """In how many of the texts each run of the index stands (runs,); those of all workers are added up."""
    counts = np.zeros(len(index.hashes), np.int64)
    for text in texts:
        counts[index.hits(text)] += 1
    return counts


def without_common_runs(index: RunIndex, documents: Indices, most_documents: int | None) -> RunIndex:
    """The index less the runs that stand in more than `most_documents` training documents; None leaves it as it is.

    Such runs are stock phrases, licences and boilerplate, and say nothing of a benchmark; the paper takes 10. It must
    be all training documents that are counted (`documents_with`), or the verdict depends on who counted.
    """
    return index if most_documents is None else index.without(documents > most_documents)


def contamination(index: RunIndex, hit: npt.NDArray[np.bool_]) -> dict[str, dict[str, int | float]]:
    """For the data card, by benchmark: items, those too short to be found, those hit before removal, their share."""
    found: dict[str, dict[str, int | float]] = {}
    first = 0
    for benchmark in index.benchmarks:
        count = int(hit[first : first + benchmark.items].sum())
        found[benchmark.name] = {
            "items": benchmark.items,
            "too_short": benchmark.too_short,
            "contaminated": count,
            "contaminated_share": count / benchmark.items if benchmark.items else 0.0,
        }
        first += benchmark.items
    return found
