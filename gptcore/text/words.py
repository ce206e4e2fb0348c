"""What a word is, in scripts with and without spaces, and a hash for every run of words."""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

# Scripts written without spaces, by Unicode block: letters and the signs that belong to them, not punctuation.
_UNSPACED = (
    "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\u3041-\u3096\u3099-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Kana
    "\u0e01-\u0e3a\u0e40-\u0e4e"  # Thai
    "\u0e81-\u0ece\u0edc-\u0edf"  # Lao
    "\u1780-\u17d3\u17d7\u17dc\u17dd"  # Khmer
    "\u1000-\u103f\u1050-\u108f\u109a-\u109d\ua9e0-\ua9ef\uaa60-\uaa7f"  # Myanmar
)
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")

_LETTERS = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_LONE = re.compile(rf"[{_UNSPACED}]")

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_MULTIPLIER = np.uint64(0xC2B2AE3D27D4EB4F)  # odd, so that no word's place in the run loses bits
_MIXER = np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)
_CACHED = 1 << 17
"""Characters up to which powers are kept, 4 MB in all."""


def words(text: str) -> list[str]:
    r"""Lower-case words (`\w+`), without punctuation; in scripts without spaces each character is one."""
    return _WORD.findall(text.lower())


def letter_words(text: str) -> list[str]:
    """As `words`, split at underscores too: what ROUGE compares. On ASCII these are the words of Lin's script."""
    return _LETTERS.findall(text.lower())


def spaced(text: str) -> str:
    """The text with a space around every character of a script without spaces, so that `split` finds its words."""
    return text if text.isascii() else _LONE.sub(r" \g<0> ", text)


def run_hashes(hashes: Hashes, size: int) -> Hashes:
    """A hash of every run of `size` words, in order, of the words' hashes: (words - size + 1,), at least none."""
    # A polynomial in the words' hashes, wrapping: one multiplication a place, whatever the words' lengths.
    count = max(len(hashes) - size + 1, 0)
    total = hashes[:count].copy()
    for place in range(1, size):
        total *= _MULTIPLIER
        total += hashes[place : place + count]
    return _mixed(total)


def word_hashes(text: str) -> Hashes:
    """A hash of each of `words(text)`, in order (words,): the same for the same word in every process, on any machine.

    1. Every character becomes 64 bits, so that like words do not get like sums.
    2. Times the base to the power of its place in the text, they are summed up from the text's start.
    3. A word is the difference of the sums at its ends, divided by the power at its start: its place falls out.
    No word becomes an object of Python, which is what costs the time of `words`. Memory: 60 bytes a character.
    """
    text = text.lower()
    if text.isascii():
        codes = np.frombuffer(text.encode(), np.uint8)
        bits, kinds = _tables()[0][codes], _tables()[1][codes]
    else:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        bits, kinds = _mixed(_mixed(codes + np.uint64(_BASE))), _tables()[1][codes]
        kinds += (kinds == 2) & (np.arange(len(kinds)) % 2 == 1)  # neighbours differ, so that each is a word
    powers, inverses = _powers(len(bits))
    bits *= powers[: len(bits)]
    sums = np.zeros(len(bits) + 1, np.uint64)
    np.cumsum(bits, out=sums[1:])
    changes = np.flatnonzero(kinds[1:] != kinds[:-1]) + 1
    edges = np.concatenate(([0], changes, [len(kinds)]))
    inside = np.flatnonzero(kinds[edges[:-1]]) if len(kinds) else np.zeros(0, np.int64)
    starts, ends = edges[inside], edges[inside + 1]
    return _mixed((sums[ends] - sums[starts]) * inverses[starts])


def _mixed(values: Hashes) -> Hashes:
    """A bijection, in place, without which hashes that are sums would be linearly dependent."""
    values ^= values >> _HALF
    values *= _MIXER
    values ^= values >> _HALF
    return values


@lru_cache(maxsize=1)
def _tables() -> tuple[Hashes, npt.NDArray[np.uint8]]:
    """64 bits for each ASCII character (128,); of each code point (0x110000,) whether it is outside words (0), inside
    them (1), or a word by itself (2)."""
    bits = _mixed(_mixed(np.arange(128, dtype=np.uint64) + np.uint64(_BASE)))
    every = "".join(map(chr, range(0x110000)))
    kinds = np.zeros(len(every), np.uint8)
    for found in re.finditer(r"\w+", every):
        kinds[found.start() : found.end()] = 1
    for found in re.finditer(f"[{_UNSPACED}]+", every):
        kinds[found.start() : found.end()] = 2
    return bits, kinds


def _powers(count: int) -> tuple[Hashes, Hashes]:
    """At least `count` powers of the base, from the power 0 on, and their inverses modulo 2^64."""
    size = 1 << max(count - 1, 0).bit_length()
    return _cached_powers(size) if size <= _CACHED else _new_powers(size)


def _new_powers(size: int) -> tuple[Hashes, Hashes]:
    base, inverse = np.full(size, _BASE, np.uint64), np.full(size, pow(_BASE, -1, 1 << 64), np.uint64)
    base[0] = inverse[0] = 1
    return np.cumprod(base), np.cumprod(inverse)


_cached_powers = lru_cache(maxsize=None)(_new_powers)
