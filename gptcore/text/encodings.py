"""Text to ids by a tokenizer.json: by tiktoken for byte-level BPE, a fifth of the processor time, else by `tokenizers`.

Both give the same ids where both can.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import tiktoken
from tokenizers import Tokenizer as LibraryTokenizer

from gptcore.byte_vocabulary import ByteVocabulary
from gptcore.text.splitting import SPLIT_PATTERN

Ids = np.ndarray[tuple[int], np.dtype[np.uint32]]
LONGEST_BLANK = 200_000
"""Blanks in a row, characters, on which tiktoken's regex engine still finds its way with the patterns of others; a
million overflow its stack."""
_BLANKS = re.compile(rf"\s{{{LONGEST_BLANK}}}")


class Encoding(Protocol):
    """How a tokenizer of any kind is used. Lone surrogates become U+FFFD."""

    library: str
    """The one that encodes."""

    def ordinary(self, text: str) -> list[int]:
        """Ids of a text in which a special token's name is ordinary text."""

    def prompt(self, text: str) -> list[int]:
        """Ids of a text in which special tokens stand for themselves."""

    def documents(self, texts: Sequence[str], end: str) -> Ids:
        """`ordinary` of texts one after another, each closed by the special token `end`, (tokens,) uint32."""

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids, special tokens included. Raises KeyError for an id outside the vocabulary."""


def encoding_of(saved: Mapping[str, Any], vocabulary: ByteVocabulary) -> Encoding:
    """The fastest encoding of what tokenizer.json holds; vocabulary: what `readable` made of it."""
    return TiktokenEncoding(saved, vocabulary) if vocabulary.kind == "bpe" else LibraryEncoding(saved, vocabulary)


class LibraryEncoding:
    """By `tokenizers`: any kind."""

    library = "tokenizers"

    def __init__(self, saved: Mapping[str, Any], vocabulary: ByteVocabulary) -> None:
        self._saved, self._vocabulary = saved, vocabulary

    def ordinary(self, text: str) -> list[int]:
        """As `Encoding` says."""
        return self._ids(self._plain, text)

    def prompt(self, text: str) -> list[int]:
        """As `Encoding` says."""
        return self._ids(self._marked, text)

    def documents(self, texts: Sequence[str], end: str) -> Ids:
        """As `Encoding` says."""
        eot = self._vocabulary.special[end]
        return np.array([i for text in texts for i in (*self.ordinary(text), eot)], dtype=np.uint32)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """As `Encoding` says."""
        return b"".join([self._bytes[i] for i in ids])

    def _ids(self, reader: LibraryTokenizer, text: str) -> list[int]:
        if not text.isascii():
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        # The fast form leaves out where in the text each token stands.
        ids: list[int] = reader.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids

    @cached_property
    def _plain(self) -> LibraryTokenizer:
        reader = self._reader()
        reader.encode_special_tokens = True
        return reader

    @cached_property
    def _marked(self) -> LibraryTokenizer:
        return self._reader()

    def _reader(self) -> LibraryTokenizer:
        reader = LibraryTokenizer.from_str(json.dumps(self._saved))
        reader.no_truncation()
        reader.no_padding()
        return reader

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        added = {**self._vocabulary.plain, **self._vocabulary.special}
        return {i: piece for piece, i in self._vocabulary.pieces.items()} | {i: t.encode() for t, i in added.items()}


class TiktokenEncoding:
    """By tiktoken: byte-level BPE."""

    library = "tiktoken"

    def __init__(self, saved: Mapping[str, Any], vocabulary: ByteVocabulary) -> None:
        self._vocabulary = vocabulary
        self._slow = LibraryEncoding(saved, vocabulary)
        self._plain = set(vocabulary.plain)
        self._encoding = tiktoken.Encoding(
            "gptmill",
            pat_str=vocabulary.pattern,
            mergeable_ranks=vocabulary.pieces,
            special_tokens={**vocabulary.plain, **vocabulary.special},
        )

    def ordinary(self, text: str) -> list[int]:
        """As `Encoding` says; what tiktoken cannot do is left to `tokenizers`."""
        if self._vocabulary.composed:
            text = unicodedata.normalize("NFC", text)
        if len(text) > LONGEST_BLANK and self._vocabulary.pattern != SPLIT_PATTERN and _BLANKS.search(text):
            return self._slow.ordinary(text)
        if self._plain:
            return self._encoding.encode(text, allowed_special=self._plain, disallowed_special=())
        return self._encoding.encode_ordinary(text)

    def prompt(self, text: str) -> list[int]:
        """As `Encoding` says."""
        if self._vocabulary.composed:
            text = unicodedata.normalize("NFC", text)
        return self._encoding.encode(text, allowed_special="all")

    def documents(self, texts: Sequence[str], end: str) -> Ids:
        """As `Encoding` says, and a quarter faster: all go to tiktoken at once, and no list of numbers is made."""
        longest = max(map(len, texts), default=0)
        if self._joinable(end) and (self._vocabulary.pattern == SPLIT_PATTERN or longest <= LONGEST_BLANK):
            if self._vocabulary.composed:
                texts = [unicodedata.normalize("NFC", text) for text in texts]
            joined = "".join([part for text in texts for part in (text, end)])
            if joined.count(end) == len(texts):  # none of the texts names the token itself
                return self._encoding.encode_to_numpy(joined, allowed_special={end}, disallowed_special=())
        eot = self._vocabulary.special[end]
        return np.array([i for text in texts for i in (*self.ordinary(text), eot)], dtype=np.uint32)

    def _joinable(self, end: str) -> bool:
        """Whether `end` between texts is found where it was put.

        Not where a part of it ends a text, or a longer special token begins with it; plain tokens could reach across.
        """
        repeats = any(end.startswith(end[-length:]) for length in range(1, len(end)))
        longer = any(token.startswith(end) for token in self._vocabulary.special if token != end)
        return not (self._plain or repeats or longer)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """As `Encoding` says."""
        return self._encoding.decode_bytes(list(ids))
