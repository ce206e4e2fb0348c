"""What an archive may cost, and the errors of one that goes beyond or breaks as a whole."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from gptcore.text.packings import Damaged, Source, reason_of

MEMBERS = 1_000_000
"""Members of one archive, of any sort. What is known of each takes some 500 bytes, half a gigabyte in all."""
SWELLING = 1000
"""Unpacked bytes a packed one, at most. Text packs to a tenth, logs to a hundredth; deflate cannot go beyond 1032."""
FREE_BYTES = 100_000_000
"""Unpacked bytes before the swelling counts: small archives of repeated text are no bombs."""
ARCHIVE_BYTES = 2_000_000_000_000
"""Unpacked bytes of one archive: at 20 MB/s more than a day, in a single unit of work."""
HEADER_BYTES = 1 << 20
"""Of a tar member's extended header, which is read whole; a path has 4,096 bytes on Linux."""


class Refused(Exception):
    """The archive is read no further."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        """The kind of `Problem`."""


class Budget:
    """Counts what comes out of one archive."""

    def __init__(self, packed: int) -> None:
        """packed: bytes of the archive's file."""
        self._packed, self._unpacked = packed, 0

    def add(self, size: int) -> None:
        """Raises `Refused` beyond the limits."""
        self._unpacked += size
        self.check(self._unpacked)

    def check(self, unpacked: int) -> None:
        """Raises `Refused` when that many bytes are too many."""
        if unpacked > ARCHIVE_BYTES:
            raise Refused("bomb", f"more than {ARCHIVE_BYTES:,} bytes unpacked")
        if unpacked > max(FREE_BYTES, SWELLING * self._packed):
            raise Refused("bomb", f"{self._packed:,} bytes unpack to more than {SWELLING:,} times as many")


class Counted(io.RawIOBase):
    """A stream whose bytes are counted, and whose errors are `Damaged`, or `Refused` where the archive is lost."""

    def __init__(self, file: IO[bytes], budget: Budget, whole: bool) -> None:
        """whole: the stream is that of the whole archive, so that an error in it ends the reading."""
        self._file, self._budget, self._whole = cast(Source, file), budget, whole

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Bytes into a buffer."""
        with judged(self._whole):
            data = self._file.read1(len(buffer))
        self._budget.add(len(data))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """The stream below too."""
        if not self.closed:
            self._file.close()
        super().close()


@contextmanager
def judged(whole: bool) -> Iterator[None]:
    """Errors of the bytes become `Damaged`, or `Refused` where they end the whole archive; others stay as they are."""
    try:
        yield
    except Exception as error:
        damage = error if isinstance(error, Damaged) else _damage(error)
        if damage is None:
            raise
        raise (Refused(damage.kind, str(damage)) if whole else damage) from error


def _damage(error: Exception) -> Damaged | None:
    if isinstance(error, tarfile.TarError | zipfile.BadZipFile | NotImplementedError):
        early = "unexpected end" in str(error) or "truncated" in str(error)
        return Damaged(str(error), "truncated" if early else "damaged")
    return reason_of(error)
