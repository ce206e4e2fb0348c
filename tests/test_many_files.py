"""Sources of very many files: the list stays on disk, the version is one digest, and every change is still noticed."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import tracemalloc
from pathlib import Path

import pytest
from test_corpus import build, digests

from gptcore.config import Corpus
from gptcore.config_sources import Files
from gptcore.text import digests as digests_module
from gptcore.text import files, listing
from gptcore.text.digests import DigestCache
from gptcore.text.file_names import format_of
from gptcore.text.listing import listed
from gptcore.text.sources import read_unit, resolve_source, source_units

SPLITS = {"validation_share": 0.05, "test_share": 0.05}


def tiny(folder: Path, count: int) -> Files:
    """Files of an hour ago, some to a folder."""
    for n in range(count):
        path = folder / f"{n // 500:03d}" / f"{n:06d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"File {n} of very many, each of which says a little about {n * n}.")
        os.utime(path, (1, 1))
    return Files(kind="files", paths=(f"{folder}/*/*.txt",))


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty files are very many, and are sorted seven at a time."""
    monkeypatch.setattr(files, "MANY_FILES", 20)
    monkeypatch.setattr(files, "UNIT_FILES", 8)
    monkeypatch.setattr(listing, "TOGETHER", 7)
    monkeypatch.setattr(digests_module, "TOGETHER", 9)


def place(folder: Path) -> files.Place:
    return files.Place(folder / "list", folder / "cache")


# The version


def test_the_version_is_one_digest_of_names_and_contents(tmp_path: Path, many: None) -> None:
    source = tiny(tmp_path / "x", 50)
    version = resolve_source(source, tmp_path / "cache")
    assert set(version) == {"kind", "count", "digest"} and version["count"] == 50 and len(version["digest"]) == 64
    (tmp_path / "x").rename(tmp_path / "y")
    moved = Files(kind="files", paths=(f"{tmp_path}/y/*/*.txt",))
    assert resolve_source(moved, tmp_path / "cache") == version, "where the files lie does not matter"
    (tmp_path / "y/000/000031.txt").write_text("Another text of this file.")
    changed = resolve_source(moved, tmp_path / "cache")
    (tmp_path / "y/000/000030.txt").rename(tmp_path / "y/000/000030b.txt")
    renamed = resolve_source(moved, tmp_path / "cache")
    assert len({one["digest"] for one in (version, changed, renamed)}) == 3
    for n in range(20, 50):
        next((tmp_path / "y/000").glob(f"{n:06d}*")).unlink()
    assert len(resolve_source(moved, tmp_path / "cache")["files"]) == 20, "few files are named one by one"


def test_units_and_documents_are_those_of_few_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: None
) -> None:
    source = tiny(tmp_path / "x", 50)
    config = Corpus(sources=(source,), **SPLITS)
    listed_units = source_units(source, resolve_source(source, tmp_path / "cache"), place(tmp_path))
    build(tmp_path / "many", config)
    monkeypatch.setattr(files, "MANY_FILES", 50)
    units = source_units(source, resolve_source(source, tmp_path / "cache"))
    assert [files.files_of(unit) for unit in listed_units] == [unit["files"] for unit in units]
    assert [unit["bytes"] for unit in listed_units] == [unit["bytes"] for unit in units] and len(units) == 7
    build(tmp_path / "few", config)
    found, expected = (digests(tmp_path / name, ("documents/*.jsonl",)) for name in ("many", "few"))
    assert found == expected and len(found) == 3


def test_one_version_whatever_is_sorted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: None) -> None:
    source = tiny(tmp_path / "x", 50)
    version = resolve_source(source, tmp_path / "cache")
    monkeypatch.setattr(listing, "TOGETHER", 1000)
    assert resolve_source(source, tmp_path / "cache") == version


# Changes


def test_no_file_is_read_again_for_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: None) -> None:
    source = tiny(tmp_path / "x", 50)
    version = resolve_source(source, tmp_path / "cache")

    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(DigestCache.get, "__defaults__", (refuse, ""))
    assert len(source_units(source, version, place(tmp_path))) == 7


