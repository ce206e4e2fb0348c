"""Documented functions of installed Python packages, read with `ast`: nothing is imported or run."""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gptcore.text.documents import Problem
from gptcore.text.python_docs import module_name

Rows = Iterator[tuple[str, dict[str, Any]] | Problem]


def read_unit(package: str, root: str, files: list[str]) -> Rows:
    """The functions of some files of a package, in order of file and line."""
    for path in files:
        try:
            data = Path(root, path).read_bytes()
        except OSError:
            yield Problem("missing", f"{package}: {path}")
            continue
        yield from read_functions(data, package, path)


def read_functions(data: bytes, package: str, path: str) -> Rows:
    """A row for each function and method that has a docstring and, behind it, a body.

    `source` is the whole function without its docstring, `signature` from its first line (decorators too) up to the
    colon, `docstring` the whole, `summary` its first paragraph on one line, `body` what follows it; all without the
    indentation of their place.
    """
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        source = data.decode(encoding)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes are the package's business
            tree = ast.parse(source)
    except (SyntaxError, ValueError, LookupError, RecursionError, MemoryError):
        yield Problem("unparsable", f"{package}: {path}")
        return
    lines = source.expandtabs().splitlines()
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for node in sorted(found, key=lambda node: node.lineno):
        row = _row(node, lines)
        if row:
            places = {"name": node.name, "module": module_name(path), "package": package}
            yield f"{package}/{path}:{node.lineno}", {**row, **places}


def _row(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> dict[str, Any] | None:
    raw = ast.get_docstring(node, clean=False)
    if raw is None or not raw.strip() or len(node.body) < 2:
        return None
    said, first = node.body[0], node.body[1]
    begin = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    # A docstring on the line of its `def`, or code behind it on its own line, is rare and hard to cut apart.
    if said.lineno == node.lineno or first.lineno <= (said.end_lineno or 0):
        return None
    signature = textwrap.dedent("\n".join(lines[begin : said.lineno - 1])).strip()
    body = textwrap.dedent("\n".join(lines[said.end_lineno or 0 : node.end_lineno])).strip("\n")
    docstring = inspect.cleandoc(raw)
    if not signature.endswith(":") or not body.strip():
        return None
    return {
        "source": f"{signature}\n{textwrap.indent(body, '    ')}",
        "signature": signature,
        "docstring": docstring,
        "summary": " ".join(docstring.split("\n\n")[0].split()),
        "body": body,
    }
