"""Token shards: the corpus as flat files of ids, written once and then read through memory maps.

A shard is little-endian uint16 (uint32 for a vocabulary over 65,536), document after document, each closed by the
end-of-text token. index.json says how many tokens each shard holds, and of how many bytes of text.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as BpeTokenizer

from gptcore.config import Tokens
from gptcore.durable import write_json, writing
from gptcore.text.documents import Document, read_documents
from gptcore.text.tokenizer import TextTokenizer
from gptcore.work import Outcome, Work

SPLITS = ("train", "validation")
CHUNK_CHARS = 250_000
"""Text that one thread encodes at a time: enough to keep it busy, and memory flat."""
CHECKED_DOCUMENTS = 200
"""Documents of each split on which tiktoken's ids are compared with those of `tokenizers`."""

Entry = dict[str, Any]
Encoded = tuple[Document, list[int]]
Ids = np.ndarray[tuple[int], np.dtype[np.unsignedinteger[Any]]]


def build_tokens(config: Tokens, work: Work) -> Outcome:
    """Encode the train and validation splits into shards of `config.shard_tokens` tokens or a document more.

    A killed run goes on at the next shard. Raises ValueError when a split has no documents, and RuntimeError when
    tiktoken and `tokenizers` disagree on a document.
    """
    for stale in work.directory.glob(".*.part"):
        stale.unlink()
    corpus = work.inputs["corpus"]
    tokenizer = TextTokenizer.load(work.inputs["tokenizer"])
    reference = BpeTokenizer.from_file(str(work.inputs["tokenizer"] / "tokenizer.json"))
    reference.encode_special_tokens = True  # corpus text: the name of a special token is ordinary text
    count = {split: _count_documents(corpus, split) for split in SPLITS}
    if not count["train"]:
        raise ValueError("the corpus has no training documents; add sources, or lower corpus.min_chars")
    if not count["validation"]:
        raise ValueError("the corpus has no validation documents; raise corpus.validation_share, or add text")

    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    committed = _Committed(work, dtype)
    for split in SPLITS:
        start = sum(entry["documents"] for entry in committed.of(split))
        documents = islice(read_documents(corpus, split), start, None)
        encoded = _encode(documents, tokenizer, work.runtime.workers)
        encoded = _compare(encoded, reference, start, max(1, count[split] // CHECKED_DOCUMENTS))
        encoded = _report(encoded, work, start + (count["train"] if split == "validation" else 0), sum(count.values()))
        for first in encoded:
            path = work.directory / f"{split}-{len(committed.of(split)):05d}.bin"
            entry = _write_shard(path, chain([first], encoded), config.shard_tokens, dtype, tokenizer.eot)
            committed.add(split, entry)

    with writing(work.directory / "token_bytes.npy") as file:
        np.save(file, tokenizer.token_bytes(), allow_pickle=False)
    splits = {
        split: {"shards": committed.of(split)}
        | {what: sum(entry[what] for entry in committed.of(split)) for what in ("tokens", "bytes", "documents")}
        for split in SPLITS
    }
    index = {"dtype": dtype.name, "vocab_size": tokenizer.vocab_size, "splits": splits}
    write_json(work.directory / "index.json", index)
    return Outcome(
        results=("train-*.bin", "validation-*.bin", "token_bytes.npy", "index.json"),
        metrics={
            "tokens/train": splits["train"]["tokens"],
            "tokens/validation": splits["validation"]["tokens"],
            "tokens/bytes_per_token": splits["train"]["bytes"] / splits["train"]["tokens"],
        },
    )


class _Committed:
    """The shards that are whole, in scratch/shards.json: a shard counts once its entry stands there."""

    def __init__(self, work: Work, dtype: np.dtype[Any]) -> None:
        self._path = work.scratch / "shards.json"
        self._entries: dict[str, list[Entry]] = {split: [] for split in SPLITS}
        if self._path.exists():
            for split, entries in json.loads(self._path.read_bytes()).items():
                for entry in entries:
                    if _missing_bytes(work.directory / entry["file"], entry, dtype):
                        break
                    self._entries[split].append(entry)

    def of(self, split: str) -> list[Entry]:
        return self._entries[split]

    def add(self, split: str, entry: Entry) -> None:
        self._entries[split].append(entry)
        write_json(self._path, self._entries)


def _missing_bytes(path: Path, entry: Entry, dtype: np.dtype[Any]) -> int:
    """How far a shard's size is from what its entry says, bytes; 0 when it is whole."""
    size = path.stat().st_size if path.exists() else 0
    return int(entry["tokens"]) * dtype.itemsize - size


def _count_documents(corpus: Path, split: str) -> int:
    """Lines of a split's files, read in blocks: far faster than parsing them."""
    lines = 0
    for path in (corpus / "documents").glob(f"{split}-*.jsonl"):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                lines += block.count(b"\n")
    return lines


def _encode(documents: Iterable[Document], tokenizer: TextTokenizer, threads: int) -> Iterator[Encoded]:
    """Each document with its ids, in order; holds one chunk a thread."""
    chunks = _chunks(documents)
    with ThreadPoolExecutor(threads) as pool:
        while together := list(islice(chunks, threads)):
            encoded = pool.map(lambda chunk: tokenizer.encode_batch(document.text for document in chunk), together)
            for chunk, ids in zip(together, encoded, strict=True):
                yield from zip(chunk, ids, strict=True)


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    chunk: list[Document] = []
    chars = 0
    for document in documents:
        chunk.append(document)
        chars += len(document.text)
        if chars >= CHUNK_CHARS:
            yield chunk
            chunk, chars = [], 0
    if chunk:
        yield chunk


def _compare(encoded: Iterable[Encoded], reference: BpeTokenizer, start: int, every: int) -> Iterator[Encoded]:
    """Pass documents on, having compared every n-th of the split; the first one here is number `start`."""
    for number, (document, ids) in enumerate(encoded, start):
        if number % every == 0 and reference.encode(document.text).ids != ids:
            raise RuntimeError(f"tiktoken and tokenizers encode document {document.id!r} differently; report this text")
        yield document, ids


def _report(encoded: Iterable[Encoded], work: Work, done: int, total: int) -> Iterator[Encoded]:
    """Pass documents on and move the bar."""
    for number, one in enumerate(encoded, done + 1):
        if number % 500 == 0 or number == total:
            work.progress(number, total, "documents")
        yield one


def _write_shard(path: Path, encoded: Iterable[Encoded], shard_tokens: int, dtype: np.dtype[Any], eot: int) -> Entry:
    """Write documents until the shard holds `shard_tokens` tokens; the entry says what is in it."""
    tokens = size = documents = 0
    with writing(path) as file:
        for document, ids in encoded:
            file.write(np.array([*ids, eot], dtype=dtype).tobytes())
            tokens += len(ids) + 1
            size += len(document.text.encode())
            documents += 1
            if tokens >= shard_tokens:
                break
    return {"file": path.name, "tokens": tokens, "bytes": size, "documents": documents}


class TokenShards:
    """One split's ids, read as if its shards were one array; nothing is loaded before it is asked for."""

    def __init__(self, shards: list[Ids], text_bytes: int) -> None:
        self._shards = shards
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
        shards: list[Ids] = []
        for entry in index["splits"][split]["shards"]:
            path = directory / entry["file"]
            if missing := _missing_bytes(path, entry, dtype):
                raise ValueError(
                    f"{path} is damaged: {abs(missing)} bytes too {'short' if missing > 0 else 'long'} "
                    f"for its {entry['tokens']} tokens; run the tokens stage again"
                )
            shards.append(np.asarray(np.memmap(path, dtype=dtype, mode="r")))
        return cls(shards, index["splits"][split]["bytes"])

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