def test_a_file_that_changed_since_it_was_looked_at_is_named(tmp_path: Path, many: None) -> None:
    source = tiny(tmp_path / "x", 50)
    version = resolve_source(source, tmp_path / "cache")
    (tmp_path / "x/000/000033.txt").write_text("Something else.")
    with pytest.raises(ValueError, match=r"changed since it was looked at \(.*/000033\.txt\); run again"):
        source_units(source, version, place(tmp_path))
    version = resolve_source(source, tmp_path / "cache")
    (tmp_path / "x/000/000034.txt").unlink()
    with pytest.raises(ValueError, match=r"\(49 files are there, 50 were\); run again"):
        source_units(source, version, place(tmp_path))


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path: Path, many: None) -> None:
    source = tiny(tmp_path / "x", 50)
    unit = source_units(source, resolve_source(source, tmp_path / "cache"), place(tmp_path))[2]
    reading = read_unit(unit, "files", 1000, tmp_path, lambda _: None)
    assert len(list(reading.items)) == 8
    reading.finish()
    (tmp_path / "x/000/000017.txt").write_text("Something else.")
    with pytest.raises(ValueError, match=r"000017\.txt changed while it was read; run again"):
        reading.finish()


# The list


def test_files_come_in_order_of_name_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "TOGETHER", 7)
    names = [f"{a}{b}{c}" for a in ("a/", "a-", "B/", "") for b in ("1", "é", "\udcff") for c in ("x.txt", "/y.md")]
    random.Random(1).shuffle(names)
    for name in names:
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_text("text")
    patterns = [f"{tmp_path}/x/**/*.txt", f"{tmp_path}/x/**/*.md", f"{tmp_path}/x/*/*", f"{tmp_path}/x/a/1x.txt"]
    found = list(listed([patterns[0], *patterns], format_of))
    assert [name for name, _ in found] == sorted(name.replace("\udcff", "\\udcff") for name in names)
    assert [path for _, path in found] == [str(tmp_path / "x" / n.replace("\\udcff", "\udcff")) for n, _ in found]


def test_the_first_name_that_no_reader_takes_is_refused_before_any_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "TOGETHER", 7)
    tiny(tmp_path / "x", 30)
    for name in ("z.doc", "000/9.pdf"):
        (tmp_path / "x" / name).write_text("x")
    with pytest.raises(ValueError, match=r"^000/9\.pdf: no reader"):
        next(listed([f"{tmp_path}/x/**/*.*"], format_of))


# Digests


def test_a_broken_file_of_digests_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    os.utime(tmp_path / "a.txt", (1, 1))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/digests.sqlite").write_bytes(b"no table at all" * 100)
    asked = []
    for _ in range(2):
        with DigestCache(tmp_path / "cache") as cache:
            assert cache.get(tmp_path / "a.txt", lambda path: asked.append(path) or "digest") == "digest"
    assert len(asked) == 1


def test_two_processes_remember_what_both_have_read(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.txt" for n in range(4)]
    for path in paths:
        path.write_text(path.name)
        os.utime(path, (1, 1))
    with DigestCache(tmp_path / "cache") as one, DigestCache(tmp_path / "cache") as other:
        for cache, mine in ((one, paths[:2]), (other, paths[2:])):
            for path in mine:
                cache.get(path)
    with sqlite3.connect(tmp_path / "cache/digests.sqlite") as table:
        assert table.execute("SELECT count(*) FROM digests").fetchone() == (4,)


def test_digests_are_kept_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests_module, "TOGETHER", 3)
    source = tiny(tmp_path / "x", 8)
    cache = DigestCache(tmp_path / "cache")  # never left, as by a kill
    for _, path in listed(source.paths, format_of):
        cache.get(path)
    with sqlite3.connect(tmp_path / "cache/digests.sqlite") as table:
        assert table.execute("SELECT count(*) FROM digests").fetchone() == (6,)


def test_digests_that_cannot_be_kept_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "cache/digests.sqlite").mkdir(parents=True)
    with DigestCache(tmp_path / "cache") as cache, pytest.raises(OSError, match=r"cannot keep digests in .*\.sqlite"):
        cache.get(tmp_path / "a.txt")


# Memory


def test_a_file_more_costs_the_parent_next_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "TOGETHER", 200)
    monkeypatch.setattr(digests_module, "TOGETHER", 500)
    monkeypatch.setattr(files, "MANY_FILES", 300)
    monkeypatch.setattr(files, "UNIT_FILES", 100)

    def peak(count: int, turn: int) -> int:
        """Bytes of Python's objects while the files are looked at and shared out."""
        source = tiny(tmp_path / f"{count}-{turn}", count)
        tracemalloc.start()
        try:
            version = resolve_source(source, tmp_path / "cache")
            units = source_units(source, version, place(tmp_path / f"{count}-{turn}"))
            found = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert len(units) == count // 100 and len(json.dumps([version, units])) < count * 10
        return found

    # The better of two: Python's own table of interned names grows by megabytes now and then.
    few, many = (min(peak(count, turn) for turn in range(2)) for count in (400, 1600))
    assert (many - few) / 1200 < 300, f"{few:,} bytes for 400 files, {many:,} for 1,600"
