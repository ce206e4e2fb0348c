"""Servers that cut, lie, change, stall, hold off, send elsewhere: a download is whole and right, or one line."""

from __future__ import annotations

import email.utils
import gzip
import hashlib
import http.server
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gptcore.config_sources import Url
from gptcore.text import url

DATA = random.Random(7).randbytes(200_003)
OTHER = random.Random(8).randbytes(len(DATA))
DIGEST = hashlib.sha256
Answer = Callable[["Handler"], None]


class Server(http.server.ThreadingHTTPServer):
    """One file with ranges; `answers` are taken from the left, one a request, before the honest one."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.data = DATA
        self.validators = {"ETag": '"one"', "Last-Modified": "Mon, 02 Jan 2006 15:04:05 GMT"}
        self.answers: list[Answer] = []
        self.ranges: list[str | None] = []
        self.sent = 0
        self.release = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/data.jsonl"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is what some tests are about."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.ranges.append(self.headers.get("Range"))
        answer = self.server.answers.pop(0) if self.server.answers else honest()
        answer(self)

    def start(self) -> int:
        """The first byte asked for; 0 where the whole file is to be sent, as If-Range may say."""
        known = (None, *self.server.validators.values())
        if "Range" not in self.headers or self.headers.get("If-Range") not in known:
            return 0
        return int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))

    def send(self, status: int, body: bytes, **headers: Any) -> None:
        """One answer; a header of None is left out."""
        self.send_response(status)
        fields = {"Content-Length": len(body), **self.server.validators}
        fields.update({name.replace("_", "-"): value for name, value in headers.items()})
        for name, value in fields.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
            self.server.sent += len(body)


def honest(most: int | None = None, **headers: Any) -> Answer:
    """What is asked for, of which only the first `most` bytes are sent before the connection ends."""

    def answer(handler: Handler) -> None:
        data, start = handler.server.data, handler.start()
        if start and start >= len(data):
            handler.send(416, b"", Content_Range=f"bytes */{len(data)}")
            return
        span = {"Content_Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        body = data[start:] if most is None else data[start : start + most]
        handler.send(206 if start else 200, body, **{"Content_Length": len(data) - start, **span, **headers})

    return answer


def plain(status: int, body: bytes = b"", **headers: Any) -> Answer:
    """The same answer whatever is asked."""
    return lambda handler: handler.send(status, body, **headers)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(url, "FIRST_PAUSE_S", 0.001)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


# Cuts


@pytest.mark.parametrize("restarts", [False, True])
def test_cut_at_every_tenth_nothing_is_fetched_twice(server: Server, tmp_path: Path, restarts: bool) -> None:
    tenth = len(DATA) // 10
    server.answers = [honest(tenth) for _ in range(10)]
    if restarts:
        for _ in range(10):
            with pytest.raises(ValueError, match=r"connection ended after [\d,]+ of 200,003 bytes \(1 tries\)"):
                url.download(server.url, tmp_path / "a", attempts=1)
    assert url.download(server.url, tmp_path / "a", attempts=11).read_bytes() == DATA
    assert server.ranges == [None, *(f"bytes={tenth * n}-" for n in range(1, 11))]
    assert server.sent == len(DATA)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_chunked_answer_that_is_cut_is_resumed(server: Server, tmp_path: Path) -> None:
    def chunked(handler: Handler) -> None:
        handler.send(200, f"{50_000:x}\r\n".encode() + DATA[:50_000], Content_Length=None, Transfer_Encoding="chunked")

    Handler.protocol_version = "HTTP/1.1"
    try:
        server.answers = [chunked]
        assert url.download(server.url, tmp_path / "a").read_bytes() == DATA
    finally:
        Handler.protocol_version = "HTTP/1.0"
    assert server.ranges == [None, "bytes=50000-"]


def test_what_the_client_knows_may_be_left_out_of_a_206(server: Server, tmp_path: Path) -> None:
    server.answers = [honest(1000), honest(Last_Modified=None, Content_Range=f"bytes 1000-{len(DATA) - 1}/*")]
    expected = {"etag": '"one"', "last_modified": server.validators["Last-Modified"], "length": len(DATA)}
    assert url.download(server.url, tmp_path / "a", expected=expected).read_bytes() == DATA
    assert server.sent == len(DATA)


def test_a_weak_etag_leaves_the_date_to_resume_by(server: Server, tmp_path: Path) -> None:
    server.validators["ETag"] = 'W/"one"'
    server.answers = [honest(1000)]
    assert url.download(server.url, tmp_path / "a").read_bytes() == DATA
    assert server.sent == len(DATA)


# Lies


def test_a_length_beyond_the_body_is_refused(server: Server, tmp_path: Path) -> None:
    promises = honest(Content_Length=len(DATA) + 100)
    server.answers = [promises]
    with pytest.raises(ValueError, match=r"promises 200,103 bytes and has 200,003; fetch the file by other means$"):
        url.download(server.url, tmp_path / "a")
    assert server.sent == len(DATA), "not fetched again and again"
    assert not (tmp_path / "a").exists()


def test_a_length_short_of_the_body_is_told_by_the_digest(server: Server, tmp_path: Path) -> None:
    server.answers = [honest(Content_Length=len(DATA) - 100)]
    with pytest.raises(ValueError, match=r"the 199,903 bytes received have sha256 [0-9a-f]+, expected"):
        url.download(server.url, tmp_path / "a", sha256=DIGEST(DATA).hexdigest())
    assert list(tmp_path.iterdir()) == []


def test_a_length_that_differs_from_the_version_s_is_refused(server: Server, tmp_path: Path) -> None:
    version = url.resolve(Url(kind="url", url=server.url))
    server.answers = [honest(Content_Length=len(DATA) - 100)]
    with pytest.raises(ValueError, match="changed since its version was looked up"):
        url.download(server.url, tmp_path / "a", expected=version)


SPANS = {
    "another range": plain(206, DATA[500:], Content_Range=f"bytes 500-{len(DATA) - 1}/{len(DATA)}"),
    "the whole as a range": plain(206, DATA, Content_Range=f"bytes 0-{len(DATA) - 1}/{len(DATA)}"),
    "no range named": plain(206, DATA[1000:]),
    "nonsense": plain(206, DATA[1000:], Content_Range="bytes one-two/three"),
    "another total": plain(206, DATA[1000:], Content_Range=f"bytes 1000-{len(DATA) - 1}/{len(DATA) + 5}"),
    "more than it names": plain(206, DATA[1000:] + b"more", Content_Range=f"bytes 1000-{len(DATA) - 1}/{len(DATA)}"),
    "the whole file": plain(200, DATA),
}


@pytest.mark.parametrize("lie", SPANS)
def test_another_range_than_asked_starts_again(server: Server, tmp_path: Path, lie: str) -> None:
    server.answers = [honest(1000), SPANS[lie]]
    assert url.download(server.url, tmp_path / "a").read_bytes() == DATA
    assert server.ranges == [None, "bytes=1000-", None][: 2 if lie == "the whole file" else 3]


def test_a_range_nobody_asked_for_is_refused(server: Server, tmp_path: Path) -> None:
    server.answers = [SPANS["another range"]] * 2
    with pytest.raises(ValueError, match=r"sends bytes 500-200002/200003 where bytes 0- were asked.*\(2 tries\)"):
        url.download(server.url, tmp_path / "a", attempts=2)
    assert not (tmp_path / "a").exists()


# Changes


@pytest.mark.parametrize("heeds", [True, False])
@pytest.mark.parametrize("changed", ["ETag", "Last-Modified"])
def test_a_file_that_changes_between_tries_is_never_mixed(
    server: Server, tmp_path: Path, changed: str, heeds: bool
) -> None:
    if changed == "Last-Modified":
        del server.validators["ETag"]

    def change(handler: Handler) -> None:
        server.data = OTHER
        server.validators[changed] = {"ETag": '"two"'}.get(changed, "Tue, 03 Jan 2006 15:04:05 GMT")
        if not heeds:
            handler.headers.replace_header("If-Range", server.validators[changed])
        honest(5000)(handler)

    server.answers = [honest(1000), change]
    assert url.download(server.url, tmp_path / "a").read_bytes() == OTHER
    assert server.ranges[-1] == ("bytes=5000-" if heeds else None)


def test_without_a_validator_the_digest_decides(server: Server, tmp_path: Path) -> None:
    server.validators = {}

    def change(handler: Handler) -> None:
        server.data = OTHER
        honest()(handler)

    server.answers = [honest(1000), change]
    found = url.download(server.url, tmp_path / "a", sha256=DIGEST(OTHER).hexdigest())
    assert found.read_bytes() == OTHER and server.ranges == [None, None]
    server.answers = [honest(1000)]
    with pytest.raises(ValueError, match=f"have sha256 {DIGEST(OTHER).hexdigest()}, expected"):
        url.download(server.url, tmp_path / "b", sha256=DIGEST(DATA).hexdigest())
    assert not (tmp_path / "b").exists()


def test_old_bytes_never_stand_beside_a_new_identity(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies right after it has noted what the server now gives."""
    server.answers = [honest(1000)]
    with pytest.raises(ValueError, match="connection ended"):
        url.download(server.url, tmp_path / "a", attempts=1)
    server.data, server.validators = OTHER, {"ETag": '"two"'}
    real = url.write_json

    def die(path: Path, value: Any) -> None:
        real(path, value)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(url, "write_json", die)
        with pytest.raises(KeyboardInterrupt):
            url.download(server.url, tmp_path / "a")
    assert json.loads((tmp_path / "a.part.json").read_bytes())["etag"] == '"two"'
    assert url.download(server.url, tmp_path / "a").read_bytes() == OTHER


