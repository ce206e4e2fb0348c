"""The files of a finished corpus, copied out of the blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

from gptcore.config import Corpus
from gptcore.durable import writing
from gptcore.text.corpus_table import DROPPED, PRIORITY, Codes, Table
from gptcore.text.documents import SPLITS
from gptcore.text.harvest import PREFIX
from gptcore.work import Work

Files = dict[str, list[dict[str, Any]]]


def write_files(config: Corpus, table: Table, splits: Codes, work: Work) -> Files:
    """Copy the kept lines out, split by split; a file that stands is whole, so a resume begins at the next one.

    Returns what is in each: {split: [{"file", "documents", "bytes"}]}.
    """
    total, written = int((splits != DROPPED).sum()), 0
    files: Files = {}
    for split in SPLITS:
        members = np.flatnonzero(splits == PRIORITY.index(split))
        sizes = table.rows["line"][members].astype(np.int64) - PREFIX
        # A new file begins with the first document past each multiple of shard_bytes: known before a byte is written.
        # unique: a document longer than that leaves no empty files behind.
        _, number = np.unique((np.cumsum(sizes) - sizes) // config.shard_bytes, return_inverse=True)
        files[split] = []
        for place in range(int(number[-1]) + 1 if len(members) else 0):
            inside = members[number == place]
            path = work.directory / "documents" / f"{split}-{place:05d}.jsonl"
            if not path.exists():
                with writing(path) as file:
                    for line in table.lines(inside):
                        file.write(line[PREFIX:])
            written += len(inside)
            files[split].append(
                {
                    "file": f"documents/{path.name}",
                    "documents": len(inside),
                    "bytes": int(table.rows["bytes"][inside].sum(dtype=np.int64)),
                }
            )
            work.progress(written, total, "documents")
    return files
