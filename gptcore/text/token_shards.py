"""One split's token shards, read through memory maps as if they were one array."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

Ids = np.ndarray[tuple[int], np.dtype[np.unsignedinteger[Any]]]
Ends = np.ndarray[tuple[int], np.dtype[np.uint64]]


class TokenShards:
    """One split's ids, read as if its shards were one array; nothing is loaded before it is asked for."""

    def __init__(
        self, shards: list[Ids], text_bytes: int, ends: Sequence[Path] = (), documents: Sequence[int] = ()
    ) -> None:
        """ends: each shard's file of document ends; documents: how many each shard holds."""
        self._shards, self._ends_files, self._documents = shards, ends, documents
        self._ends = list(accumulate(len(shard) for shard in shards))
        self.total = self._ends[-1] if shards else 0
        """Tokens in the split, end-of-text tokens included."""
        self.text_bytes = text_bytes
        """UTF-8 bytes of text in the split."""

    @classmethod
    def open(cls, directory: Path, split: str) -> TokenShards:
        """Map the shards of a split ("train" or "validation").

        Raises ValueError for a split that is not there, and for a shard that is not as long as index.json says.
        """
        index = json.loads((directory / "index.json").read_bytes())
        if split not in index["splits"]:
            raise ValueError(f"{directory} has no split {split!r}; there are {', '.join(index['splits'])}")
        dtype = np.dtype(index["dtype"]).newbyteorder("<")
        entries = index["splits"][split]["shards"]
        paths = [directory / entry["file"] for entry in entries]
        shards: list[Ids] = [
            _map(path, dtype, entry["tokens"], "tokens") for path, entry in zip(paths, entries, strict=True)
        ]
        ends = [path.with_suffix(".ends") for path in paths]
        return cls(shards, index["splits"][split]["bytes"], ends, [entry["documents"] for entry in entries])

    def document_ends(self, shard: int) -> Ends:
        """Where each document of a shard ends, its end-of-text token included, (documents,), read-only.

        Counted in tokens from the beginning of the shard. Raises ValueError when the file is not as long as it was.
        """
        return _map(self._ends_files[shard], np.dtype("<u8"), self._documents[shard], "documents")

    def window(self, start: int, length: int) -> Ids:
        """Ids [start, start + length), (length,), read-only or a copy. Raises ValueError outside [0, total)."""
        if start < 0 or length < 1 or start + length > self.total:
            raise ValueError(f"window of {length} tokens at {start} is not inside the split's {self.total} tokens")
        parts = []
        shard = bisect_right(self._ends, start)
        while length:
            begin = start - (self._ends[shard] - len(self._shards[shard]))
            part = self._shards[shard][begin : begin + length]
            parts.append(part)
            start, length, shard = start + len(part), length - len(part), shard + 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _map(path: Path, dtype: np.dtype[Any], numbers: int, what: str) -> np.ndarray[tuple[int], np.dtype[Any]]:
    """A flat file of so many numbers, read-only; ValueError when it is not that long."""
    missing = numbers * dtype.itemsize - (path.stat().st_size if path.exists() else 0)
    if missing:
        raise ValueError(
            f"{path} is damaged: {abs(missing)} bytes too {'short' if missing > 0 else 'long'} "
            f"for its {numbers} {what}; run the tokens stage again"
        )
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
