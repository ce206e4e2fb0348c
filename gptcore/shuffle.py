"""Shuffles that need no table: where each place goes is a function of a key."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from gptcore import durable

Integers = npt.NDArray[np.int64]


def key_of(*parts: int | str) -> int:
    """A 64-bit key out of seeds, epochs and names."""
    return int.from_bytes(hashlib.sha256(durable.canonical_json(list(parts))).digest()[:8], "little")


def permute(index: Integers, size: int, key: int) -> Integers:
    """Where a keyed shuffle of range(size) sends each index.

    No table, so any place of any epoch costs the same. 1. A Feistel network of six rounds is a bijection of the next
    larger power of four. 2. What falls outside range(size) goes through it again (cycle walking, Black and Rogaway
    2002).
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)  # bits
    low = np.uint64((1 << half) - 1)
    keys = [np.uint64(key_of(key, turn)) for turn in range(6)]

    def cipher(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        left, right = x >> np.uint64(half), x & low
        for turn_key in keys:
            left, right = right, left ^ (_mix(right ^ turn_key) & low)
        return (left << np.uint64(half)) | right

    x = cipher(np.atleast_1d(index).astype(np.uint64))
    while (outside := x >= size).any():
        x[outside] = cipher(x[outside])
    return x.astype(np.int64)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
