"""Files, addresses and the hub: what is read, what a version is, and what bad weather does."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from email.message import Message as Headers
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from gptcore.config_sources import Files, HubDataset, Url
from gptcore.text import bounded_lines, files, hub, url
from gptcore.text.documents import Document, Problem
from gptcore.text.sources import read_unit, resolve_source, source_units
from gptcore.text.wanted import Wanted

TEXTS = [f"Text number {number} is long enough to be read. é" for number in range(600)]
DIGEST = hashlib.sha256


def pack(data: bytes, packing: str) -> bytes:
    return {"": bytes, "gz": gzip.compress, "zst": zstandard.ZstdCompressor().compress}[packing](data)


def jsonl(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def parquet(path: Path, texts: list[str | None]) -> bytes:
    pyarrow.parquet.write_table(pyarrow.table({"text": texts, "n": range(len(texts))}), path, row_group_size=100)
    return path.read_bytes()


def read(path: Path, field: str = "text", done: int = 0, max_chars: int = 1000) -> list[Document | Problem]:
    return list(files.read_file(path, path.name, Wanted(field, "files", "files", max_chars, path.parent), done))


def texts(items: list[Document | Problem]) -> list[str]:
    return [item.text for item in items if isinstance(item, Document)]


def problems(items: list[Document | Problem]) -> list[tuple[str, str]]:
    return [(item.kind, item.where) for item in items if isinstance(item, Problem)]


@pytest.mark.parametrize("packing", ["", "gz", "zst"])
@pytest.mark.parametrize("form", ["txt", "jsonl", "parquet"])
def test_every_format_gives_its_rows_and_goes_on_where_it_stopped(tmp_path: Path, form: str, packing: str) -> None:
    data = {
        "txt": lambda: "\n".join(TEXTS).encode(),
        "jsonl": lambda: jsonl([{"text": text} for text in TEXTS]),
        "parquet": lambda: parquet(tmp_path / "plain.parquet", list(TEXTS)),
    }[form]()
    path = tmp_path / f"a.{form}{'.' * bool(packing)}{packing}"
    path.write_bytes(pack(data, packing))
    whole = read(path, max_chars=100_000)
    assert texts(whole) == (["\n".join(TEXTS)] if form == "txt" else TEXTS)
    assert len({item.id for item in whole if isinstance(item, Document)}) == len(whole)
    done = 1 if form == "txt" else 333
    assert read(path, done=done, max_chars=100_000) == whole[done:]
    assert not list(tmp_path.glob("*unpacked*")), "an unpacked copy is left behind"


def test_bad_rows_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [
        b'{"text": "good"}',
        b'{"text": "\xff"}',
        b"{torn",
        b'{"other": 1}',
        b'{"text": 7}',
        b"[1]",
        b'{"text": "last"}',
    ]
    path.write_bytes(b"\n".join(lines))
    assert texts(read(path)) == ["good", "last"]
    assert problems(read(path)) == [
        ("undecodable", "a.jsonl:2"),
        ("unparsable", "a.jsonl:3"),
        ("no_text", "a.jsonl:4"),
        ("no_text", "a.jsonl:5"),
        ("no_text", "a.jsonl:6"),
    ]


def test_an_endless_line_is_skipped_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_lines, "LINE_BYTES", 100)
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl([{"text": "a"}, {"text": "b" * 350}, {"text": "c"}]))
    assert texts(read(path)) == ["a", "c"]
    assert problems(read(path)) == [("too_long", "a.jsonl:2")]


@pytest.mark.parametrize("packing", ["gz", "zst"])
def test_a_cut_archive_gives_what_is_whole(tmp_path: Path, packing: str) -> None:
    path = tmp_path / f"a.jsonl.{packing}"
    rows = jsonl([{"text": hashlib.sha256(str(n).encode()).hexdigest()} for n in range(20_000)])
    data = pack(rows, packing)
    path.write_bytes(data[: len(data) // 2])
    found = read(path)
    assert 1000 < len(texts(found)) < 20_000
    assert problems(found)[-1][0] == "truncated"


def test_text_that_is_not_utf8_is_one_problem_and_a_long_one_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("mal cod\xe9".encode("latin-1"))
    assert problems(read(path)) == [("undecodable", "a.txt")]
    path.write_text("\ufeff" + "é" * 10_000, encoding="utf-8")
    (text,) = texts(read(path, max_chars=100))
    assert 100 < len(text) < 250 and set(text) == {"é"}, "enough to see that it is cut"


def test_a_missing_column_names_those_there_are(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", ["x", None])
    assert problems(read(tmp_path / "a.parquet")) == [("no_text", "a.parquet:2")]
    with pytest.raises(ValueError, match="no column 'body'; its columns are text, n"):
        read(tmp_path / "a.parquet", "body")
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"text": "x", "n": 1}]))
    with pytest.raises(ValueError, match="no row has a text under 'body'; keys are text, n"):
        read(tmp_path / "a.jsonl", "body")
    (tmp_path / "b.parquet").write_bytes(b"no parquet at all")
    ((kind, where),) = problems(read(tmp_path / "b.parquet"))
    assert kind == "damaged" and where.startswith("b.parquet (")


def test_globs_are_sorted_and_versions_hold_no_place(tmp_path: Path) -> None:
    for name in ("b/2.txt", "a/1.txt"):
        (tmp_path / "x" / name).parent.mkdir(parents=True)
        (tmp_path / "x" / name).write_text(name)
    version = resolve_source(Files(kind="files", paths=(str(tmp_path / "x/**/*.txt"),)), tmp_path / "cache")
    assert version == {
        "kind": "files",
        "files": [[name, DIGEST(name.encode()).hexdigest()] for name in ("a/1.txt", "b/2.txt")],
    }
    (tmp_path / "x").rename(tmp_path / "y")
    moved = resolve_source(Files(kind="files", paths=(str(tmp_path / "y/**/*.txt"),)), tmp_path / "cache")
    assert moved == version


def test_a_file_is_hashed_again_only_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    os.utime(path, (1, 1))
    source = Files(kind="files", paths=(str(path),))
    first = resolve_source(source, tmp_path / "cache")
    monkeypatch.setattr(files.DigestCache.get, "__defaults__", (lambda path: "read", ""))
    assert resolve_source(source, tmp_path / "cache") == first
    os.utime(path, (2, 2))
    assert resolve_source(source, tmp_path / "cache")["files"] == [["a.txt", "read"]]


def test_missing_and_unreadable_files_are_one_line(tmp_path: Path) -> None:
    def resolve(*paths: str) -> None:
        resolve_source(Files(kind="files", paths=paths), tmp_path / "cache")

    with pytest.raises(FileNotFoundError, match=r"no file matches .*\*\.jsonl"):
        resolve(str(tmp_path / "*.jsonl"))
    with pytest.raises(ValueError, match="is a folder; name files"):
        resolve(str(tmp_path))
    (tmp_path / "a.doc").write_text("x")
    with pytest.raises(ValueError, match=r"a\.doc: no reader for this file name; it must end in \.txt, \.md"):
        resolve(str(tmp_path / "a.doc"))


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    source = Files(kind="files", paths=(str(path),))
    (unit,) = source_units(source, resolve_source(source, tmp_path / "cache"))
    path.write_text("two")
    reading = read_unit(unit, "files", 1000, tmp_path, lambda _: None)
    list(reading.items)
    with pytest.raises(ValueError, match="changed while it was read"):
        reading.finish()


# http


class Server(http.server.ThreadingHTTPServer):
    """Serves one file, with ranges; `weather` is taken from the left, one for each request."""

    daemon_threads = True
    data = b"".join(b'{"text": "row %d of a file behind an address"}\n' % n for n in range(20_000))
    etag: str | None = '"one"'
    heeds_if_range = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.weather: list[str] = []
        self.requests: list[tuple[str, Headers]] = []
        self.release = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/data.jsonl"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is what some tests are about."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        server = self.server
        server.requests.append((self.command, self.headers))
        weather = server.weather.pop(0) if server.weather else "fair"
        if weather.isdigit():
            self.send_error(int(weather))
            return
        if weather == "hang":
            server.release.wait(20)
            return
        start = 0
        wanted = self.headers.get("Range")
        unchanged = not server.heeds_if_range or self.headers.get("If-Range") in (None, server.etag)
        if wanted and unchanged:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(server.data):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.data) - 1}/{len(server.data)}")
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(server.data) - start))
        self.end_headers()
        if body:
            rest = server.data[start:]
            self.wfile.write(rest[: len(rest) // 2] if weather in ("cut", "stall") else rest)
        if weather == "stall":
            server.release.wait(20)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(url, "FIRST_PAUSE_S", 0.01)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


def ranges(server: Server) -> list[str | None]:
    return [headers.get("Range") for _, headers in server.requests]


@pytest.mark.parametrize("weather", ["cut", "stall"])
def test_a_download_cut_in_half_goes_on_where_it_was(server: Server, tmp_path: Path, weather: str) -> None:
    server.weather = [weather]
    said: list[str] = []
    path = url.download(
        server.url, tmp_path / "a", sha256=DIGEST(server.data).hexdigest(), timeout_s=0.5, say=said.append
    )
    assert path.read_bytes() == server.data
    assert ranges(server) == [None, f"bytes={len(server.data) // 2}-"]
    assert len(said) == 1 and "try 2 of 5" in said[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"], "nothing partial is left"


def test_a_partial_file_of_an_earlier_process_is_used(server: Server, tmp_path: Path) -> None:
    server.weather = ["cut"]
    with pytest.raises(ValueError, match=r"connection ended after [\d,]+ of [\d,]+ bytes \(1 tries\)"):
        url.download(server.url, tmp_path / "a", attempts=1)
    assert (tmp_path / "a.part").stat().st_size == len(server.data) // 2
    assert url.download(server.url, tmp_path / "a", attempts=1).read_bytes() == server.data
    assert ranges(server)[-1] == f"bytes={len(server.data) // 2}-"


@pytest.mark.parametrize("heeds", [True, False])
def test_a_file_that_changed_in_between_is_fetched_anew(server: Server, tmp_path: Path, heeds: bool) -> None:
    server.weather = ["cut"]
    server.heeds_if_range = heeds
    with pytest.raises(ValueError, match="connection ended"):
        url.download(server.url, tmp_path / "a", attempts=1)
    server.data, server.etag = server.data[::-1], '"two"'
    assert url.download(server.url, tmp_path / "a").read_bytes() == server.data


def test_without_an_identity_a_cut_download_starts_again(server: Server, tmp_path: Path) -> None:
    server.etag = None
    server.weather = ["cut"]
    assert url.download(server.url, tmp_path / "a").read_bytes() == server.data
    assert ranges(server) == [None, None]


def test_a_whole_part_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(server.data)
    known = {"etag": server.etag, "last_modified": None, "length": len(server.data)}
    (tmp_path / "a.part.json").write_text(json.dumps(known))
    assert url.download(server.url, tmp_path / "a").read_bytes() == server.data
    assert len(server.requests) == 1


def test_a_wrong_checksum_is_refused_and_removed(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"have sha256 {DIGEST(server.data).hexdigest()}, expected {'0' * 64}"):
        url.download(server.url, tmp_path / "a", sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_404_is_final_and_a_503_is_not(server: Server, tmp_path: Path) -> None:
    server.weather = ["404"]
    with pytest.raises(ValueError, match="the server answers 404 Not Found"):
        url.download(server.url, tmp_path / "a")
    assert len(server.requests) == 1
    server.weather = ["503", "503"]
    assert url.download(server.url, tmp_path / "a").read_bytes() == server.data


def test_a_server_that_hangs_ends_in_one_line(server: Server, tmp_path: Path) -> None:
    server.weather = ["hang"] * 3
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"no (answer|byte came) in time \(3 tries\)"):
        url.download(server.url, tmp_path / "a", timeout_s=0.2, attempts=3)
    assert time.monotonic() - started < 5


def test_nobody_there_ends_in_one_line(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"refused.*\(2 tries\)"):
        url.download("http://127.0.0.1:9/data.jsonl", tmp_path / "a", attempts=2)


def test_versions_of_an_address(server: Server, tmp_path: Path) -> None:
    def resolve(**fields: Any) -> dict[str, Any]:
        return resolve_source(Url(kind="url", url=server.url, **fields), tmp_path / "cache")

    assert resolve(sha256="0" * 64) == {"kind": "url", "sha256": "0" * 64}
    assert server.requests == [], "a given digest needs no request"
    whole = {"kind": "url", "etag": '"one"', "last_modified": None, "length": len(server.data)}
    assert resolve() == whole
    server.weather = ["405"]
    assert resolve() == whole, "a server without HEAD is asked by GET"
    server.weather = ["404"]
    with pytest.raises(ValueError, match="404"):
        resolve()
    server.etag = None
    with pytest.raises(ValueError, match="neither ETag nor Last-Modified; set sha256"):
        resolve()
    with pytest.raises(ValueError, match=r"page\.asp: no reader"):
        resolve_source(Url(kind="url", url="http://127.0.0.1:9/page.asp"), tmp_path)


def test_an_address_is_read_like_a_file_and_refused_when_it_changed(server: Server, tmp_path: Path) -> None:
    source = Url(kind="url", url=server.url)
    (unit,) = source_units(source, resolve_source(source, tmp_path))
    items = list(read_unit(unit, "url", 1000, tmp_path / "one", lambda _: None).items)
    assert len(texts(items)) == 20_000 and items[0] == Document(
        "url/data.jsonl:1", "url", "url/data.jsonl:1", None, None, "row 0 of a file behind an address"
    )
    server.etag = '"two"'
    with pytest.raises(ValueError, match="changed since its version was looked up"):
        read_unit(unit, "url", 1000, tmp_path / "two", lambda _: None)


# the hub


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder laid out like a hub dataset: three jsonl files."""
    monkeypatch.setenv("USE_TORCH", "0")
    folder = tmp_path / "dataset"
    (folder / ".cache").mkdir(parents=True)
    for part in range(3):
        (folder / f"part-{part}.jsonl").write_bytes(jsonl([{"text": f"{part} {n}"} for n in range(100)]))
    return folder


