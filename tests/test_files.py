"""Files of every format and archive, whole and damaged."""

from __future__ import annotations

import bz2
import csv
import functools
import gzip
import http.server
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from gptcore.config import Corpus
from gptcore.config_sources import Files, HubDataset, Url, identity_of
from gptcore.text import archive_limits, archives, csv_rows, files, workers
from gptcore.text.corpus import build_corpus
from gptcore.text.documents import Document, Problem, read, read_documents, write
from gptcore.text.file_names import FORMATS, PACKINGS, format_of
from gptcore.text.sources import read_unit, resolve_source, source_units
from gptcore.text.wanted import Wanted
from gptcore.work import Outcome, Work

ROOT = Path(__file__).parents[1]
TEXTS = [f'Text {n}, with a comma, a "quote"\nand a second line. é' for n in range(300)]
PAGE = (
    b"<html><head><title>On rivers</title></head><body><nav><a href='/'>Home</a></nav><article><h1>On rivers</h1>"
    + b"<p>A river carries more sand in spring than in autumn, because the snow has melted by then.</p>" * 5
    + b"</article></body></html>"
)
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "zst": zstandard.ZstdCompressor().compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
}


def table(delimiter: str) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerows([["n", "text"], *([str(n), text] for n, text in enumerate(TEXTS))])
    return out.getvalue().encode()


def parquet(rows: list[str]) -> bytes:
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": rows}), out, row_group_size=100, compression="snappy")
    return out.getvalue()


CONTENT: dict[str, Callable[[], bytes]] = {
    "txt": lambda: TEXTS[0].encode(),
    "md": lambda: TEXTS[0].encode(),
    "html": lambda: PAGE,
    "htm": lambda: PAGE,
    "jsonl": lambda: b"".join(json.dumps({"text": text}).encode() + b"\n" for text in TEXTS),
    "csv": lambda: table(","),
    "tsv": lambda: table("\t"),
    "parquet": lambda: parquet(TEXTS),
}


def items(path: Path, field: str = "text", done: int = 0) -> list[Document | Problem]:
    return list(files.read_file(path, path.name, Wanted(field, "files", "files", 100_000, path.parent), done))


def texts(found: list[Document | Problem]) -> list[str]:
    return [item.text for item in found if isinstance(item, Document)]


def kinds(found: list[Document | Problem]) -> list[str]:
    return [item.kind for item in found if isinstance(item, Problem)]


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def build(directory: Path, *sources: Files, said: list[str] | None = None, **fields: int) -> Outcome:
    config = Corpus(sources=sources, min_chars=1, **fields)  # type: ignore[arg-type]
    versions = [resolve_source(source, directory.parent / "cache") for source in sources]
    work = Work(directory, on_say=(said if said is not None else []).append)
    try:
        return build_corpus(config, versions, work)
    finally:
        work.metrics.close()


def everything(directory: Path) -> list[Document]:
    return [d for split in ("train", "validation", "test") for d in read_documents(directory, split)]


# Formats and packings


@pytest.mark.parametrize("packing", ["", *PACKINGS])
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_in_every_packing_is_read_and_goes_on(tmp_path: Path, form: str, packing: str) -> None:
    data = CONTENT[form]()
    path = put(tmp_path / f"a.{form}{'.' * bool(packing)}{packing}", PACK[packing](data) if packing else data)
    found = items(path)
    if form in ("html", "htm"):
        (page,) = found
        assert isinstance(page, Document) and page.title == "On rivers" and "more sand in spring" in page.text
        assert "Home" not in page.text
    else:
        assert texts(found) == (TEXTS if len(found) > 1 else TEXTS[:1]) and not kinds(found)
    for done in (1, 150, len(found)):
        assert items(path, done=done) == found[done:]


