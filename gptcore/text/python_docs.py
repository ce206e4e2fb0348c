"""Docstrings of the standard library and of installed distributions, read with `ast`: nothing is imported or run."""

from __future__ import annotations

import ast
import csv
import difflib
import hashlib
import inspect
import io
import os
import platform
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from gptcore.text.digests import DigestCache
from gptcore.text.distributions import STDLIB, STDLIB_LICENCE, Installed, canonical_name, declared_licence, installed
from gptcore.text.documents import Document, Problem

if TYPE_CHECKING:
    from gptcore.config_sources import PythonDocs

NOT_DOCUMENTATION = frozenset(
    {"__pycache__", "site-packages", "dist-packages", "test", "tests", "_test", "_tests", "idle_test"}
)
"""Folders left out: tests, caches, and other people's packages inside the standard library's folder."""
UNIT_FILES = 150
"""Files in one unit of harvesting: small enough that two workers end together, large enough to be worth a part file."""


def chosen(source: PythonDocs) -> list[Installed]:
    """The source's distributions by name; raises ValueError that names those not installed, and their neighbours."""
    present = installed()
    problems = []
    for name in sorted({canonical_name(name) for name in source.packages}):
        if name not in present:
            near = difflib.get_close_matches(name, present, n=3, cutoff=0.6)
            problems.append(f"package {name!r} is not installed" + (f" (nearest: {', '.join(near)})" if near else ""))
        elif not os.path.exists(present[name].record):
            problems.append(f"package {name!r} has no RECORD of its files; install it from a wheel")
    if problems:
        raise ValueError("; ".join(problems))
    return [present[name] for name in sorted({canonical_name(name) for name in source.packages})]


def is_documentation(path: str) -> bool:
    """Whether a .py file, by its path with forward slashes inside its package, may hold documentation."""
    *folders, name = path.split("/")
    return (
        name.endswith(".py")
        and not name.startswith(("test_", "_sysconfigdata"))
        and name != "conftest.py"
        and not path.startswith("/")
        and ".." not in folders
        and NOT_DOCUMENTATION.isdisjoint(folders)
        and not any(folder.startswith("config-") or folder.endswith((".dist-info", ".data")) for folder in folders)
    )


def stdlib_root() -> str:
    """The standard library's folder."""
    return sysconfig.get_path("stdlib")


def stdlib_files() -> list[str]:
    """The standard library's files, sorted, relative to its folder, with forward slashes."""
    root = stdlib_root()
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in NOT_DOCUMENTATION and not name.startswith("config-")]
        inside = os.path.relpath(folder, root).replace(os.sep, "/")
        found += [name if inside == "." else f"{inside}/{name}" for name in names if name.endswith(".py")]
    return sorted(path for path in found if is_documentation(path))


def package_files(package: Installed) -> list[tuple[str, str]]:
    """(path, recorded digest or an empty string) of a distribution's files that may hold documentation, sorted.

    Paths are relative to `package.root`. Read from RECORD, a CSV of path, digest, size (PEP 376).
    """
    with open(package.record, encoding="utf-8", newline="") as file:
        # Tens of thousands of lines, few of them Python: look before parsing.
        rows = csv.reader(line for line in file if ".py" in line)
        return sorted({(row[0], row[1] if len(row) > 1 else "") for row in rows if row and is_documentation(row[0])})


def resolve(source: PythonDocs, cache: DigestCache) -> dict[str, Any]:
    """The source's version: Python's and each package's version, content digest and licence.

    Raises ValueError for a package that is not installed or holds no Python files.
    """
    packages = chosen(source)  # refused before anything is read
    version: dict[str, Any] = {"kind": source.kind, "python": platform.python_version(), "packages": {}}
    if source.stdlib:
        root = stdlib_root()
        lines = [f"{path},{cache.get(f'{root}/{path}')}" for path in stdlib_files()]
        version["packages"][STDLIB] = _package(platform.python_version(), _digest(lines), STDLIB_LICENCE)
    for package in packages:

        def record_digest(_record: Path, package: Installed = package) -> dict[str, Any]:
            files = package_files(package)
            if not files:
                raise ValueError(
                    f"package {package.name!r} lists no Python files (an editable install?); install it from a wheel"
                )
            unhashed = [path for path, digest in files if not digest]
            return {"lines": _digest([f"{path},{digest}" for path, digest in files if digest]), "unhashed": unhashed}

        known = cache.get(package.record, record_digest, "python_docs")
        digest = known["lines"]
        if known["unhashed"]:
            hashed = [f"{path},{cache.get(os.path.join(package.root, path))}" for path in known["unhashed"]]
            digest = _digest([digest, *hashed])
        licence = declared_licence(package, cache)
        version["packages"][package.name] = _package(package.version, digest, licence)
    if not version["packages"]:
        raise ValueError("python_docs with stdlib: false and no packages has nothing to read; name packages")
    return version


