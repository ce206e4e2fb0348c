"""Dumps of a MediaWiki: the articles of a `<pages>` XML export, plain or packed, as plain text, in flat memory."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from xml.parsers import expat

from gptcore.text import files
from gptcore.text.digests import DigestCache
from gptcore.text.documents import Document, Problem
from gptcore.text.file_names import PACKINGS
from gptcore.text.packings import Damaged, unpacked
from gptcore.text.wikitext import namespace_key, plain_text

if TYPE_CHECKING:
    from gptcore.config_sources import Wikipedia

LICENCE = "CC-BY-SA-4.0"
"""Of Wikipedia's text (foundation.wikimedia.org, Terms of Use, section 7)."""
ENDINGS = (".xml", ".xml.bz2", ".xml.gz")
CHUNK = 1 << 18
"""Bytes of XML parsed at once; the pages they complete are held."""
PAGE_CHARS = 64_000_000
"""A page of more is skipped with a count: it must not take the machine's memory."""
DEEPEST = 32
"""Elements inside elements; an export has 5."""
TEXTLESS = (-2, 6, 14)
"""Namespaces of media, files and categories: links into them show no text."""
FIELDS = frozenset({"title", "ns", "id", "timestamp", "model", "text", "namespace"})


@dataclass(slots=True)
class Page:
    """One page of an export, with its last revision."""

    title: str = ""
    namespace: str = "0"
    id: str = ""
    redirect: bool = False
    date: str = ""
    model: str = "wikitext"
    text: str = ""
    too_long: bool = False


def check_name(name: str) -> None:
    """Raises ValueError for a file name that is none of a dump."""
    if not name.lower().endswith(ENDINGS):
        raise ValueError(f"{name}: no dump of a MediaWiki by its name; it must end in {', '.join(ENDINGS)}")


def resolve(source: Wikipedia, cache: DigestCache) -> dict[str, Any]:
    """The source's version: every dump file's name and sha256; raises ValueError for a file that cannot be read."""
    return {
        "kind": source.kind,
        "files": [[name, sha256] for name, _, sha256 in files.digests(source, cache, check_name)],
    }


def units(source: Wikipedia, version: dict[str, Any]) -> list[dict[str, Any]]:
    """The work, one dump file each: {"files": [{"path", "name", "sha256"}], "bytes", "max_documents", "licence"}."""
    digests = dict(version["files"])
    return [
        {
            "files": [{"path": str(path), "name": name, "sha256": digests.get(name)}],
            "bytes": path.stat().st_size,
            "max_documents": source.max_documents,
            "licence": LICENCE,
        }
        for name, path in files.expand(source, check_name)
    ]


def read_dump(
    path: Path, name: str, label: str, max_documents: int | None = None, done: int = 0
) -> Iterator[Document | Problem]:
    """One Document for each article of a dump file, in order, after the first `done` items.

    Articles are the pages of namespace 0 that are no redirects and hold wikitext. Where the file breaks off or is
    damaged a last Problem says so. Raises ValueError for XML that declares entities.
    """
    parser = _Export()
    documents = items = 0
    for found in _pages(path, name, parser):
        if isinstance(found, Page) and not _is_article(found, parser.namespaces):
            continue
        items += 1
        if isinstance(found, Page) and not found.too_long:
            documents += 1
        if items > done:
            yield _document(found, name, label, parser) if isinstance(found, Page) else found
        if documents == max_documents:
            return


def _document(page: Page, name: str, label: str, parser: _Export) -> Document | Problem:
    if page.too_long:
        return Problem("too_long", f"{name}: page {page.id}")
    hidden = [parser.namespaces[key] for key in TEXTLESS if key in parser.namespaces]
    id = f"{label}/{page.id}"
    text = plain_text(page.text, hidden)
    return Document(id, "wikipedia", id, None, None, text, page.title or None, page.date[:10] or None, LICENCE)


