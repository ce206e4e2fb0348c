"""One door to every kind of source: its version, its units of work, and the documents of a unit."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptcore.durable import sha256_file
from gptcore.text import files, hub, python_docs
from gptcore.text.digests import DigestCache
from gptcore.text.documents import Document, Problem
from gptcore.text.wanted import Wanted

if TYPE_CHECKING:
    from gptcore.config_sources import Source
    from gptcore.text.workers import Tell

Version = dict[str, Any]


def resolve_source(source: Source, cache_dir: Path) -> Version:
    """The version of a source: what its content is identified by, JSON-able, without local paths.

    `cache_dir` keeps file digests by path, size, mtime and inode. Raises ValueError or FileNotFoundError with one
    line when the source is missing or cannot be read.
    """
    with DigestCache(cache_dir) as cache:
        if source.kind == "python_docs":
            return python_docs.resolve(source, cache)
        if source.kind == "files":
            return files.resolve(source, cache)
        if source.kind == "hub":
            return hub.resolve(source, cache)
        if source.kind == "web":
            from gptcore.text import web

            return web.resolve(source)
        if source.kind == "wikipedia":
            from gptcore.text import wikipedia

            return wikipedia.resolve(source, cache)
        from gptcore.text import url  # its HTTP client costs `plan` 16 ms

        return url.resolve(source)


def source_units(source: Source, version: Version, place: files.Place | None = None) -> list[dict[str, Any]]:
    """The units of work of a source, in corpus order: JSON-able, each with its "kind", and "package" or None.

    place: where the list of very many files is written.
    """
    if source.kind == "python_docs":
        found = python_docs.units(source, version)
    elif source.kind == "files":
        found = files.units(source, version, place)
    elif source.kind == "hub":
        found = hub.units(source, version)
    elif source.kind == "wikipedia":
        from gptcore.text import wikipedia

        found = wikipedia.units(source, version)
    else:
        found = [{**source.model_dump(mode="json"), "version": version}]
    return [{"package": None, **unit, "kind": source.kind} for unit in found]


def source_labels(sources: Sequence[Source]) -> list[str]:
    """What document ids start with: the kind, numbered from the second source of a kind on."""
    return labels_of([source.kind for source in sources])


def labels_of(kinds: Sequence[str]) -> list[str]:
    """The same by the sources' kinds alone."""
    counts = Counter[str]()
    labels = []
    for kind in kinds:
        counts[kind] += 1
        labels.append(kind if counts[kind] == 1 else f"{kind}-{counts[kind]}")
    return labels


@dataclass
class Reading:
    """A unit being read: one item for each docstring or row, and where to go on from."""

    items: Iterator[Document | Problem]
    state: Callable[[], Any] = lambda: None
    """Whatever more than the number of items a resume needs, JSON-able."""
    finish: Callable[[], None] = lambda: None
    """Called at the end: raises ValueError when the source is no longer what its version says."""
    clear: Callable[[], None] = lambda: None
    """Called when all of it is committed: removes what only reading needed."""


def read_unit(
    unit: dict[str, Any], label: str, max_chars: int, scratch: Path, tell: Tell, done: int = 0, state: Any = None
) -> Reading:
    """Begin, or go on after `done` items, to read a unit; downloads go to `scratch`."""
    if unit["kind"] == "python_docs":
        items = python_docs.read_unit(unit["package"], unit["root"], unit["files"], label, unit["licence"])
        for _ in range(done):
            next(items)
        return Reading(items)
    if unit["kind"] == "hub":
        names = ("dataset", "config", "split", "text_field", "max_documents", "commit", "licence")
        rows = hub.open_rows(**{name: unit[name] for name in names}, label=label, done=done, state=state)
        return Reading(iter(rows), rows.state)
    if unit["kind"] == "web":
        from gptcore.text import web

        return Reading(web.read_unit(unit, label, scratch, tell, done), clear=lambda: shutil.rmtree(scratch / "web"))
    if unit["kind"] == "url":
        path = downloaded(unit, scratch, tell)
        found = files.read_file(path, path.name, _wanted(unit, label, max_chars, scratch), done)
        return Reading(found, clear=path.unlink)
    if unit["kind"] == "wikipedia":
        from gptcore.text import wikipedia

        (file,) = unit["files"]
        dump = wikipedia.read_dump(Path(file["path"]), file["name"], label, unit["max_documents"], done)
        found = files.with_file(dump, file["name"])
    else:
        found = files.read_files(files.files_of(unit), _wanted(unit, label, max_chars, scratch), done)

    def unchanged() -> None:
        for file in files.files_of(unit):
            if sha256_file(Path(file["path"])) != file["sha256"]:
                raise ValueError(f"{file['path']} changed while it was read; run again")

    return Reading(found, finish=unchanged)


def _wanted(unit: dict[str, Any], label: str, max_chars: int, scratch: Path) -> Wanted:
    """What a unit of `files` or `url` wants of its files."""
    by_line = unit.get("by_line", False)
    return Wanted(unit["text_field"], unit["kind"], label, max_chars, scratch, unit.get("licence"), by_line)


def downloaded(unit: dict[str, Any], scratch: Path, tell: Tell) -> Path:
    """The file of a unit of `url`, fetched."""
    from gptcore.text import url

    told = 0.0

    def progress(share: float) -> None:
        nonlocal told
        if time.monotonic() - told > 0.5:
            told = time.monotonic()
            tell({"share": share / 2})  # the other half is reading

    return url.download(
        unit["url"],
        scratch / "downloads" / url.file_name(unit["url"]),
        sha256=unit["sha256"],
        expected=unit["version"],
        timeout_s=unit["timeout_s"],
        attempts=unit["attempts"],
        say=lambda line: tell({"say": line}),
        progress=progress,
    )