def open_hub(folder: Path, **fields: Any) -> Callable[[int, Any], Any]:
    source = HubDataset(kind="hub", dataset=str(folder), **fields)
    (unit,) = source_units(source, resolve_source(source, folder.parent / "cache"))
    return lambda done, state: read_unit(unit, "hub", 1000, folder.parent, lambda _: None, done, state)


def test_a_local_dataset_streams_and_goes_on_where_it_stopped(dataset: Path) -> None:
    read = open_hub(dataset)
    reading = read(0, None)
    first = [next(reading.items) for _ in range(150)]
    state = json.loads(json.dumps(reading.state()))
    rest = list(reading.items)
    assert texts(first + rest) == [f"{part} {n}" for part in range(3) for n in range(100)]
    assert list(read(150, state).items) == rest
    assert len(list(open_hub(dataset, max_documents=120)(0, None).items)) == 120
    assert len(list(open_hub(dataset, max_documents=160)(150, state).items)) == 10


def test_a_local_dataset_s_version_is_its_files(dataset: Path, tmp_path: Path) -> None:
    source = HubDataset(kind="hub", dataset=str(dataset))
    version = resolve_source(source, tmp_path / "cache")
    assert [name for name, _ in version["files"]] == ["part-0.jsonl", "part-1.jsonl", "part-2.jsonl"]
    assert str(tmp_path) not in json.dumps(version)
    (dataset / "part-1.jsonl").write_bytes(b"{}\n")
    assert resolve_source(source, tmp_path / "cache") != version


