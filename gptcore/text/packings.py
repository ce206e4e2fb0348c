"""Packed streams, gz, zst, xz and bz2: unpacked on the way, with one exception for all that can be wrong in them."""

from __future__ import annotations

import io
import zlib
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from zstandard import ZstdDecompressionObj

BUFFER = 1 << 18
"""Unpacked bytes asked for at once."""
ZSTD_CHUNK = 2048
"""Packed bytes given to zstd at once. It answers with all that is in them, and 4 bytes can hold a block of 128 KiB
(RFC 8878, section 3.1.1.2): 2 KiB are 64 MiB at worst."""


class Damaged(Exception):
    """The bytes are not what the file's name promises."""

    def __init__(self, reason: str, kind: str = "damaged") -> None:
        super().__init__(reason.splitlines()[0] if reason else kind)
        self.kind = kind
        """The kind of `Problem`: truncated when the file is sound and ends early, else damaged."""


class Source(Protocol):
    """What is asked of a stream below: whatever has come by now, so that an error does not take it away."""

    def read1(self, size: int) -> bytes:
        """Up to `size` bytes, at the end none."""

    def close(self) -> None:
        """Let go of it."""


def unpacked(stream: IO[bytes], packing: str | None) -> IO[bytes]:
    """What is packed in a stream, which is closed with it. Reading raises `Damaged` for bytes that cannot be."""
    if packing is None:
        return stream
    return io.BufferedReader(_Checked(_source(stream, packing), stream), BUFFER)


def _source(stream: IO[bytes], packing: str) -> Source:
    if packing == "gz":
        import gzip

        return cast(Source, gzip.GzipFile(fileobj=stream, mode="rb"))
    if packing == "bz2":
        import bz2

        return cast(Source, bz2.BZ2File(stream, "rb"))
    if packing == "xz":
        import lzma

        return cast(Source, lzma.LZMAFile(stream, "rb"))
    return _Zstd(stream)


def reason_of(error: Exception) -> Damaged | None:
    """What an unpacker's error says of the bytes; None for one that is the machine's, such as a disk that fails."""
    import lzma

    if isinstance(error, EOFError):
        return Damaged("it ends early", "truncated")
    # The unpackers raise OSError without a number for wrong bytes; the system's own have one.
    if isinstance(error, zlib.error | lzma.LZMAError) or (isinstance(error, OSError) and error.errno is None):
        return Damaged(str(error))
    return None


class _Checked(io.RawIOBase):
    """A source whose errors are `Damaged`."""

    def __init__(self, source: Source, below: IO[bytes]) -> None:
        self._source, self._below = source, below

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._source.read1(len(buffer))
        except Exception as error:
            damage = reason_of(error)
            if damage is None:
                raise
            raise damage from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._source.close()
            self._below.close()
        super().close()


class _Zstd:
    """Frames of zstd one after another; unlike the library's own stream reader it notices when the last one is cut."""

    def __init__(self, stream: IO[bytes]) -> None:
        import zstandard

        self._stream, self._error = stream, zstandard.ZstdError
        self._frames = zstandard.ZstdDecompressor()
        self._frame: ZstdDecompressionObj | None = None
        self._packed = b""
        self._ready = memoryview(b"")

    def read1(self, size: int) -> bytes:
        """Up to `size` bytes, at the end none; raises EOFError inside a frame."""
        while not self._ready:
            packed = self._packed or self._stream.read(ZSTD_CHUNK)
            if not packed:
                if self._frame is not None:
                    raise EOFError
                return b""
            self._frame = self._frame or self._frames.decompressobj()
            try:
                self._ready = memoryview(self._frame.decompress(packed))
            except self._error as error:
                raise Damaged(str(error)) from error
            self._packed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
        data, self._ready = self._ready[:size], self._ready[size:]
        return bytes(data)

    def close(self) -> None:
        """Nothing is held."""