def _is_article(page: Page, namespaces: dict[int, str]) -> bool:
    if page.redirect or page.namespace != "0" or page.model != "wikitext" or not page.id:
        return False
    # Exports before 2012 name the namespace in the title alone, and redirects in the text alone.
    prefix, colon, _ = page.title.partition(":")
    if colon and prefix and namespace_key(prefix) in {namespace_key(name) for name in namespaces.values()}:
        return False
    return not page.text[:20].lstrip().lower().startswith(("#redirect", "#重定向"))


def _pages(path: Path, name: str, parser: _Export) -> Iterator[Page | Problem]:
    """Every page; a Problem last where the file does not end as an export does."""
    last = path.name.lower().rpartition(".")[2]
    try:
        with cast(io.BufferedReader, unpacked(path.open("rb"), last if last in PACKINGS else None)) as file:
            while data := file.read1(CHUNK):  # read() would lose what it has when it meets a torn end
                parser.feed(data)
                yield from parser.take()
        if parser.open_elements() or not parser.begun:
            raise Damaged("", "truncated")
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    except (Damaged, expat.ExpatError) as error:
        yield from parser.take()
        where, kind = f"{name}: after {parser.pages:,} pages", getattr(error, "kind", "damaged")
        yield Problem(kind, where if kind == "truncated" else f"{where} ({error})")


@dataclass
class _Export:
    """A push parser of exports: feed bytes, take the pages they complete."""

    namespaces: dict[int, str] = field(default_factory=dict)
    """Local names by key, from the siteinfo."""
    pages: int = 0
    """Completed so far, of all namespaces."""
    begun: bool = False

    def __post_init__(self) -> None:
        self._path: list[str] = []
        self._page = Page()
        self._ready: list[Page] = []
        self._pieces: list[str] = []
        self._size = 0
        self._key = 0
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = None
        self._parser.EntityDeclHandler = self._entity

    def feed(self, data: bytes) -> None:
        """Parse more; raises ExpatError or Damaged for what is no export, ValueError for a declared entity."""
        self._parser.Parse(data, False)

    def take(self) -> list[Page]:
        """The pages completed since the last call."""
        ready, self._ready = self._ready, []
        return ready

    def open_elements(self) -> int:
        """How many elements are not closed yet."""
        return len(self._path)

    def _entity(self, name: str, *_: Any) -> None:
        # Entities of entities can stand for more text than any memory holds; no export declares one.
        raise ValueError(f"declares the XML entity {name[:40]!r}, which no dump does; fetch the dump anew")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self.begun and tag != "mediawiki":
            raise Damaged(f"begins with <{tag[:40]}>, not <mediawiki>")
        self.begun = True
        self._path.append(tag)
        if len(self._path) > DEEPEST:
            raise Damaged(f"elements stand {len(self._path)} deep")
        if tag == "page":
            self._page = Page()
        elif tag == "revision":
            self._page.text, self._page.too_long = "", False
        elif tag == "redirect":
            self._page.redirect = True
        elif tag in FIELDS:
            self._key = int(key) if (key := attributes.get("key", "0")).lstrip("-").isdecimal() else 0
            self._pieces, self._size = [], 0
            self._parser.CharacterDataHandler = self._characters

    def _characters(self, text: str) -> None:
        self._size += len(text)
        if self._size <= PAGE_CHARS:
            self._pieces.append(text)

    def _end(self, tag: str) -> None:
        self._path.pop()
        self._parser.CharacterDataHandler = None
        parent = self._path[-1] if self._path else ""
        page = self._page
        if tag == "page":
            self.pages += 1
            self._ready.append(page)
            self._page = Page()
        elif tag not in FIELDS:
            return
        elif parent == "namespaces":
            self.namespaces[self._key] = "".join(self._pieces)
        elif parent == "page" and tag in ("title", "ns", "id"):
            setattr(page, {"ns": "namespace"}.get(tag, tag), "".join(self._pieces).strip())
        elif parent == "revision" and tag == "timestamp":
            page.date = "".join(self._pieces).strip()
        elif parent == "revision" and tag == "model":
            page.model = "".join(self._pieces).strip()
        elif parent == "revision" and tag == "text":
            page.too_long = self._size > PAGE_CHARS
            page.text = "" if page.too_long else "".join(self._pieces)
        self._pieces = []