# Silence


def test_a_body_that_never_begins_ends_in_one_line(server: Server, tmp_path: Path) -> None:
    def silent(handler: Handler) -> None:
        handler.send(200, b"", Content_Length=len(DATA))
        handler.wfile.flush()
        server.release.wait(20)

    server.answers = [silent] * 2
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"data\.jsonl: no byte came in time \(2 tries\)$"):
        url.download(server.url, tmp_path / "a", timeout_s=0.1, attempts=2)
    assert time.monotonic() - started < 15


# Retry-After


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [("2", 2, 2), ("7200", 30, 30), ("0", 0, 0.01), ("soon", 0, 0.01), ("date", 17, 20), ("past", 0, 0.01)],
)
def test_the_server_says_when_to_come_back(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, asked: str, least: float, most: float
) -> None:
    away = {"date": 20, "past": -1000}.get(asked)
    text = asked if away is None else email.utils.formatdate(time.time() + away, usegmt=True)
    server.answers = [plain(status, Retry_After=text)]
    pauses: list[float] = []
    monkeypatch.setattr(url.time, "sleep", pauses.append)
    assert url.download(server.url, tmp_path / "a").read_bytes() == DATA
    assert len(pauses) == 1 and least <= pauses[0] <= most


def test_the_pause_asked_for_is_waited(server: Server, tmp_path: Path) -> None:
    server.answers = [plain(503, Retry_After="1")]
    started = time.monotonic()
    url.download(server.url, tmp_path / "a")
    assert 1 <= time.monotonic() - started < 15


