"""A text as a set of shingles: every run of a few words in it (Broder 1997, section 2)."""

from __future__ import annotations

import hashlib

import numpy as np

from gptcore.text.words import Hashes, run_hashes, word_hashes


def shingle_hashes(text: str, size: int) -> Hashes:
    """64-bit hashes of the distinct shingles of `size` words, ascending (shingles,), never empty.

    A text of fewer words is one shingle. One without any word is its characters, so that `***` and `!!!` differ.
    """
    found = word_hashes(text)
    if not len(found):
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return np.frombuffer(digest, "<u8").astype(np.uint64)
    hashes = run_hashes(found, min(size, len(found)))
    hashes.sort()
    first = np.ones(len(hashes), bool)
    np.not_equal(hashes[1:], hashes[:-1], out=first[1:])
    return hashes[first]
