"""One file behind http or https: fetched once, resumed where it was cut, checked before it is used."""

from __future__ import annotations

import email.message
import email.utils
import http.client
import json
import os
import random
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from gptcore.durable import sha256_file, sync_directory, write_json
from gptcore.text.file_names import format_of
from gptcore.text.retry_after import retry_after_s

if TYPE_CHECKING:
    from gptcore.config_sources import Url

CHUNK = 1 << 20
RESOLVE_ATTEMPTS = 3
"""Tries when only the version is asked for: a person may be waiting."""
WORTH_ANOTHER_TRY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses that may pass (RFC 9110)."""

FIRST_PAUSE_S = 0.5
"""Before the second try; doubles with each further one."""
LONGEST_PAUSE_S = 30.0
"""However many tries there were, and whatever the server asks for."""

Say = Callable[[str], None]
Result = TypeVar("Result")


class Refused(ValueError):
    """The server's answer is final: trying again would bring the same."""


class Cut(OSError):
    """The connection ended before the file did."""


def file_name(url: str) -> str:
    """The last part of the address's path; raises ValueError when no reader takes such a name."""
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rsplit("/", 1)[-1]).replace(os.sep, "_")
    format_of(name)
    return name


def resolve(source: Url) -> dict[str, Any]:
    """The version: the given sha256 (no request made), else the server's ETag, else Last-Modified and length.

    Raises ValueError when the server cannot be reached, refuses, or gives neither.
    """
    file_name(source.url)
    if source.sha256 is not None:
        return {"kind": source.kind, "sha256": source.sha256}

    def ask() -> dict[str, Any]:
        try:
            with _open(source.url, source.timeout_s, method="HEAD") as response:
                return _identity(response)
        except urllib.error.HTTPError as error:
            if error.code not in (405, 501):
                raise
        with _open(source.url, source.timeout_s) as response:
            return _identity(response)

    found = _tries(ask, source.url, min(source.attempts, RESOLVE_ATTEMPTS), lambda _: None)
    if not (found.get("etag") or found.get("last_modified")):
        raise ValueError(
            f"{source.url}: the server gives neither ETag nor Last-Modified; set sha256 to pin the content"
        )
    return {"kind": source.kind, **found}


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    expected: dict[str, Any] | None = None,
    timeout_s: float = 30.0,
    attempts: int = 5,
    say: Say = lambda _: None,
    progress: Callable[[float], None] = lambda _: None,
) -> Path:
    """Fetch `url` into `target`, going on from `<target>.part` if an earlier try left one.

    `sha256` is checked against all bytes; `expected` is the identity (as in the version) the server must still give.
    `progress` gets the share done. Raises ValueError with one line when the file cannot be had as asked for.
    """
    if target.exists():
        return target
    part = target.with_name(target.name + ".part")
    sidecar = target.with_name(target.name + ".part.json")
    target.parent.mkdir(parents=True, exist_ok=True)

    def fetch() -> None:
        _fetch(url, part, sidecar, timeout_s, expected, progress)

    _tries(fetch, url, attempts, say)
    if sha256 is not None:
        actual = sha256_file(part)
        if actual != sha256:
            size = part.stat().st_size
            part.unlink()
            sidecar.unlink(missing_ok=True)
            raise ValueError(f"{url}: the {size:,} bytes received have sha256 {actual}, expected {sha256}")
    part.replace(target)
    sync_directory(target.parent)
    sidecar.unlink(missing_ok=True)
    return target


def _fetch(
    url: str,
    part: Path,
    sidecar: Path,
    timeout_s: float,
    expected: dict[str, Any] | None,
    progress: Callable[[float], None],
) -> None:
    """One try: append what is missing to `part`; returns when it is whole, raises when it is not."""
    have, known = _left_over(part, sidecar)
    headers = {}
    if have:
        headers = {"Range": f"bytes={have}-", "If-Range": str(_validator(known))}
    try:
        response = _open(url, timeout_s, headers)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # Nothing lies beyond what we have: it is whole, or the server errs, or it is not this file.
        total = _total(error.headers)
        if have and {known["length"], total} - {None} == {have}:
            return
        if have and total == have:
            promised = f"{url}: the server promises {known['length']:,} bytes and has {have:,}"
            raise Refused(f"{promised}; fetch the file by other means") from error
        part.unlink(missing_ok=True)
        raise Cut("the part on disk does not fit the server's file; starting again") from error
    with response:
        found = _identity(response)
        resumes = bool(have) and response.status == 206
        if resumes:
            # An answer to If-Range may leave out what the client knows (RFC 9110, section 15.3.7).
            found = {name: known[name] if value is None else value for name, value in found.items()}
        if expected is not None:
            wanted = {name: expected.get(name) for name in found}
            if any(value is not None and found[name] != value for name, value in wanted.items()):
                raise Refused(f"{url} changed since its version was looked up; run again")
        start = response.headers.get("Content-Range", "")
        if response.status == 206 and not (resumes and start.startswith(f"bytes {have}-")):
            part.unlink(missing_ok=True)
            raise Cut(f"the server sends {start or 'an unnamed range'} where bytes {have}- were asked; starting again")
        if resumes and any(known[name] is not None and found[name] != known[name] for name in known):
            part.unlink()
            raise Cut("the file changed on the server; starting again")
        if not resumes:
            have = 0
            part.unlink(missing_ok=True)  # before the sidecar: old bytes must never stand beside a new identity
            write_json(sidecar, found)
        with part.open("r+b" if resumes else "wb") as file:
            file.seek(have)
            have = _copy(response, file, have, found["length"], progress)
    if found["length"] is not None and have > found["length"]:
        part.unlink()
        raise Cut(f"the server sends {have:,} bytes of a file of {found['length']:,}; starting again")