@pytest.mark.parametrize("packing", PACKINGS)
def test_packings_in_several_pieces_are_read_to_the_end(tmp_path: Path, packing: str) -> None:
    data = CONTENT["jsonl"]()
    middle = data.index(b"\n", len(data) // 2) + 1
    path = put(tmp_path / f"a.jsonl.{packing}", PACK[packing](data[:middle]) + PACK[packing](data[middle:]))
    assert texts(items(path)) == TEXTS


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("form", ["jsonl", "csv", "txt", "parquet"])
def test_a_cut_packing_gives_its_whole_rows_and_one_problem(tmp_path: Path, packing: str, form: str) -> None:
    rows = [os.urandom(300).hex() for _ in range(2000)]
    data = {
        "jsonl": lambda: b"".join(json.dumps({"text": row}).encode() + b"\n" for row in rows),
        "csv": lambda: ("text\n" + "\n".join(rows)).encode(),
        "txt": lambda: "\n".join(rows)[:90_000].encode(),
        "parquet": lambda: parquet(rows),
    }[form]()
    packed = PACK[packing](data)
    found = items(put(tmp_path / f"a.{form}.{packing}", packed[: len(packed) * 4 // 5]))
    whole = texts(found)
    assert kinds(found) == ["truncated"] and whole == rows[: len(whole)]
    assert bool(whole) == (form in ("jsonl", "csv") and packing != "bz2") or len(whole) > 500
    assert not list(tmp_path.glob("*unpacked*"))


def test_zstd_of_zeros_does_not_swell_in_memory(tmp_path: Path) -> None:
    """512 MB in 64 KiB: they pass through a reader that may take 300 MB more than it has."""
    packer = zstandard.ZstdCompressor().compressobj()
    zeros = bytes(1 << 24)
    packed = b"".join([*(packer.compress(zeros) for _ in range(32)), packer.flush()])
    path = put(tmp_path / "a.jsonl.zst", packed)
    assert peak_of(path) < 400_000_000


# A line, a file, a name


def peak_of(path: Path) -> int:
    """Peak memory of a process that reads a file, bytes; it must find only a line too long."""
    script = (
        "import sys; from pathlib import Path; from gptcore.text import files, wanted; p = Path(sys.argv[1]);"
        "found = list(files.read_file(p, p.name, wanted.Wanted('text', 'files', 'files', 1000, p.parent)));"
        "assert [x.kind for x in found] == ['too_long'], found;"
        # Not getrusage: its peak holds what the parent had before this program took the process over.
        "status = Path('/proc/self/status').read_text().splitlines();"
        "print(next(int(line.split()[1]) * 1024 for line in status if line.startswith('VmHWM')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


def test_a_line_of_200_megabytes_is_passed_over_in_flat_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b'{"text": "')
        for _ in range(200):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n')
    assert peak_of(path) < 300_000_000


@pytest.mark.parametrize("name", ["a.txt", "a.html", "a.jsonl", "a.csv", "a.parquet", "a.tar", "a.zip", "a.xz"])
def test_an_empty_file_is_no_document_and_no_error(tmp_path: Path, name: str) -> None:
    name = name.replace(".xz", ".txt.xz")
    found = items(put(tmp_path / name, b""))
    assert kinds(found) == ["no_text"] and len(found) == 1
    if not name.endswith((".xz", ".zip", ".tar")):
        assert kinds(items(put(tmp_path / f"{name}.gz", gzip.compress(b"")))) == ["no_text"]
        assert kinds(items(put(tmp_path / f"{name}.bz2", bz2.compress(b"")))) == ["no_text"]


def test_a_name_that_promises_what_the_bytes_are_not_is_damage(tmp_path: Path) -> None:
    names = [f"a.jsonl.{packing}" for packing in PACKINGS] + ["a.parquet", "a.parquet.gz", "a.zip", "a.tar", "a.tgz"]
    for name in names:
        assert kinds(items(put(tmp_path / name, b'{"text": "only text"}\n' * 30))) == ["damaged"], name


def test_invalid_utf8_costs_its_row_only(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", b"text,n\nfirst,1\nb\xff\xfed,2\nthird,\xff\n")
    assert texts(items(path)) == ["first", "third"] and kinds(items(path)) == ["undecodable"]
    assert kinds(items(put(tmp_path / "b.csv", "text,n\nx,1\n".encode("utf-16")))) == ["undecodable"]
    assert kinds(items(put(tmp_path / "a.md", b"caf\xe9"))) == ["undecodable"]


def test_names_tell_formats() -> None:
    assert format_of("x/A.JSONL.GZ") == ("jsonl", "gz") and format_of("a.tgz") == ("tar", "gz")
    assert format_of("a.b.tar.zst") == ("tar", "zst") and format_of("a.zip").archive
    for name in ("gz", "a.gz", "txt", "a.zip.gz", "a.doc", "txt.gz"):
        with pytest.raises(ValueError, match="no reader for this file name"):
            format_of(name)


# Tables


def test_what_a_csv_may_hold(tmp_path: Path) -> None:
    data = '\ufeff"text",n\r\n"a ""b"",\r\nc",1\r\n\r\n,2\r\nshort\x00nul,3\r\n'.encode()
    assert texts(items(put(tmp_path / "a.csv", data))) == ['a "b",\r\nc', "", "short\x00nul"]
    short = put(tmp_path / "b.csv", b"n,text\n1,one\n2\n3,three,more\n")
    assert texts(items(short)) == ["one", "three"] and kinds(items(short)) == ["no_text"]
    assert kinds(items(put(tmp_path / "c.csv", b"n,text\n"))) == ["no_text"]
    with pytest.raises(ValueError, match=r"d\.csv has no column 'text'; its columns are n, body"):
        items(put(tmp_path / "d.csv", b"n,body\n1,x\n"))


def test_a_field_without_an_end_is_skipped_and_the_module_s_limit_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_rows, "FIELD_CHARS", 200)
    before = csv.field_size_limit()
    path = put(tmp_path / "a.csv", b'text\nfirst\n"' + b"x" * 150 + b"\n" + b"y" * 150 + b"\nlast\n")
    assert texts(items(path)) == ["first", "last"] and kinds(items(path)) == ["too_long"]
    assert csv.field_size_limit() == before


def test_a_damaged_row_group_is_counted_once_and_the_others_are_read(tmp_path: Path) -> None:
    rows = [os.urandom(30).hex() for _ in range(300)]
    path = put(tmp_path / "a.parquet", parquet(rows))
    data = bytearray(path.read_bytes())
    column = pyarrow.parquet.ParquetFile(path).metadata.row_group(1).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + 2000] = b"\xff" * 2000
    found = items(put(path, bytes(data)))
    assert texts(found) == rows[:100] + rows[200:]
    assert kinds(found) == ["damaged"] + ["undecodable"] * 99
    assert items(path, done=150) == found[150:]


# Archives


def tar_of(members: dict[str, bytes], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zip_of(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


MEMBERS = {
    "docs/a.txt": b"First member.",
    "docs/rows.jsonl.zst": PACK["zst"](b'{"text": "one"}\n{"text": "two"}\n'),
    "docs/table.parquet": parquet(["three", "four"]),
    "page.html": PAGE,
    "picture.jpg": b"\xff\xd8",
    "inner.zip": zip_of({"x.txt": b"never seen"}),
    "empty.txt": b"",
}


def pack_tar(name: str, data: bytes) -> bytes:
    packing = format_of(name).packing
    return PACK[packing](data) if packing else data


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", *(f"a.tar.{packing}" for packing in PACKINGS), "a.zip"])
def test_archives_give_every_member_that_some_reader_takes(tmp_path: Path, name: str) -> None:
    data = zip_of(MEMBERS) if name == "a.zip" else pack_tar(name, tar_of(MEMBERS))
    found = items(put(tmp_path / name, data))
    documents = [item for item in found if isinstance(item, Document)]
    assert [d.id for d in documents] == [
        f"files/{name}!docs/a.txt",
        *(f"files/{name}!docs/rows.jsonl.zst:{row}" for row in (1, 2)),
        *(f"files/{name}!docs/table.parquet:{row}" for row in (1, 2)),
        f"files/{name}!page.html",
    ]
    assert texts(found)[:5] == ["First member.", "one", "two", "three", "four"] and documents[5].title == "On rivers"
    assert [(p.kind, p.where) for p in found if isinstance(p, Problem)] == [
        ("no_reader", f"{name}!picture.jpg"),
        ("no_reader", f"{name}!inner.zip"),
        ("no_text", f"{name}!empty.txt"),
    ]
    assert items(tmp_path / name, done=4) == found[4:]
    assert {path.name for path in tmp_path.iterdir()} == {name}, "nothing is unpacked beside it"


def test_members_that_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    names = ["../evil.txt", "/etc/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:\\evil.txt"]
    members = {**dict.fromkeys(names, b"evil"), "good.txt": b"good"}
    for data, name in ((zip_of(members), "a.zip"), (tar_of(members), "a.tar")):
        found = items(put(tmp_path / name, data))
        assert texts(found) == ["good"] and kinds(found) == ["unsafe_name"] * 5
    assert not list(tmp_path.parent.glob("evil*"))


def test_links_and_devices_are_not_followed(tmp_path: Path) -> None:
    out = io.BytesIO()
    (tmp_path / "secret.txt").write_text("secret")
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number, type in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(f"{number}.txt")
            info.type, info.linkname = type, str(tmp_path / "secret.txt")
            tar.addfile(info)
        info = tarfile.TarInfo("b.txt")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"good"))
    found = items(put(tmp_path / "a.tar", out.getvalue()))
    assert texts(found) == ["good"] and kinds(found) == ["not_a_file"] * 4
    link = zipfile.ZipInfo("link.txt")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, str(tmp_path / "secret.txt"))
    assert kinds(items(tmp_path / "a.zip")) == ["not_a_file"]


def test_bombs_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("zeros.txt", "w") as member:
        for _ in range(300):
            member.write(bytes(1_000_000))
    assert path.stat().st_size < 400_000
    (problem,) = items(path)
    assert isinstance(problem, Problem) and problem.kind == "bomb" and "more than 1,000 times" in problem.where
    monkeypatch.setattr(archive_limits, "FREE_BYTES", 1_000_000)
    zeros = {"good.txt": b"good", "zeros.txt": bytes(40_000_000), "after.txt": b"after"}
    found = items(put(tmp_path / "a.tar.zst", PACK["zst"](tar_of(zeros))))
    assert kinds(found) == ["bomb"] and texts(found)[0] == "good" and "after" not in texts(found)
    inner = {"a.jsonl.zst": PACK["zst"](bytes(40_000_000)), "b.txt": b"after"}
    assert kinds(items(put(tmp_path / "b.zip", zip_of(inner)))) == ["bomb"]


def test_an_archive_of_too_many_members_ends_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MEMBERS", 3)
    members = {f"{n}.txt": str(n).encode() for n in range(5)}
    for data, name in ((zip_of(members), "a.zip"), (tar_of(members), "a.tar")):
        found = items(put(tmp_path / name, data))
        assert texts(found) == ["0", "1", "2"] and kinds(found) == ["too_many"]


def test_an_encrypted_member_is_a_problem(tmp_path: Path) -> None:
    data = bytearray(zip_of({"a.txt": b"hidden", "b.txt": b"plain"}))
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + flags] |= 1
    found = items(put(tmp_path / "a.zip", bytes(data)))
    assert kinds(found) == ["encrypted"] and texts(found) == ["plain"]


def test_a_damaged_member_of_a_zip_leaves_the_others(tmp_path: Path) -> None:
    members = {f"{n}.txt": os.urandom(3000).hex().encode() for n in range(3)}
    data = bytearray(zip_of(members))
    second = data.index(b"1.txt") + 100
    data[second : second + 50] = bytes(50)
    found = items(put(tmp_path / "a.zip", bytes(data)))
    assert texts(found) == [members["0.txt"].decode(), members["2.txt"].decode()] and kinds(found) == ["damaged"]


def test_a_damaged_tar_gives_what_stands_before(tmp_path: Path) -> None:
    members = {f"{n}.txt": os.urandom(3000).hex().encode() for n in range(20)}
    data = tar_of(members)
    header = bytearray(data)
    header[data.index(b"10.txt") + 3] ^= 0xFF  # the library would take this for the end, and say nothing
    for name, bad, kind in (
        ("a.tar", bytes(header), "damaged"),
        ("b.tar", data[: len(data) // 2], "truncated"),
        ("c.tar.gz", gzip.compress(data)[:40_000], "truncated"),
    ):
        found = items(put(tmp_path / name, bad))
        assert kinds(found) == [kind], name
        assert 3 < len(texts(found)) <= 10 and texts(found) == [m.decode() for m in members.values()][: len(found) - 1]


def test_a_header_that_asks_for_all_memory_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 32
    found = items(put(tmp_path / "a.tar", info.tobuf(tarfile.GNU_FORMAT) + bytes(10_240)))
    assert kinds(found) == ["damaged"]


def test_members_of_one_name_keep_their_documents_apart(tmp_path: Path) -> None:
    data = tar_of({"a.txt": b"first"})[:1024] + tar_of({"a.txt": b"second"})
    found = items(put(tmp_path / "a.tar", data))
    assert [item.id for item in found if isinstance(item, Document)] == ["files/a.tar!a.txt", "files/a.tar!a.txt~2"]


def test_tables_of_an_archive_need_the_text_field_somewhere(tmp_path: Path) -> None:
    members = {"about.csv": b"key,value\nx,1\n", "rows.jsonl": b'{"text": "one"}\n'}
    found = items(put(tmp_path / "a.tar", tar_of(members)))
    assert texts(found) == ["one"] and kinds(found) == ["no_text"]
    with pytest.raises(ValueError, match=r"a\.tar!about\.csv has no column 'body'"):
        items(tmp_path / "a.tar", "body")


# Many files


def tiny(folder: Path, count: int, size: int = 40) -> Files:
    folder.mkdir()
    for n in range(count):
        (folder / f"{n:05d}.txt").write_text(f"File {n} of many, " + "x" * size)
    return Files(kind="files", paths=(str(folder / "*"),))


def test_small_files_share_units_and_large_ones_do_not(tmp_path: Path) -> None:
    source = tiny(tmp_path / "x", 2500)
    (tmp_path / "x/00100.txt").write_bytes(b"x" * 9_000_000)
    units = source_units(source, resolve_source(source, tmp_path / "cache"))
    assert [len(unit["files"]) for unit in units] == [100, 1, 1000, 1000, 399]
    names = [file["name"] for unit in units for file in unit["files"]]
    assert names == sorted(names) and len(set(names)) == 2500


def test_a_unit_of_many_files_goes_on_anywhere_and_sees_each_change(tmp_path: Path) -> None:
    source = tiny(tmp_path / "x", 20)
    (tmp_path / "x/00007b.jsonl").write_text('{"text": "row one"}\n{torn\n{"text": "row three"}\n')
    (tmp_path / "x/00009.txt").write_bytes(b"")
    (unit,) = source_units(source, resolve_source(source, tmp_path / "cache"))

    def reading(done: int) -> list[Document | Problem]:
        return list(read_unit(unit, "files", 1000, tmp_path, lambda _: None, done).items)

    whole = reading(0)
    assert len(whole) == 23 and kinds(whole) == ["unparsable", "no_text"]
    assert all(reading(done) == whole[done:] for done in range(24))
    (tmp_path / "x/00013.txt").write_text("changed")
    with pytest.raises(ValueError, match=r"00013\.txt changed while it was read; run again"):
        read_unit(unit, "files", 1000, tmp_path, lambda _: None).finish()


def test_a_corpus_of_many_files_goes_on_inside_a_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny(tmp_path / "x", 200)
    small = "import gptcore.text.harvest as h; h.BLOCK_BYTES = 2000; from gptcore.text.workers import serve"
    monkeypatch.setattr(workers, "BOOT", workers.BOOT.replace("from gptcore.text.workers import serve", small))
    build(tmp_path / "whole", source)
    build(tmp_path / "out", source)
    blocks = sorted(tmp_path.glob("out/scratch/harvest-files-*/*.json"))
    assert len(blocks) > 10
    for path in [*blocks[4:], *(tmp_path / "out/documents").iterdir(), *tmp_path.glob("out/scratch/table/*")]:
        path.unlink()
    build(tmp_path / "out", source)
    assert everything(tmp_path / "out") == everything(tmp_path / "whole")
    assert len(everything(tmp_path / "out")) == 200


def test_the_same_files_twice_give_their_text_once(tmp_path: Path) -> None:
    source = tiny(tmp_path / "x", 30)
    twice = Files(kind="files", paths=(*source.paths, str(tmp_path / "x/0000*.txt"), str(tmp_path / "x/00001.txt")))
    assert len(files.expand(twice)) == 30
    metrics = build(tmp_path / "out", source, source).metrics
    assert len(everything(tmp_path / "out")) == 30 and metrics["corpus/duplicates"] == 30


# Damage


def damaged(folder: Path, count: int) -> Files:
    """30 files packed well, and some that are not."""
    folder.mkdir()
    for n in range(30):
        data = gzip.compress(f"File {n} in good order.".encode())
        put(folder / f"{n:02d}.txt.gz", b"no gzip at all" if 10 <= n < 10 + count else data)
    put(folder / "zz.parquet", b"PAR1 and no more")
    return Files(kind="files", paths=(str(folder / "*"),))


def test_damaged_files_are_skipped_counted_and_named(tmp_path: Path) -> None:
    said: list[str] = []
    source = damaged(tmp_path / "x", 2)
    build(tmp_path / "out", source, said=said, max_damaged_files=3)
    assert len(everything(tmp_path / "out")) == 28
    assert json.loads((tmp_path / "out/data_card.json").read_text())["dropped"]["damaged"] == 3
    (line,) = [line for line in said if line.startswith("skipped 3 damaged: 10.txt.gz (")]
    assert "11.txt.gz" in line and "zz.parquet" in line


def test_too_many_damaged_files_stop_the_stage(tmp_path: Path) -> None:
    source = damaged(tmp_path / "x", 2)
    with pytest.raises(
        ValueError, match=r"^3 files are .* corpus\.max_damaged_files is 2: 10\.txt\.gz, 11\.txt\.gz, zz\.parquet; copy"
    ) as error:
        build(tmp_path / "out", source, max_damaged_files=2)
    assert "\n" not in str(error.value) and not list(tmp_path.glob("out/documents/*"))
    build(tmp_path / "out", source, max_damaged_files=3)
    assert len(everything(tmp_path / "out")) == 28


def test_a_file_damaged_in_many_places_counts_once(tmp_path: Path) -> None:
    members = {f"{n:02d}.txt": os.urandom(2000).hex().encode() for n in range(20)}
    archive = bytearray(zip_of(members))
    for n in range(12):
        start = archive.index(b"%02d.txt" % n) + 100
        archive[start : start + 50] = bytes(50)
    paths = [put(tmp_path / "a.zip", bytes(archive))]
    path = put(tmp_path / "b.parquet", parquet([os.urandom(30).hex() for _ in range(1500)]))
    data = bytearray(path.read_bytes())
    metadata = pyarrow.parquet.ParquetFile(path).metadata
    for group in range(12):
        column = metadata.row_group(group).column(0)
        start = column.dictionary_page_offset or column.data_page_offset
        data[start : start + 2000] = b"\xff" * 2000
    paths.append(put(path, bytes(data)))
    source = Files(kind="files", paths=tuple(map(str, paths)))
    metrics = build(tmp_path / "out", source, max_damaged_files=2).metrics
    assert len(everything(tmp_path / "out")) == 8 + 300 and metrics["corpus/skipped"] == 12 + 1200
    with pytest.raises(ValueError, match=r"^2 files are damaged .* is 1: a\.zip, b\.parquet; copy"):
        build(tmp_path / "out", source, max_damaged_files=1)


# Licences


def test_licence_title_and_date_are_written_only_where_there_are_some(tmp_path: Path) -> None:
    plain = Document("a", "files", "a", None, None, "text")
    assert write(plain) == (
        b'{"group": "a", "id": "a", "name": null, "package": null, "source": "files", "text": "text"}\n'
    )
    full = Document("a", "files", "a", None, None, "text", "On rivers", "2024-05-06", "CC0-1.0")
    assert read(write(full)) == full and read(write(plain)) == plain
    folder = tmp_path / "x"
    folder.mkdir()
    for n in range(5):
        put(folder / f"{n}.html", PAGE.replace(b"A river", b"A river (number %d)" % n))
    build(tmp_path / "out", Files(kind="files", paths=(str(folder / "*"),), licence="CC-BY-4.0"))
    found = everything(tmp_path / "out")
    assert {(d.licence, d.title) for d in found} == {("CC-BY-4.0", "On rivers")} and len(found) == 5


def test_no_licence_changes_no_identity() -> None:
    assert "licence" not in identity_of(Files(kind="files", paths=("a.txt",)))
    assert "licence" not in identity_of(Url(kind="url", url="http://a.example/a.txt"))
    assert identity_of(Files(kind="files", paths=("a.txt",), licence="MIT"))["licence"] == "MIT"


def test_rows_of_the_hub_and_of_an_address_carry_the_licence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_TORCH", "0")
    (tmp_path / "set").mkdir()
    put(tmp_path / "set/a.jsonl", b'{"text": "one"}\n')
    source = HubDataset(kind="hub", dataset=str(tmp_path / "set"), licence="CC0-1.0")
    (unit,) = source_units(source, resolve_source(source, tmp_path / "cache"))
    (document,) = read_unit(unit, "hub", 1000, tmp_path, lambda _: None).items
    assert isinstance(document, Document) and document.licence == "CC0-1.0"
    put(tmp_path / "served.tgz", gzip.compress(tar_of({"a.md": b"behind an address"})))
    handler = functools.partial(Quiet, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}/served.tgz"
        there = Url(kind="url", url=address, licence="CC-BY-4.0")
        (unit,) = source_units(there, resolve_source(there, tmp_path / "cache"))
        found = list(read_unit(unit, "url", 1000, tmp_path / "scratch", lambda _: None).items)
        server.shutdown()
        thread.join()
    (document,) = found
    assert isinstance(document, Document) and document.licence == "CC-BY-4.0"
    assert document.id == "url/served.tgz!a.md" and document.text == "behind an address"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""
