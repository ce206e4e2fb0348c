"""One HTTP request within limits of time and size, to an address that was checked."""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
import zlib
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

from gptcore.text.addresses import Address
from gptcore.text.safe_address import PrivateAddress, Resolver, Unresolved, checked_addresses, system_resolver

AGENT = "gptmill"
"""The product token that robots.txt is searched for."""
CHUNK = 1 << 16
MAX_MEMBERS = 100
"""Of one gzip body: each costs a copy of all that follow."""


class Failure(Exception):
    """Why there is no page: `kind` as in the data card, and whether another try may bring it."""

    def __init__(self, kind: str, reason: str, passing: bool = False) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.passing = kind, reason, passing


@dataclass(frozen=True)
class Reply:
    """A server's answer, its body decoded."""

    status: int
    headers: Message
    body: bytes


@dataclass
class Deadline:
    """An instant by which everything must be done, however slowly bytes come."""

    seconds: float
    _end: float = field(init=False)

    def __post_init__(self) -> None:
        self._end = time.monotonic() + self.seconds

    def left(self) -> float:
        """Seconds, more than none; raises TimeoutError when there is none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


@dataclass
class Client:
    """What all requests of a source have in common."""

    allow_private: bool = False
    resolver: Resolver = system_resolver
    ports: frozenset[int] = frozenset({80, 443})
    """No other port is asked: a redirect or a site map must not knock at doors that the user has not named."""
    _tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)

    def get(self, address: Address, deadline: Deadline, max_bytes: int) -> Reply:
        """The answer to GET, redirects not followed; raises Failure. At most `max_bytes` are read, decoded too."""
        if address.port not in self.ports:
            raise Failure("bad_address", f"port {address.port} is not one of the configured addresses")
        try:
            with self._connected(address, deadline) as connection:
                return _asked(connection, address, deadline, max_bytes)
        except PrivateAddress as error:
            raise Failure("private_address", str(error)) from error
        except TimeoutError as error:
            raise Failure("too_slow", f"not done in {deadline.seconds:g} s", passing=True) from error
        except ssl.SSLCertVerificationError as error:
            raise Failure("refused", f"no valid certificate: {error.verify_message}") from error
        except (Unresolved, OSError, http.client.HTTPException) as error:
            raise Failure("unreachable", str(error) or type(error).__name__, passing=True) from error

    def _connected(self, address: Address, deadline: Deadline) -> socket.socket:
        found = checked_addresses(
            address.host,
            address.port,
            allow_private=self.allow_private,
            seconds=deadline.left(),
            resolver=self.resolver,
        )
        raw = _connect(found, address.port, deadline)
        if address.scheme == "http":
            return raw
        try:
            raw.settimeout(deadline.left())  # of the whole handshake
            return self._tls.wrap_socket(raw, server_hostname=address.host)
        except BaseException:
            raw.close()
            raise


def _connect(addresses: list[str], port: int, deadline: Deadline) -> socket.socket:
    """A connection to the first of some IP addresses that takes one."""
    for ip in addresses[:-1]:
        try:
            return socket.create_connection((ip, port), deadline.left() / 2)
        except OSError:
            continue  # such as IPv6 on a machine without it: the next one is asked
    return socket.create_connection((addresses[-1], port), deadline.left())


class _Stream(io.RawIOBase):
    """A socket's bytes, each wait for which ends at the deadline; a socket's own limit starts anew with every byte."""

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._connection, self._deadline = connection, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(self._deadline.left())
        return self._connection.recv_into(buffer)


class _Received:
    """As much of a socket as http.client's parser of answers asks for."""

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._stream = _Stream(connection, deadline)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._stream, CHUNK)


def _asked(connection: socket.socket, address: Address, deadline: Deadline, max_bytes: int) -> Reply:
    connection.settimeout(deadline.left())
    connection.sendall(
        f"GET {address.target} HTTP/1.1\r\nHost: {address.authority}\r\nUser-Agent: {AGENT}\r\n"
        "Accept: text/html, application/xhtml+xml, text/plain;q=0.9, */*;q=0.1\r\n"
        "Accept-Encoding: gzip\r\nConnection: close\r\n\r\n".encode("ascii")
    )
    response = http.client.HTTPResponse(_Received(connection, deadline), method="GET")  # type: ignore[arg-type]
    with response:
        response.begin()
        body = _body(response, max_bytes) if response.status == 200 else b""
        return Reply(response.status, response.headers, body)


def _body(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    """The body, its gzip coding undone; raises Failure beyond the limit and ConnectionError when it is cut."""
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("identity", "gzip", "x-gzip", ""):
        raise Failure("refused", f"content encoding {coding[:40]!r}, where only gzip was asked for")
    if (response.length or 0) > max_bytes:
        raise Failure("too_large", f"{response.length:,} bytes; {max_bytes:,} are the most")
    received = bytearray()
    while chunk := response.read(CHUNK):
        received += chunk
        if len(received) > max_bytes:
            raise Failure("too_large", f"more than {max_bytes:,} bytes")
    if response.length:
        raise ConnectionError(f"the connection ended {response.length:,} bytes early")
    return unpacked(bytes(received), max_bytes) if "gzip" in coding else bytes(received)


def unpacked(data: bytes, max_bytes: int) -> bytes:
    """gzip undone, all its members; raises Failure when it is none or holds more than `max_bytes`."""
    out, members = bytearray(), 0
    while data:
        members += 1
        if members > MAX_MEMBERS:
            raise Failure("too_large", f"gzip of more than {MAX_MEMBERS} members")
        decoder = zlib.decompressobj(31)  # 31: with gzip's header (zlib.h, inflateInit2)
        try:
            out += decoder.decompress(data, max_bytes + 1 - len(out))
        except zlib.error as error:
            raise Failure("refused", f"broken gzip: {error}") from error
        if len(out) > max_bytes:
            raise Failure("too_large", f"more than {max_bytes:,} bytes once unpacked")
        if not decoder.eof:
            raise Failure("unreachable", "gzip data that ends early", passing=True)
        data = decoder.unused_data.lstrip(b"\0")
    return bytes(out)
