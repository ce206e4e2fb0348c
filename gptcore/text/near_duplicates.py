"""Which documents go because another is nearly the same: banding of MinHash signatures, and clusters.

Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4: a signature is cut into bands; documents that
agree in a whole band are compared, all others never.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gptcore.config_steps import NearDuplicates
from gptcore.text.minhash import Signatures
from gptcore.text.words import Hashes

Indices = npt.NDArray[np.int64]

ROUNDS = 8
"""How often a bucket is gone through, each time with another document that all others are compared with."""
_PAIRS = 1 << 15
"""Pairs compared at once: 33 MB of signatures of 128 places."""


class Found(NamedTuple):
    """The verdict on every document."""

    dropped: npt.NDArray[np.bool_]
    """Which documents go (documents,)."""
    of: Indices
    """The document that stays for each one (documents,): itself where it stays."""


def near_duplicates(
    parts: Sequence[Path | Signatures], config: NearDuplicates, rank: npt.NDArray[np.integer[Any]]
) -> Found:
    """Clusters of near-duplicates, of each of which the document with the smallest rank, then the first, stays.

    `parts`: signatures (documents of the part, permutations) one after another, as arrays or as files of
    `save_signatures`, which are read a few columns at a time; `rank`: (documents,) over all parts.

    1. Band by band, documents are sorted by the hash of the band's places; equal ones stand side by side: a bucket.
    2. In a bucket every document is compared with the first. Those whose signatures agree in `threshold` of all places
       join its cluster; the others are gone through again, with their own first, up to ROUNDS times. So a bucket costs
       its size and not its square, and a hundred thousand equal documents one comparison each. Documents already in the
       first one's cluster are not compared again.
    3. Clusters are connected components: two documents may be in one by way of a third.
    The result is the same in whatever parts and on whatever machine. Memory: 50 bytes a document, and 80 MB.
    Raises ValueError where parts, permutations and ranks do not fit together.
    """
    starts = _starts(parts, config, len(rank))
    cluster = np.arange(len(rank))  # of each document the first one of its cluster
    count, width = bands(config.threshold, config.permutations)
    for band in range(count):
        members, bucket = _buckets(parts, starts, slice(band * width, (band + 1) * width))
        for _ in range(ROUNDS):
            if not len(members):
                break
            members, bucket = _compare(parts, starts, config, cluster, members, bucket)
    return _choose(cluster, rank)


@lru_cache(maxsize=8)
def bands(threshold: float, permutations: int) -> tuple[int, int]:
    """(bands, places in a band) whose chance to find a pair, 1 - (1 - s^places)^bands, comes nearest to a step at the
    threshold: the area above it left of the threshold and below it on the right, added up, is smallest."""
    points = (np.arange(1000) + 0.5) / 1000  # the middles of equal steps: the areas are right to 1e-5
    left, right = threshold * points, threshold + (1 - threshold) * points
    best = (np.inf, 0, 0)
    for places in range(1, permutations + 1):
        missed_left, missed_right = 1 - left**places, 1 - right**places
        all_left, all_right = np.ones(1000), np.ones(1000)
        for count in range(1, permutations // places + 1):
            all_left *= missed_left
            all_right *= missed_right
            area = threshold * (1 - all_left.mean()) + (1 - threshold) * all_right.mean()
            best = min(best, (float(area), count, places))
    return best[1], best[2]


def _starts(parts: Sequence[Path | Signatures], config: NearDuplicates, documents: int) -> Indices:
    """The index of each part's first document, and at the end the number of documents (parts + 1,)."""
    shapes = [_opened(part).shape for part in parts]
    for shape in shapes:
        if len(shape) != 2 or shape[1] != config.permutations:
            raise ValueError(
                f"signatures of shape {shape} do not have {config.permutations} permutations; compute them anew"
            )
    starts = np.cumsum([0, *(shape[0] for shape in shapes)])
    if starts[-1] != documents:
        raise ValueError(f"{starts[-1]:,} signatures and {documents:,} ranks; there must be one of each a document")
    return starts


def _opened(part: Path | Signatures) -> Signatures:
    """A part's signatures; a file is mapped, and let go with the array, so that its pages do not add up."""
    if isinstance(part, Path):
        mapped: Signatures = np.load(part, mmap_mode="r")
        return mapped
    return part


