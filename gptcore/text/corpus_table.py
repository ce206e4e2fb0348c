"""All documents of a corpus as rows of numbers: which split each is in, and which of equal ones stays."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gptcore.config import Corpus
from gptcore.text.corpus_units import Unit, table_path
from gptcore.text.step_blocks import ROW, Rows

PRIORITY = ("test", "validation", "train")
"""Of equal texts the copy in the earliest of these stays, so that no test or validation text is trained on."""
DROPPED = len(PRIORITY)

Hashes = npt.NDArray[np.uint64]
Codes = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]


@dataclass
class Table:
    """What is known of every document that the steps left, in corpus order: 37 bytes each, so 10 million are 370 MB."""

    rows: Rows
    """(documents,), see `step_blocks.ROW`."""
    blocks: list[tuple[list[Path], int]]
    """Of each block the files that hold its lines, by layer, and the row of its first document."""
    units: list[int]
    """Row of each unit's first document, and at the end the number of documents."""

    def span(self, block: int) -> tuple[int, int]:
        """Rows [first, end) of a block."""
        first = self.blocks[block][1]
        return first, self.blocks[block + 1][1] if block + 1 < len(self.blocks) else len(self.rows)

    def lines(self, members: npt.NDArray[np.int64]) -> Iterator[bytes]:
        """The lines of some documents (ascending row numbers), prefix included, read one by one."""
        for block, (paths, _) in enumerate(self.blocks):
            first, end = self.span(block)
            low, high = np.searchsorted(members, (first, end))
            if low == high:
                continue
            inside = self.rows[members[low:high]]
            handles = [os.open(path, os.O_RDONLY) for path in paths]
            try:
                for layer, start, size in zip(
                    inside["layer"].tolist(), inside["start"].tolist(), inside["line"].tolist(), strict=True
                ):
                    yield os.pread(handles[layer], size, start)
            finally:
                for handle in handles:
                    os.close(handle)


def read_table(units: Sequence[Unit], scratch: Path) -> Table:
    """The tables of all blocks as one."""
    pieces, blocks, firsts, count = [np.zeros(0, ROW)], [], [], 0
    for unit in units:
        firsts.append(count)
        for block in unit.block_names():
            rows = np.load(table_path(unit, block, scratch), allow_pickle=False)
            blocks.append(([directory / f"{block}.lines" for directory in (unit.harvest, *unit.steps)], count))
            pieces.append(rows)
            count += len(rows)
    firsts.append(count)
    return Table(np.concatenate(pieces), blocks, firsts)


def draw_splits(config: Corpus, held: Flags, group: Hashes) -> Codes:
    """Whole groups to splits by their hash: [0, validation_share) validation, then test_share test, the rest train.

    held: documents that belong to the test split (documents,). Returns places in PRIORITY (documents,).
    """
    first, second = (
        np.uint64(min(int(share * 2**64), 2**64 - 1))
        for share in (config.validation_share, config.validation_share + config.test_share)
    )
    validation = ~held & (group < first)
    test = held | (~validation & (group < second))
    if config.validation_share and not validation.any() and not test.all():
        # Too few groups for the share to hit one: the nearest miss is taken, so that training can be watched.
        nearest = group[~test].min()
        if (group[~test] == nearest).all():
            raise ValueError(
                f"validation_share {config.validation_share} needs at least two documents (or modules) outside the "
                "test split, there is one; split the text into several, or set corpus.validation_share: 0"
            )
        validation = ~test & (group == nearest)
    splits = np.full(len(group), PRIORITY.index("train"), np.uint8)
    splits[validation] = PRIORITY.index("validation")
    splits[test] = PRIORITY.index("test")
    return splits


def repeated(text: Hashes, splits: Codes) -> Flags:
    """Which documents repeat one of an earlier split in PRIORITY, or an earlier one of their own split (documents,)."""
    order = np.lexsort((splits, text))  # stable: corpus order among equals
    found = np.zeros(len(text), bool)
    found[order[1:]] = text[order[1:]] == text[order[:-1]]
    return found
