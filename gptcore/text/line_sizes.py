"""How long the lines of a split are without their licence, so that what is said of a text does not move its shard."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from gptcore.durable import writing
from gptcore.text.lines import BLOCK_BYTES, read_ends, split_files

_LICENCE = re.compile(rb', "licence": "(?:[^"\\]|\\.)*"')
"""As `documents.write` puts it, never first; inside a text the quotes would be escaped."""


def index_sizes(corpus: Path, split: str, index: Path, path: Path) -> None:
    """Write where each line would end if none named a licence: as `index_lines`, which wrote `index`, (documents,).

    One of as many lines that already stands at `path` is kept.
    """
    if path.exists() and len(read_ends(path)) == len(read_ends(index)):
        return
    done = 0
    with writing(path) as written:
        for name in split_files(corpus, split):
            with name.open("rb") as file:
                while block := file.read(BLOCK_BYTES) + file.readline():  # whole lines
                    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + 1
                    if not block.endswith(b"\n"):
                        ends = np.append(ends, len(block))
                    sizes = np.diff(ends, prepend=0)
                    for found in _LICENCE.finditer(block):
                        sizes[np.searchsorted(ends, found.start(), side="right")] -= found.end() - found.start()
                    ends = np.cumsum(sizes) + done
                    written.write(ends.astype("<u8").tobytes())
                    done = int(ends[-1])
