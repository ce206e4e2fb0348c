"""What a worker does for the `tokens` stage: one shard, from the numbers of its documents to its committed files.

Which documents stand in a shard is known before any of them is encoded, so shards are made side by side, on any number
of processes or machines that see the same directories, and hold the same bytes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as BpeTokenizer

from gptcore.durable import write_json, writing
from gptcore.shuffle import key_of, permute
from gptcore.text.documents import Document, read
from gptcore.text.encodings import Ids
from gptcore.text.lines import Lines, in_blocks
from gptcore.text.tokenizer import TextTokenizer
from gptcore.text.workers import Message, Tell

Integers = npt.NDArray[np.int64]

BLOCK_BYTES = 500_000
"""Lines that are read and encoded together: enough to keep tiktoken busy, and memory flat."""
COMPARED_CHARS = 2_000
"""Of a document that is compared, characters: `tokenizers` takes five times as long, and both work word by word."""
ORDERED_DOCUMENTS = 1 << 14
"""Documents whose places in the order are computed together."""


def encode_shard(task: Message, tell: Tell) -> Message:
    """Encode places [begin, end) of a split's order; the shard counts once its entry is written.

    `task`: {"corpus", "split", "lines", "tokenizer", "directory", "entry", "name", "begin", "end", "seed", "dtype",
    "check_every"}. Tells {"documents"}. RuntimeError when tiktoken and `tokenizers` disagree on a document.
    """
    tokenizer, reference = _tokenizers(task["tokenizer"], task["directory"])
    path = Path(task["directory"]) / f"{task['name']}.bin"
    dtype = np.dtype(task["dtype"]).newbyteorder("<")
    place, tokens, text_bytes = task["begin"], 0, 0
    sources: dict[str, Counter[str]] = {}  # by the label that ids begin with
    # The ids are renamed into place after the ends, so that a shard which is there has both.
    with (
        Lines(Path(task["corpus"]), task["split"], Path(task["lines"])) as lines,
        writing(path) as file,
        writing(path.with_suffix(".ends")) as ends_file,
    ):
        ids_out, ends_out = _Hashed(file), _Hashed(ends_file)
        order = places(task["begin"], task["end"], len(lines), task["seed"], task["split"])
        for block in in_blocks(lines, order, BLOCK_BYTES):
            documents = [read(line) for line in block]
            ids = tokenizer.encode_documents([document.text for document in documents])
            ends = np.flatnonzero(ids == tokenizer.eot) + 1
            assert len(ends) == len(documents)
            for number in range(-place % task["check_every"], len(documents), task["check_every"]):
                own = ids[ends[number - 1] if number else 0 : ends[number] - 1]
                _compare(documents[number], own, tokenizer, reference)
            ids_out.write(ids.astype(dtype))
            ends_out.write((ends + tokens).astype("<u8"))
            tokens += len(ids)
            starts = [0, *ends.tolist()]
            for document, start, end in zip(documents, starts, starts[1:], strict=False):
                size = len(document.text.encode())
                text_bytes += size
                for what, count in (("documents", 1), ("bytes", size), ("tokens", end - start)):
                    sources.setdefault(document.id.partition("/")[0], Counter())[what] += count
            place += len(documents)
            tell({"documents": len(documents)})
    entry = {
        "file": path.name,
        "tokens": tokens,
        "bytes": text_bytes,
        "documents": task["end"] - task["begin"],
        "sources": {label: dict(counts) for label, counts in sorted(sources.items())},
        "sha256": ids_out.hexdigest(),
        "ends_sha256": ends_out.hexdigest(),
    }
    write_json(Path(task["entry"]), entry)
    return {}


def _compare(document: Document, ids: Ids, tokenizer: TextTokenizer, reference: BpeTokenizer) -> None:
    """ids: of the whole document. Of a long one only the beginning is compared."""
    text, found = document.text, ids.tolist()
    if len(text) > COMPARED_CHARS:
        text = text[:COMPARED_CHARS]
        found = tokenizer.encode(text)
    if reference.encode(text).ids != found:
        raise RuntimeError(f"tiktoken and tokenizers encode document {document.id!r} differently; report this text")


def places(begin: int, end: int, documents: int, seed: int | None, split: str) -> Iterator[Integers]:
    """Numbers of the documents at places [begin, end) of a split's order, in pieces; without a seed the corpus's."""
    for first in range(begin, end, ORDERED_DOCUMENTS):
        piece = np.arange(first, min(end, first + ORDERED_DOCUMENTS))
        yield piece if seed is None else permute(piece, documents, key_of("documents", split, seed))


@lru_cache(maxsize=1)
def _tokenizers(tokenizer: str, directory: str) -> tuple[TextTokenizer, BpeTokenizer]:
    """Both readings of a tokenizer, kept for the shards of one run, which `directory` names."""
    reference = BpeTokenizer.from_file(f"{tokenizer}/tokenizer.json")
    reference.encode_special_tokens = True  # corpus text: the name of a special token is ordinary text
    return TextTokenizer.load(Path(tokenizer)), reference


class _Hashed:
    """A file and the digest of what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._digest = file, hashlib.sha256()

    def write(self, numbers: npt.NDArray[Any]) -> None:
        data = numbers.tobytes()
        self._file.write(data)
        self._digest.update(data)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()
