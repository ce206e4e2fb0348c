"""Archives, tar and zip: each member that some reader takes is a file of its own, `archive.tar.gz!inner/name.txt`.

Nothing is unpacked to disk but parquet, and no member's name is ever a path here. What an archive may cost stands in
archive_limits.py. Archives inside of archives stay closed.
"""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gptcore.text.archive_limits import HEADER_BYTES, MEMBERS, Budget, Counted, Refused, judged
from gptcore.text.documents import Document, Problem
from gptcore.text.file_names import FileType, known_format
from gptcore.text.formats import read_stream
from gptcore.text.packings import Damaged, unpacked
from gptcore.text.wanted import Found, NoTextField, Wanted

READ_AHEAD = 1 << 18
"""Bytes of a member asked for at once."""

READ_WHOLE = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
"""Types of tar headers whose content says something of the next member."""


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    size: int
    """Unpacked bytes."""
    open: Callable[[], IO[bytes]]
    refusal: str | None
    """The kind of `Problem` it is, or None for a file."""
    whole: bool
    """Whether an error in it ends the archive: in a tar nothing says where the next member begins."""


def read_archive(path: Path, type: FileType, name: str, wanted: Wanted) -> Found:
    """The items of every member, in the archive's order; what is refused or damaged is a Problem.

    Raises NoTextField when the archive has tables and none of its members gave a text.
    """
    budget = Budget(path.stat().st_size)
    names: set[bytes] = set()
    missing: NoTextField | None = None
    number = texts = 0
    try:
        with closing(_tar(path, type, budget) if type.form == "tar" else _zip(path, budget)) as members:
            for number, member in enumerate(members, 1):
                if number > MEMBERS:
                    raise Refused("too_many", f"members beyond {MEMBERS:,} are not read")
                inner = f"{name}!{_told(member.name, number, names)}"
                try:
                    for item in _read_member(member, inner, budget, wanted):
                        texts += isinstance(item, Document)
                        yield item
                except NoTextField as error:
                    missing = missing or error
                    yield Problem("no_text", inner)
    except Refused as refusal:
        yield Problem(refusal.kind, f"{name} ({refusal})")
        return
    except Damaged as damage:
        yield Problem(damage.kind, f"{name} ({damage})")
        return
    if not number:
        yield Problem("no_text", name)
    if missing is not None and not texts:
        raise missing


def _read_member(member: _Member, name: str, budget: Budget, wanted: Wanted) -> Found:
    type = known_format(member.name)
    if member.refusal is not None:
        yield Problem(member.refusal, name)
    elif type is None or type.archive:
        yield Problem("no_reader", name)
    elif not member.size:
        yield Problem("no_text", name)
    else:
        try:
            with judged(member.whole), member.open() as file:
                plain = unpacked(file, type.packing)
                if type.packing is not None:
                    plain = io.BufferedReader(Counted(plain, budget, whole=False), READ_AHEAD)
                yield from read_stream(plain, type.form, name, wanted)
        except Damaged as damage:
            yield Problem(damage.kind, f"{name} ({damage})")


def _told(name: str, number: int, names: set[bytes]) -> str:
    """A member's name as text; one that came before gets its number, for ids are unique."""
    told = name.encode("utf-8", "backslashreplace").decode()
    digest = hashlib.blake2b(told.encode(), digest_size=8).digest()
    if digest in names:
        return f"{told}~{number}"
    names.add(digest)
    return told


def _unsafe(name: str) -> bool:
    """Whether a name leads out of a folder, on any system."""
    parts = name.replace("\\", "/").split("/")
    return parts[0] == "" or parts[0].endswith(":") or ".." in parts


class _TarMember(tarfile.TarInfo):
    """A header that ends the archive when it is wrong; the library takes it for the archive's end and says nothing."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> _TarMember:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.HeaderError as error:
            # Those of an archive's end are HeaderErrors too, by names that the library does not make public.
            if type(error).__name__ not in ("InvalidHeaderError", "TruncatedHeaderError"):
                raise
            raise Refused("truncated" if "truncated" in str(error) else "damaged", str(error)) from error

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _TarMember:
        member = super().frombuf(buf, encoding, errors)
        if member.type in READ_WHOLE and member.size > HEADER_BYTES:
            raise Refused("damaged", f"a header of {member.size:,} bytes")
        return member


def _tar(path: Path, type: FileType, budget: Budget) -> Generator[_Member, None, None]:
    stream = io.BufferedReader(Counted(unpacked(path.open("rb"), type.packing), budget, whole=True), READ_AHEAD)
    with stream, judged(True), tarfile.open(fileobj=stream, mode="r|", tarinfo=_TarMember) as tar:
        while (info := _next(tar)) is not None:
            tar.members = []  # type: ignore[attr-defined]  # the library would keep them all
            if info.isdir():
                continue

            def content(info: tarfile.TarInfo = info) -> IO[bytes]:
                file = tar.extractfile(info)
                assert file is not None, "a regular member has content"
                return file

            refusal = "not_a_file" if not info.isreg() else "unsafe_name" if _unsafe(info.name) else None
            yield _Member(info.name, info.size, content, refusal, whole=True)


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    try:
        return tar.next()
    except (ValueError, LookupError, OverflowError) as error:  # numbers in headers that are none
        raise Refused("damaged", f"a header that cannot be: {error}") from error


def _zip(path: Path, budget: Budget) -> Generator[_Member, None, None]:
    try:
        with judged(True):
            archive = zipfile.ZipFile(path)
    except (ValueError, LookupError, OverflowError, struct.error) as error:
        raise Refused("damaged", f"a directory that cannot be: {error}") from error
    with archive:
        infos = archive.infolist()
        # No member gives more than it declares: the library stops there.
        budget.check(sum(info.file_size for info in infos))
        for info in infos:
            if info.is_dir():
                continue

            def content(info: zipfile.ZipInfo = info) -> IO[bytes]:
                return io.BufferedReader(Counted(archive.open(info), budget, whole=False), READ_AHEAD)

            refusal = None
            if info.flag_bits & 1:
                refusal = "encrypted"
            elif _unsafe(info.filename):
                refusal = "unsafe_name"
            elif (info.external_attr >> 16) & 0o170000 not in (0, 0o100000):
                refusal = "not_a_file"
            yield _Member(info.filename, info.file_size, content, refusal, whole=False)
