"""MinHash signatures: two texts have as many equal numbers as their sets of shingles overlap (Broder 1997)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gptcore.config_steps import NearDuplicates
from gptcore.durable import writing
from gptcore.text.shingles import shingle_hashes
from gptcore.text.words import Hashes

Signatures = npt.NDArray[np.uint32]

_AT_ONCE = 1 << 15
"""Shingles of several texts that are permuted together: 128 KB, which stays in a core's cache."""


def signatures(texts: Iterable[str], config: NearDuplicates) -> Signatures:
    """One row a text (texts, permutations), the same whatever the other texts are.

    A place holds the smallest of the text's shingle hashes after one permutation. The share of equal places of two rows
    is an unbiased estimate of the texts' Jaccard similarity, with a standard error of sqrt(s (1 - s) / permutations).
    """
    return signatures_of((shingle_hashes(text, config.shingle) for text in texts), config.permutations)


def signatures_of(shingles: Iterable[Hashes], permutations: int) -> Signatures:
    """The same (texts, permutations) of each text's `shingle_hashes`.

    Memory: the rows, and 16 bytes a shingle of the longest text or of _AT_ONCE shingles.
    """
    rows = [np.zeros((0, permutations), np.uint32)]
    together: list[Hashes] = []
    count = 0
    for hashes in shingles:
        together.append(hashes)
        count += len(hashes)
        if count >= _AT_ONCE:
            rows.append(_permuted(together, permutations))
            together, count = [], 0
    if together:
        rows.append(_permuted(together, permutations))
    return np.concatenate(rows)


def _permuted(shingles: list[Hashes], permutations: int) -> Signatures:
    """(texts, permutations) of a few texts, none without a shingle."""
    # x -> a x + b modulo 2^32 with odd a permutes the 32-bit numbers. That such simple functions are enough is because
    # shingle hashes are random themselves (Mitzenmacher and Vadhan 2008); 64-bit arithmetic would cost four times as
    # much. Permutation by permutation over many texts, for NumPy's cost is a row's: twice as fast as text by text.
    hashes = (np.concatenate(shingles) >> np.uint64(32)).astype(np.uint32)
    starts = np.cumsum([0, *map(len, shingles[:-1])])
    rows = np.empty((len(shingles), permutations), np.uint32, order="F")
    permuted = np.empty_like(hashes)
    for place, (factor, term) in enumerate(zip(*_permutations(permutations), strict=True)):
        np.multiply(hashes, factor, out=permuted)
        np.add(permuted, term, out=permuted)
        np.minimum.reduceat(permuted, starts, out=rows[:, place])
    return rows


def save_signatures(path: Path, rows: Signatures) -> None:
    """Write rows (texts, permutations) as .npy, column after column: a band is then one piece of the file."""
    with writing(path) as file:
        np.save(file, np.asfortranarray(rows))


@lru_cache(maxsize=1)
def _permutations(count: int) -> tuple[Signatures, Signatures]:
    """Odd factors and terms (count,): fixed for good, so from SHA-256 and no library's generator."""
    digests = b"".join(hashlib.sha256(b"gptmill minhash 1:%d" % place).digest()[:8] for place in range(count))
    numbers = np.frombuffer(digests, "<u4").astype(np.uint32).reshape(count, 2)
    return numbers[:, 0] | np.uint32(1), numbers[:, 1].copy()