def test_what_a_dataset_lacks_is_one_line(dataset: Path) -> None:
    with pytest.raises(ValueError, match="no column 'body'; its columns are text"):
        list(open_hub(dataset, text_field="body")(0, None).items)
    with pytest.raises(ValueError, match=r"(?i)split"):
        open_hub(dataset, split="dev")(0, None)


def test_the_hub_s_revision_becomes_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hub(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            if self.path.split("?")[0] == "/api/datasets/team/books/revision/v2":
                body = json.dumps({"id": "team/books", "sha": "c0ffee" * 6 + "c0ff", "tags": []}).encode()
                self.send_response(200)
            else:
                body = b'{"error": "nothing here"}'
                self.send_response(404)
                code = "RevisionNotFound" if "/team/books/" in self.path else "RepoNotFound"
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def resolve(dataset: str, revision: str) -> dict[str, Any]:
        return hub.resolve(HubDataset(kind="hub", dataset=dataset, revision=revision), files.DigestCache(tmp_path))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        try:
            assert resolve("team/books", "v2") == {"kind": "hub", "commit": "c0ffee" * 6 + "c0ff"}
            with pytest.raises(ValueError, match="team/books has no revision 'v3'"):
                resolve("team/books", "v3")
            with pytest.raises(ValueError, match="team/none not found at http"):
                resolve("team/none", "main")
        finally:
            server.shutdown()
            thread.join()
    with pytest.raises(ValueError, match="team/books: cannot reach http://127"):
        resolve("team/books", "v2")
    with pytest.raises(ValueError, match="neither an id of the hub nor a local folder"):
        resolve("not/a/hub/id", "main")
