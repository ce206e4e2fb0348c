"""Lines of a stream, none of which takes the machine's memory."""

from __future__ import annotations

from typing import IO

LINE_BYTES = 64_000_000
"""A longer line is skipped with a count."""
PIECE_BYTES = 1 << 20
"""Of a line that is skipped, read at once."""


def next_line(file: IO[bytes]) -> bytes | None:
    """The next line with its end, b"" at the end of the file; None for a line over LINE_BYTES, which is passed over."""
    line = file.readline(LINE_BYTES)
    if len(line) < LINE_BYTES or line.endswith(b"\n"):
        return line
    while line and not line.endswith(b"\n"):
        line = file.readline(PIECE_BYTES)
    return None
