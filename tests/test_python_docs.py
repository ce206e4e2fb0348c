"""Docstrings of installed packages: what is found, what is left out, and what their version is made of."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
from pathlib import Path

import pytest

from gptcore.config_sources import PythonDocs
from gptcore.text import python_docs
from gptcore.text.distributions import canonical_name
from gptcore.text.documents import Document, Problem
from gptcore.text.sources import read_unit, resolve_source, source_units

MODULE = '''\
"""The module."""
import sys

class Outer:
    """A class.

    Indented text,   \t
      kept relative.
    """

    def method(self):
        "A method."
        def inner():
            """An inner function."""

if sys.platform:
    try:
        async def conditional():
            """Only sometimes there."""
    except ImportError as error:
        def fallback():
            """Otherwise."""

def without():
    f"""No docstring: it is computed."""
'''


def install(root: Path, name: str, files: dict[str, bytes], hashed: bool = True) -> None:
    """A distribution as pip leaves it: files, and RECORD with their digests."""
    lines = []
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
        digest = "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        lines.append(f"{path},{digest},{len(data)}" if hashed else f"{path},,")
    info = root / f"{name}-1.2.dist-info"
    info.mkdir(exist_ok=True)
    (info / "RECORD").write_text("\n".join([*lines, f"{info.name}/RECORD,,"]) + "\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on sys.path for packages of a test's own."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    return site


def read(package: str, packages: tuple[str, ...]) -> list[Document | Problem]:
    source = PythonDocs(stdlib=False, packages=packages)
    version = {"packages": {canonical_name(name): {"licence": None} for name in packages}}
    units = source_units(source, version)
    return [
        item
        for unit in units
        if unit["package"] == package
        for item in python_docs.read_unit(unit["package"], unit["root"], unit["files"], "docs")
    ]


def test_every_definition_gives_one_document_in_order_of_line() -> None:
    found = list(python_docs.read_module(MODULE.encode(), "demo", "pkg/mod.py", "docs"))
    assert [(d.name, d.id, d.group, d.package) for d in found if isinstance(d, Document)] == [
        ("pkg.mod", "docs/demo/pkg/mod.py:1", "pkg.mod", "demo"),
        ("pkg.mod.Outer", "docs/demo/pkg/mod.py:5", "pkg.mod", "demo"),
        ("pkg.mod.Outer.method", "docs/demo/pkg/mod.py:12", "pkg.mod", "demo"),
        ("pkg.mod.Outer.method.inner", "docs/demo/pkg/mod.py:14", "pkg.mod", "demo"),
        ("pkg.mod.conditional", "docs/demo/pkg/mod.py:19", "pkg.mod", "demo"),
        ("pkg.mod.fallback", "docs/demo/pkg/mod.py:22", "pkg.mod", "demo"),
    ]
    outer = found[1]
    assert isinstance(outer, Document)
    assert outer.text.startswith("A class.\n\nIndented text,") and outer.text.endswith("\n  kept relative.")


def test_the_same_documents_as_ast_finds_in_a_real_package() -> None:
    path = Path(ast.__file__)
    found = list(python_docs.read_module(path.read_bytes(), "python", "ast.py", "docs"))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    expected = [
        ast.get_docstring(node)
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, kinds) and ast.get_docstring(node) is not None
    ]
    assert len(expected) > 30
    assert sorted(d.text for d in found if isinstance(d, Document)) == sorted(text for text in expected if text)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b'"""caf\xe9 in latin-1, undeclared"""', "undecodable"),
        (b"# coding: no-such-codec\n", "undecodable"),
        (b'"""print is a statement"""\nprint "x"\n', "unparsable"),
        (b'"""A null\x00 byte."""', "unparsable"),
        (b"x = " + b"-" * 20_000 + b"1", "unparsable"),
    ],
)
def test_a_bad_file_is_one_problem(data: bytes, kind: str) -> None:
    assert list(python_docs.read_module(data, "demo", "a.py", "docs")) == [Problem(kind, "demo: a.py")]


def test_a_declared_encoding_is_honoured_and_old_escapes_do_not_warn() -> None:
    data = '# coding: latin-1\n"""café \\d"""'.encode("latin-1")
    found = list(python_docs.read_module(data, "demo", "a.py", "docs"))
    assert [d.text for d in found if isinstance(d, Document)] == ["café \\d"]


def test_packages_are_read_without_being_run_and_tests_are_left_out(site: Path) -> None:
    run = site / "was-run"
    install(
        site,
        "Demo_Pkg",
        {
            "demo/__init__.py": f'"""Demo."""\nopen({str(run)!r}, "w").close()\n'.encode(),
            "demo/part.py": b'"""Part."""',
            "demo/tests/helpers.py": b'"""A test helper."""',
            "demo/test_part.py": b'"""A test."""',
            "demo/conftest.py": b'"""Fixtures."""',
            "demo/data.txt": b"no Python",
            "demo/stub.pyi": b'"""A stub."""',
        },
    )
    found = read("demo-pkg", ("demo.pkg",))
    assert [(d.name, d.text) for d in found if isinstance(d, Document)] == [("demo", "Demo."), ("demo.part", "Part.")]
    assert not run.exists()


def test_a_file_gone_since_installation_is_a_problem(site: Path) -> None:
    install(site, "demo", {"demo/a.py": b'"""A."""', "demo/b.py": b'"""B."""'})
    (site / "demo/a.py").unlink()
    missing, document = read("demo", ("demo",))
    assert missing == Problem("missing", "demo: demo/a.py")
    assert isinstance(document, Document) and document.text == "B."


def test_the_version_is_made_of_contents_not_places(site: Path, tmp_path: Path) -> None:
    source = PythonDocs(stdlib=False, packages=("demo",))
    install(site, "demo", {"demo/a.py": b'"""A."""', "demo/tests/t.py": b"1"})
    first = resolve_source(source, tmp_path / "cache")
    assert first["packages"]["demo"]["version"] == "1.2"
    assert str(tmp_path) not in json.dumps(first)
    install(site, "demo", {"demo/a.py": b'"""A."""', "demo/tests/t.py": b"2"})
    assert resolve_source(source, tmp_path / "cache") == first, "tests are not read, so they are not in the version"
    install(site, "demo", {"demo/a.py": b'"""B."""'})
    assert resolve_source(source, tmp_path / "cache") != first


def test_documents_carry_the_licence_of_their_distribution(site: Path, tmp_path: Path) -> None:
    for name in ("free", "silent"):
        install(site, name, {f"{name}.py": b'"""Docs."""'})
    (site / "free-1.2.dist-info/METADATA").write_text("Metadata-Version: 2.4\nName: free\nLicense-Expression: MIT\n")
    source = PythonDocs(packages=("free", "silent"))
    version = resolve_source(source, tmp_path / "cache")
    licences = {"free": "MIT", "python": "PSF-2.0", "silent": None}
    assert {name: package["licence"] for name, package in version["packages"].items()} == licences
    found = {}
    for unit in source_units(source, version):
        some = {**unit, "files": unit["files"][:3]}
        items = read_unit(some, "docs", 1000, tmp_path, lambda _: None).items
        found[unit["package"]] = {item.licence for item in items if isinstance(item, Document)}
    assert found == {name: {licence} for name, licence in licences.items()}


def test_another_licence_is_another_version(site: Path, tmp_path: Path) -> None:
    source = PythonDocs(stdlib=False, packages=("demo",))
    install(site, "demo", {"demo.py": b'"""Docs."""'})
    versions = []
    for licence in ("MIT", "Apache-2.0"):
        (site / "demo-1.2.dist-info/METADATA").write_text(f"Metadata-Version: 2.4\nLicense-Expression: {licence}\n")
        versions.append(resolve_source(source, tmp_path / "cache"))
    assert versions[0] != versions[1]


def test_files_without_a_recorded_digest_are_read_for_the_version(site: Path, tmp_path: Path) -> None:
    source = PythonDocs(stdlib=False, packages=("demo",))
    install(site, "demo", {"demo/a.py": b'"""A."""'}, hashed=False)
    first = resolve_source(source, tmp_path / "cache")
    (site / "demo/a.py").write_bytes(b'"""Another."""')
    assert resolve_source(source, tmp_path / "cache") != first


def test_a_second_resolve_reads_no_file_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = PythonDocs(packages=("numpy", "pydantic"))
    first = resolve_source(source, tmp_path / "cache")
    assert set(first["packages"]) == {"python", "numpy", "pydantic"}

    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(python_docs.DigestCache.get, "__defaults__", (refuse, ""))
    monkeypatch.setattr(python_docs, "package_files", refuse)
    assert resolve_source(source, tmp_path / "cache") == first


def test_the_standard_library_is_read_without_its_tests() -> None:
    files = python_docs.stdlib_files()
    assert {"ast.py", "json/decoder.py"} < set(files)
    assert not any("test" in path.split("/")[:-1] or "site-packages" in path for path in files)
    assert files == sorted(files)


def test_what_cannot_be_read_is_refused_by_name(site: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'numpi' is not installed \(nearest: .*numpy"):
        resolve_source(PythonDocs(packages=("numpi",)), tmp_path)
    install(site, "hollow", {"hollow.so": b""})
    with pytest.raises(ValueError, match="'hollow' lists no Python files"):
        resolve_source(PythonDocs(stdlib=False, packages=("hollow",)), tmp_path)
    (site / "bare-1.0.dist-info").mkdir()
    with pytest.raises(ValueError, match="'bare' has no RECORD"):
        resolve_source(PythonDocs(stdlib=False, packages=("bare",)), tmp_path)
    with pytest.raises(ValueError, match="nothing to read"):
        resolve_source(PythonDocs(stdlib=False), tmp_path)
