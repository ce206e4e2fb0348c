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

Signatures = npt.NDArray[np.uint32]

_AT_ONCE = 1 << 18
"""Values of a permuted piece of a text: 1 MB, which stays in a core's cache; a text of any length takes no more."""


def signatures(texts: Iterable[str], config: NearDuplicates) -> Signatures:
    """One row a text (texts, permutations), the same whatever the other texts are.

    A place holds the smallest of the text's shingle hashes after one permutation. The share of equal places of two rows
    is an unbiased estimate of the texts' Jaccard similarity, with a standard error of sqrt(s (1 - s) / permutations).
    """
    rows = [_signature(text, config) for text in texts]
    return np.stack(rows) if rows else np.zeros((0, config.permutations), np.uint32)


def save_signatures(path: Path, rows: Signatures) -> None:
    """Write rows (texts, permutations) as .npy, column after column: a band is then one piece of the file."""
    with writing(path) as file:
        np.save(file, np.asfortranarray(rows))


def _signature(text: str, config: NearDuplicates) -> Signatures:
    """(permutations,)."""
    # x -> a x + b modulo 2^32 with odd a permutes the 32-bit numbers. That such simple functions are enough is because
    # shingle hashes are random themselves (Mitzenmacher and Vadhan 2008); 64-bit arithmetic would cost four times as
    # much.
    factors, terms = _permutations(config.permutations)
    hashes = (shingle_hashes(text, config.shingle) >> np.uint64(32)).astype(np.uint32)
    least = np.full(config.permutations, 0xFFFFFFFF, np.uint32)
    step = _AT_ONCE // config.permutations
    for start in range(0, len(hashes), step):
        permuted = hashes[start : start + step, None] * factors  # (shingles, permutations)
        permuted += terms
        np.minimum(least, permuted.min(axis=0), out=least)
    return least


@lru_cache(maxsize=1)
def _permutations(count: int) -> tuple[Signatures, Signatures]:
    """Odd factors and terms (count,): fixed for good, so from SHA-256 and no library's generator."""
    digests = b"".join(hashlib.sha256(b"gptmill minhash 1:%d" % place).digest()[:8] for place in range(count))
    numbers = np.frombuffer(digests, "<u4").astype(np.uint32).reshape(count, 2)
    return numbers[:, 0] | np.uint32(1), numbers[:, 1].copy()