def _package(version: str, digest: str, licence: str | None) -> dict[str, Any]:
    return {"version": version, "digest": digest, "licence": licence}


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def units(source: PythonDocs, version: dict[str, Any]) -> list[dict[str, Any]]:
    """The work, in corpus order: {"package", "root", "files", "licence"} with at most UNIT_FILES files each."""
    listed: list[tuple[str, str, list[str]]] = []
    if source.stdlib:
        listed.append((STDLIB, stdlib_root(), stdlib_files()))
    listed += [(p.name, p.root or os.getcwd(), [path for path, _ in package_files(p)]) for p in chosen(source)]
    return [
        {
            "package": package,
            "root": root,
            "files": files[first : first + UNIT_FILES],
            "licence": version["packages"][package]["licence"],
        }
        for package, root, files in listed
        for first in range(0, len(files), UNIT_FILES)
    ]


def read_unit(
    package: str, root: str, files: list[str], label: str, licence: str | None = None
) -> Iterator[Document | Problem]:
    """The documents of some files, in order of file and line; `licence` is the package's."""
    for path in files:
        try:
            data = Path(root, path).read_bytes()
        except OSError:
            yield Problem("missing", f"{package}: {path}")
            continue
        yield from read_module(data, package, path, label, licence)


def read_module(
    data: bytes, package: str, path: str, label: str, licence: str | None = None
) -> Iterator[Document | Problem]:
    """One document per docstring of a module's source, in order of line.

    `path` is relative, with forward slashes. A source that cannot be decoded or parsed is one Problem.
    """
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        source = data.decode(encoding)
    except (UnicodeDecodeError, SyntaxError, LookupError):
        yield Problem("undecodable", f"{package}: {path}")
        return
    try:
        with warnings.catch_warnings():
            # Old-style escapes such as "\d" warn once a file; they are the package's business, not ours.
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        yield Problem("unparsable", f"{package}: {path}")
        return
    module = module_name(path)
    for name, line, raw in docstrings(tree, module):
        id = f"{label}/{package}/{path}:{line}"
        yield Document(id, "python_docs", module, package, name, inspect.cleandoc(raw), licence=licence)


def module_name(path: str) -> str:
    """The dotted name a relative path is imported by: a/b.py is a.b, a/__init__.py is a."""
    parts = PurePosixPath(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def docstrings(tree: ast.Module, module: str) -> Iterator[tuple[str, int, str]]:
    """(dotted name, line, raw text) of the module, its classes, functions and methods, nested ones too."""
    todo: list[tuple[ast.AST, str]] = [(tree, module)]
    while todo:
        node, name = todo.pop()
        body: list[ast.stmt] = getattr(node, "body", [])
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and body:
            first = body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                yield name, first.lineno, first.value.value
        inner: list[tuple[ast.AST, str]] = []
        for statement in _statements(node):
            if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                inner.append((statement, f"{name}.{statement.name}"))
            elif isinstance(
                statement, ast.If | ast.Try | ast.With | ast.For | ast.While | ast.AsyncWith | ast.AsyncFor
            ):
                inner.append((statement, name))
        todo += reversed(inner)


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """The statements directly inside a definition or a compound statement; expressions hold no docstrings."""
    for field in ("body", "handlers", "orelse", "finalbody"):
        for child in getattr(node, field, ()):
            if isinstance(child, ast.ExceptHandler):
                yield from child.body
            else:
                yield child
