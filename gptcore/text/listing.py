"""The files that paths and globs match, in order of name, however many: what does not fit in memory waits on disk."""

from __future__ import annotations

import glob
import heapq
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import IO

PACKAGE = "package:"
TOGETHER = 20_000
"""Paths sorted in memory at once, some 5 MB."""

Check = Callable[[str], object]


def listed(patterns: Sequence[str], check: Check) -> Iterator[tuple[str, str]]:
    """(name, path) of every file that the patterns match, each once, sorted by name.

    Names are relative to the files' common folder, so that moving the folder changes nothing. Before the first one
    comes, FileNotFoundError is raised for a pattern without a match, ValueError for a folder, or what `check` says of
    a name.
    """
    with ExitStack() as stack:
        found = _Found(patterns, check)
        runs: list[Iterable[str]] = []
        while run := sorted(set(islice(found, TOGETHER)), key=_order):
            runs.append(_aside(run, stack) if len(run) > TOGETHER // 2 else run)
        root = found.root()
        last = None
        for path in heapq.merge(*runs, key=_order):
            if path != last:
                yield _name(path, root), path
            last = path


class _Found:
    """The paths as globs bring them, some of them twice, and what is learned on the way."""

    def __init__(self, patterns: Sequence[str], check: Check) -> None:
        self._paths = (path for pattern in patterns for path in _matches(pattern))
        self._check = check
        self._root: str | None = None
        self._refused: str | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        path = next(self._paths)
        folder = os.path.dirname(path)
        if self._root is None:
            self._root = folder
        elif folder != self._root:
            self._root = os.path.commonpath([self._root, folder])
        try:
            self._check(_told(path))
        except ValueError:
            self._refused = min(path, self._refused or path, key=_order)
        return path

    def root(self) -> str:
        """The common folder of all; raises what `check` says of the first name that it refuses."""
        assert self._root is not None, "a pattern without a match is refused"
        if self._refused is not None:
            self._check(_name(self._refused, self._root))
        return self._root


def _matches(pattern: str) -> Iterator[str]:
    there = _place(pattern)
    if os.path.isdir(there):
        raise ValueError(f"{pattern} is a folder; name files, or a glob such as {os.path.join(pattern, '*.jsonl')}")
    none = True
    for match in [there] if os.path.exists(there) else glob.iglob(there, recursive=True):
        if os.path.isfile(match):
            none = False
            yield os.path.abspath(match)
    if none:
        raise FileNotFoundError(f"no file matches {pattern} (seen from {os.getcwd()})")


def _place(pattern: str) -> str:
    """Where a pattern looks; `package:NAME/…` below an installed package, which is not imported."""
    if not pattern.startswith(PACKAGE):
        return os.path.expanduser(pattern)
    name, _, inside = pattern.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"{pattern}: no package {name!r} is installed; pip install it, or name another path")
    return os.path.join(spec.submodule_search_locations[0], inside)


def _told(path: str) -> str:
    """A path as text with slashes; bytes that are not UTF-8 are spelt out."""
    return path.replace(os.sep, "/").encode("utf-8", "backslashreplace").decode()


def _name(path: str, root: str) -> str:
    return _told(path[len(root) :].lstrip(os.sep))


def _order(path: str) -> tuple[str, str]:
    """As names sort: what all paths begin with does not matter."""
    return _told(path), path


def _aside(run: Sequence[str], stack: ExitStack) -> Iterator[str]:
    """The same paths from a file without a name, which is gone when the stack closes."""
    file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    file.writelines(json.dumps(path).encode() + b"\n" for path in run)
    file.seek(0)
    return _back(file)


def _back(file: IO[bytes]) -> Iterator[str]:
    for line in file:
        path: str = json.loads(line)
        yield path