# Elsewhere, and in another shape


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1:9/data.jsonl", "data:,x"])
def test_only_http_is_followed(server: Server, tmp_path: Path, target: str, status: int) -> None:
    server.answers = [plain(status, Location=target)]
    with pytest.raises(ValueError) as refused:
        url.download(server.url, tmp_path / "a")
    assert str(refused.value) == f"{server.url}: redirects to {target!r}; only http and https are followed"
    assert len(server.ranges) == 1 and list(tmp_path.iterdir()) == []


def test_a_redirect_to_http_keeps_the_range(server: Server, tmp_path: Path) -> None:
    elsewhere = plain(302, Location="/moved/data.jsonl")
    server.answers = [elsewhere, honest(1000), elsewhere, honest()]
    assert url.download(server.url, tmp_path / "a").read_bytes() == DATA
    assert server.ranges == [None, None, "bytes=1000-", "bytes=1000-"]


@pytest.mark.parametrize("encoding", ["gzip", "BR", "gzip, identity"])
def test_an_encoded_body_is_refused(server: Server, tmp_path: Path, encoding: str) -> None:
    encoded = plain(200, gzip.compress(DATA), Content_Encoding=encoding)
    server.answers = [encoded, encoded]
    with pytest.raises(ValueError) as refused:
        url.download(server.url, tmp_path / "a")
    line = f"{server.url}: the server sends Content-Encoding {encoding.lower()!r} though identity was asked for"
    assert str(refused.value) == line
    with pytest.raises(ValueError, match="though identity was asked for"):
        url.resolve(Url(kind="url", url=server.url))
    assert list(tmp_path.iterdir()) == []


def test_a_gz_file_s_own_packing_may_be_called_an_encoding(server: Server, tmp_path: Path) -> None:
    server.data = gzip.compress(DATA)
    server.answers = [honest(Content_Encoding="x-gzip")]
    assert url.download(server.url + ".gz", tmp_path / "a").read_bytes() == server.data
