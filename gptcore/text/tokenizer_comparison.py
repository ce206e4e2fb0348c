"""How densely tokenizers write texts of several languages and kinds, and how fast."""

from __future__ import annotations

import importlib.resources
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gptcore.text.tokenizer_peers import Peer

WORDS_EVERY = 20
"""A text with fewer blanks than one in so many characters is not written in words between blanks, such as Chinese."""
TIMED_S, LEAST_PASSES = 0.2, 3
"""A tokenizer is timed for so long, seconds, and at least so many times over all texts."""


def sample_texts() -> dict[str, str]:
    """The texts of configs/samples by name: prose of six languages, code, JSON, mathematics, blanks; 1 to 2 KB each."""
    folder = importlib.resources.files("configs") / "samples"
    found = {p.name.removesuffix(".txt"): p.read_text("utf-8") for p in folder.iterdir() if p.name.endswith(".txt")}
    return dict(sorted(found.items()))


def read_texts(paths: Sequence[str]) -> dict[str, str]:
    """Files by the name they were given; ValueError for one that is empty or not UTF-8, OSError for one not there."""
    texts = {}
    for path in paths:
        try:
            texts[path] = Path(path).read_bytes().decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 at byte {error.start}; convert it") from None
        if not texts[path].strip():
            raise ValueError(f"{path} holds no text; leave it out")
    return texts


def compare_tokenizers(peers: Sequence[Peer], texts: Mapping[str, str]) -> dict[str, Any]:
    """What `gptmill bench tokenizer --json` prints.

    Of each tokenizer `vocab_size`, `encodes_by`, `encode_mb_s` (millions of UTF-8 bytes a second on one thread, median
    of passes over all texts, which the library's cache of words knows from the second on), and for each text `tokens`,
    `bytes_per_token`, `tokens_per_word` (fertility; null for a text not written in words) and `exact`, whether its
    tokens give the text back. ValueError for a text that a tokenizer has no tokens for.
    """
    return {
        "texts": {name: {"bytes": len(text.encode()), "words": _words(text)} for name, text in texts.items()},
        "tokenizers": {
            peer.name: {
                "vocab_size": peer.vocab_size,
                "encodes_by": peer.encodes_by,
                "encode_mb_s": _speed(peer, texts),
                "texts": {name: _density(peer, text) for name, text in texts.items()},
            }
            for peer in peers
        },
    }


def _words(text: str) -> int | None:
    words = len(text.split())
    return words if words * WORDS_EVERY >= len(text) else None


def _density(peer: Peer, text: str) -> dict[str, Any]:
    ids, words = peer.encode(text), _words(text)
    return {
        "tokens": len(ids),
        "bytes_per_token": len(text.encode()) / len(ids) if ids else None,
        "tokens_per_word": len(ids) / words if words else None,
        "exact": peer.decode(ids) == text,
    }


def _speed(peer: Peer, texts: Mapping[str, str]) -> float:
    whole = sum(len(text.encode()) for text in texts.values())
    spent: list[float] = []
    while sum(spent) < TIMED_S or len(spent) < LEAST_PASSES:
        began = time.perf_counter()
        for text in texts.values():
            peer.encode(text)
        spent.append(time.perf_counter() - began)
    return whole / statistics.median(spent) / 1e6