def _buckets(parts: Sequence[Path | Signatures], starts: Indices, places: slice) -> tuple[Indices, Indices]:
    """Documents that share a band with others, bucket by bucket, ascending in each (members,), and the number of each
    one's bucket (members,)."""
    keys = np.empty(starts[-1], np.uint64)
    for part, start, end in zip(parts, starts, starts[1:], strict=False):
        keys[start:end] = _key(_opened(part)[:, places])
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    same = keys[1:] == keys[:-1]
    shared = np.zeros(len(keys), bool)
    shared[1:] = same
    shared[:-1] |= same
    bucket = np.cumsum(np.concatenate(([False], ~same))[: len(keys)])[shared]
    return order[shared], bucket


def _key(band: Signatures) -> Hashes:
    """64 bits for the places of a band (documents, places) -> (documents,). Two bands that differ and share a key cost
    a comparison, and no more."""
    key = np.zeros(len(band), np.uint64)
    for column in band.T:
        key *= np.uint64(0x9E3779B97F4A7C15)
        key += column
        key ^= key >> np.uint64(29)
    return key


def _compare(
    parts: Sequence[Path | Signatures],
    starts: Indices,
    config: NearDuplicates,
    cluster: Indices,
    members: Indices,
    bucket: Indices,
) -> tuple[Indices, Indices]:
    """Compare the first of each bucket with the others, and join `cluster` in place; the members that are left, of
    buckets that still hold two."""
    first = np.concatenate(([True], bucket[1:] != bucket[:-1]))
    leader = members[first][np.cumsum(first) - 1]
    others = np.flatnonzero(cluster[members] != cluster[leader])
    alike = np.concatenate(
        [
            _alike(parts, starts, config, leader[piece], members[piece])
            for piece in np.array_split(others, range(_PAIRS, len(others), _PAIRS))
        ]
    )
    _join(cluster, leader[others[alike]], members[others[alike]])
    left = others[~alike]
    left = left[cluster[members[left]] != cluster[leader[left]]]
    members, bucket = members[left], bucket[left]
    _, number, size = np.unique(bucket, return_inverse=True, return_counts=True)
    several = size[number] > 1
    return members[several], bucket[several]


def _alike(
    parts: Sequence[Path | Signatures], starts: Indices, config: NearDuplicates, left: Indices, right: Indices
) -> npt.NDArray[np.bool_]:
    """Whether the signatures of each pair agree in enough places (pairs,)."""
    wanted, places = np.unique(np.concatenate((left, right)), return_inverse=True)
    rows = np.empty((len(wanted), config.permutations), np.uint32)
    edges = np.searchsorted(wanted, starts)
    for part, start, low, high in zip(parts, starts, edges, edges[1:], strict=False):
        if low < high:
            rows[low:high] = _opened(part)[wanted[low:high] - start]
    equal = (rows[places[: len(left)]] == rows[places[len(left) :]]).sum(axis=1)
    return np.asarray(equal >= config.threshold * config.permutations)


def _join(cluster: Indices, left: Indices, right: Indices) -> None:
    """Make one cluster of the two of each pair, in place: `cluster[i]` stays the first document of i's cluster.

    Union-find on whole arrays: the larger root is hung below the smaller, all paths are shortened to their roots, and
    what a root could not do at once, being in several pairs, it does in the next turn.
    """
    while True:
        low, high = np.minimum(cluster[left], cluster[right]), np.maximum(cluster[left], cluster[right])
        apart = low != high
        if not apart.any():
            return
        np.minimum.at(cluster, high[apart], low[apart])
        while True:
            above = cluster[cluster]
            if np.array_equal(above, cluster):
                break
            cluster[:] = above


def _choose(cluster: Indices, rank: npt.NDArray[np.integer[Any]]) -> Found:
    """Of every cluster the document with the smallest rank, then the first."""
    of = np.arange(len(cluster))
    members = np.flatnonzero(np.bincount(cluster, minlength=len(cluster))[cluster] > 1)
    order = members[np.lexsort((members, rank[members], cluster[members]))]
    first = np.ones(len(order), bool)
    first[1:] = cluster[order[1:]] != cluster[order[:-1]]
    of[order] = order[first][np.cumsum(first) - 1] if len(order) else order
    return Found(of != np.arange(len(of)), of)
