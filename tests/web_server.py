"""A web server on loopback that behaves as told, and remembers who asked for what and when."""

from __future__ import annotations

import http.server
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

SENTENCE = "The old bridge over the river was rebuilt after the flood, and people cross it every morning on foot. "


def article(name: str, sentence: str = SENTENCE) -> str:
    """A page with a menu, an article of three paragraphs and a footer."""
    body = "".join(f"<p>{name} {n}: {sentence * 3}</p>" for n in range(3))
    menu = "".join(f'<li><a href="/m{n}">Menu entry {n}</a></li>' for n in range(10))
    return (
        f'<!DOCTYPE html><html><head><title>{name}</title><meta property="article:published_time" '
        f'content="2021-03-04T05:06:07Z"></head><body><nav><ul>{menu}</ul></nav><main><article><h1>{name}</h1>{body}'
        "</article></main><footer>All rights reserved by the footer</footer></body></html>"
    )


@dataclass
class Answer:
    """What one request gets."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "text/html"})
    act: Callable[[http.server.BaseHTTPRequestHandler], None] | None = None
    """Does it all instead."""


def html(name: str) -> Answer:
    return Answer(article(name).encode())


def moved(target: str) -> Answer:
    return Answer(status=302, headers={"Location": target})


def text(body: str) -> Answer:
    return Answer(body.encode(), headers={"Content-Type": "text/plain"})


class WebServer(http.server.ThreadingHTTPServer):
    """`answers` by path: one, or a list of which the last stays."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, Answer | list[Answer]] = {}
        self.requests: list[tuple[str, float, Message]] = []
        self.release = threading.Event()
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gives up is what some tests are about."""

    @property
    def asked(self) -> list[str]:
        """Paths in the order of asking, without robots.txt."""
        return [path for path, _, _ in self.requests if path != "/robots.txt"]

    def answer(self, path: str) -> Answer:
        found = self.answers.get(path, Answer(status=404))
        if isinstance(found, list):
            return found.pop(0) if len(found) > 1 else found[0]
        return found


class _Handler(http.server.BaseHTTPRequestHandler):
    server: WebServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.requests.append((self.path, time.monotonic(), self.headers))
            answer = self.server.answer(self.path)
        if answer.act is not None:
            answer.act(self)
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)


def drip(handler: http.server.BaseHTTPRequestHandler) -> None:
    """A byte every 20 ms, for ever: each comes long before any limit between two bytes."""
    server = handler.server
    assert isinstance(server, WebServer)
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n")
    while not server.release.wait(0.02):
        handler.wfile.write(b"X")


def reset(handler: http.server.BaseHTTPRequestHandler) -> None:
    """A connection that is reset in the middle."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegin")
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def cut(handler: http.server.BaseHTTPRequestHandler) -> None:
    """A body that ends early."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 1000\r\n\r\nbegin")


@contextmanager
def web_server() -> Iterator[WebServer]:
    """A running server."""
    with WebServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.release.set()
            server.shutdown()
            thread.join()
