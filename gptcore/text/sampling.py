"""An even sample of a corpus split that fits in a number of bytes, the same one every time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

from gptcore.text.documents import Document

BUCKETS = 1 << 16


def _bucket(document_id: str) -> int:
    return int.from_bytes(blake2b(document_id.encode(), digest_size=2, person=b"sample").digest(), "big")


@dataclass(frozen=True)
class EvenSample:
    """The documents whose id hashes into the first `buckets` of 65,536 buckets."""

    buckets: int
    """65,536 takes every document."""
    documents: int
    """Documents in the sample."""
    bytes: int
    """UTF-8 bytes of text in the sample."""
    available_documents: int
    """Documents there are."""
    available_bytes: int
    """UTF-8 bytes of text there are."""

    @classmethod
    def choose(cls, documents: Iterable[Document], limit: int) -> EvenSample:
        """The largest sample of at most `limit` bytes. One pass; memory does not grow with the documents."""
        bytes_in = [0] * BUCKETS
        documents_in = [0] * BUCKETS
        for document in documents:
            bucket = _bucket(document.id)
            bytes_in[bucket] += len(document.text.encode())
            documents_in[bucket] += 1
        taken = size = 0
        while taken < BUCKETS and size + bytes_in[taken] <= limit:
            size += bytes_in[taken]
            taken += 1
        return cls(taken, sum(documents_in[:taken]), size, sum(documents_in), sum(bytes_in))

    def texts(self, documents: Iterable[Document]) -> Iterator[str]:
        """The sample's texts, in corpus order."""
        for document in documents:
            if self.buckets == BUCKETS or _bucket(document.id) < self.buckets:
                yield document.text
