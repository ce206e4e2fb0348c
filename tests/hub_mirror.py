"""A mirror of the Hugging Face hub on loopback: datasets from folders by id, as much of its protocol as is asked."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class HubMirror(http.server.ThreadingHTTPServer):
    """Serves every folder `ROOT/OWNER/NAME` as a dataset; a commit is the digest of its files."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, dataset: str) -> str:
        digest = hashlib.sha1()
        for path in sorted(p for p in (self.root / dataset).rglob("*") if p.is_file()):
            digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()


@contextmanager
def hub_mirror(root: Path) -> Iterator[HubMirror]:
    """A mirror that runs."""
    with HubMirror(root) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: HubMirror

    def log_message(self, format: str, *args: Any) -> None:
        self.server.asked.append(f"{self.command} {unquote(self.path)}")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[:2] == ["api", "datasets"]:
            self._api("/".join(parts[2:4]), parts[4:])
        elif parts[0] == "datasets" and parts[3:4] == ["resolve"]:
            self._file("/".join(parts[1:3]), parts[4], "/".join(parts[5:]))
        else:
            self._answer(404, b"")

    do_POST = do_GET

    def _api(self, dataset: str, rest: list[str]) -> None:
        folder = self.server.root / dataset
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not folder.is_dir():
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif rest[1:] and rest[1] not in ("main", self.server.commit(dataset)):
            self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif rest[:1] == ["paths-info"]:
            given = json.loads(body) if body.startswith(b"{") else parse_qs(body.decode())
            paths = [folder / path for path in given["paths"]]
            self._json([self._entry(folder, path) for path in paths if path.exists()])
        elif rest[:1] == ["tree"]:
            below = folder.joinpath(*rest[2:])
            found = below.rglob("*") if "recursive=true" in self.path.lower() else below.glob("*")
            if below.is_dir():
                self._json([self._entry(folder, path) for path in sorted(found)])
            else:
                self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        else:
            files = [{"rfilename": p.relative_to(folder).as_posix()} for p in sorted(folder.rglob("*")) if p.is_file()]
            self._json({"id": dataset, "sha": self.server.commit(dataset), "private": False, "siblings": files})

    def _entry(self, folder: Path, path: Path) -> dict[str, Any]:
        oid, name = hashlib.sha1(str(path).encode()).hexdigest(), path.relative_to(folder).as_posix()
        if path.is_dir():
            return {"type": "directory", "oid": oid, "size": 0, "path": name}
        return {"type": "file", "oid": oid, "size": path.stat().st_size, "path": name}

    def _file(self, dataset: str, revision: str, name: str) -> None:
        path, commit = self.server.root / dataset / name, self.server.commit(dataset)
        if revision not in ("main", commit) or not path.is_file():
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        content = path.read_bytes()
        self._answer(200, content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit})

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