def _validator(known: dict[str, Any]) -> str | None:
    """What to ask by whether the file is still the same; None where there is nothing."""
    # A weak ETag promises equal meaning, not equal bytes, and If-Range does not take it.
    strong = None if str(known["etag"]).startswith("W/") else known["etag"]
    validator: str | None = strong or known["last_modified"]
    return validator


def _left_over(part: Path, sidecar: Path) -> tuple[int, dict[str, Any]]:
    """(bytes on disk, identity of the file they belong to); nothing without an identity to ask by."""
    try:
        known = json.loads(sidecar.read_bytes())
        have = part.stat().st_size
    except (FileNotFoundError, ValueError):
        return 0, {}
    return (have, known) if _validator(known) else (0, {})


def _copy(
    response: http.client.HTTPResponse,
    file: IO[bytes],
    have: int,
    length: int | None,
    progress: Callable[[float], None],
) -> int:
    """Append what comes to the file; returns the bytes it then has. Raises Cut where `length` says there are more."""
    try:
        # read1: what has arrived is on disk before the next wait, so a stall costs nothing.
        while chunk := response.read1(CHUNK):
            file.write(chunk)
            have += len(chunk)
            if length:
                progress(have / length)
    finally:
        file.flush()
        os.fsync(file.fileno())
    if length is not None and have < length:
        raise Cut(f"the connection ended after {have:,} of {length:,} bytes")
    return have


class _HttpOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https alone: a server must not name a file of this machine."""

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage
    ) -> Any:
        target = urllib.parse.urljoin(req.full_url, headers.get("Location", ""))
        if urllib.parse.urlsplit(target).scheme not in ("http", "https"):
            fp.close()
            raise Refused(f"{req.full_url}: redirects to {target!r}; only http and https are followed")
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _open(
    url: str, timeout_s: float, headers: dict[str, str] | None = None, method: str = "GET"
) -> http.client.HTTPResponse:
    request = urllib.request.Request(
        url, headers={"User-Agent": "gptmill", "Accept-Encoding": "identity", **(headers or {})}, method=method
    )
    response: http.client.HTTPResponse = urllib.request.build_opener(_HttpOnly).open(request, timeout=timeout_s)
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    # Some servers call the packing of a .gz file an encoding; its bytes are then what the name says.
    packed = urllib.parse.urlsplit(url).path.lower().endswith(".gz") and encoding in ("gzip", "x-gzip")
    if encoding not in ("identity", "") and not packed:
        response.close()
        raise Refused(f"{url}: the server sends Content-Encoding {encoding!r} though identity was asked for")
    return response


def _identity(response: http.client.HTTPResponse) -> dict[str, Any]:
    """What tells one content of an address from the next: {"etag", "last_modified", "length" of the whole file}."""
    return {
        "etag": response.headers.get("ETag"),
        "last_modified": response.headers.get("Last-Modified"),
        "length": _total(response.headers) if response.status == 206 else _number(response.headers["Content-Length"]),
    }


def _total(headers: email.message.Message) -> int | None:
    """Bytes of the whole file, as Content-Range tells them; None where it does not."""
    return _number(headers.get("Content-Range", "").rpartition("/")[2])


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _tries(action: Callable[[], Result], url: str, attempts: int, say: Say) -> Result:
    """Do it again after 0.5 s, 1 s, 2 s … (each shaken, so that a crowd does not come back at once), up to 30 s.

    Where the server says when to come back, not before that, though 30 s are the most.
    """
    for attempt in range(1, attempts + 1):
        asked = 0.0
        try:
            return action()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code not in WORTH_ANOTHER_TRY:
                raise Refused(f"{url}: the server answers {error.code} {error.reason}") from error
            reason = f"the server answers {error.code} {error.reason}"
            asked = retry_after_s(error.headers.get("Retry-After")) or 0.0
        except TimeoutError:
            reason = "no byte came in time"
        except urllib.error.URLError as error:
            timed_out = isinstance(error.reason, TimeoutError)
            reason = "no answer in time" if timed_out else str(error.reason)
        except (ConnectionError, http.client.HTTPException, ssl.SSLError, Cut) as error:
            reason = str(error) or type(error).__name__
        if attempt < attempts:
            own = FIRST_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
            pause = min(LONGEST_PAUSE_S, max(own, asked))
            say(f"{url}: {reason}; try {attempt + 1} of {attempts} in {pause:.1f} s")
            time.sleep(pause)
    raise ValueError(f"{url}: {reason} ({attempts} tries)")
