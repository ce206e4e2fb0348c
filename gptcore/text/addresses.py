"""Web addresses in one normal form (RFC 3986, section 6.2.2), so that a page has one name."""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass

MAX_CHARS = 8000
"""What servers should at least take (RFC 9110, section 4.1)."""
PORTS = {"http": 80, "https": 443}
_SAFE = "/?:@!$&'()*+,;=-._~%[]"
_UNREADABLE = re.compile(r"[\x00-\x20\x7f\\]")
_HOST = re.compile(r"[a-z0-9._-]{1,253}|[0-9a-f.]*:[0-9a-f:.]+", re.IGNORECASE)
_LOOSE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


class BadAddress(ValueError):
    """No address of a page: another scheme, a password in it, no host, control characters."""


@dataclass(frozen=True)
class Address:
    """An http or https address without fragment."""

    scheme: str
    host: str
    """Lower case, IDNA; without brackets for IPv6."""
    port: int
    target: str
    """Path and query, as they stand in a request; begins with `/`."""

    @property
    def authority(self) -> str:
        """Host and, where it is not the scheme's own, port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """Scheme, host and port: what one robots.txt speaks for."""
        return f"{self.scheme}://{self.authority}"

    def __str__(self) -> str:
        return self.origin + self.target


def parse_address(text: str) -> Address:
    """An address from what stands in a preset, a site map or a Location header; raises BadAddress with one line."""
    text = text.strip()
    shown = text[:200]
    if len(text) > MAX_CHARS:
        raise BadAddress(f"{shown}…: an address of {len(text):,} characters; {MAX_CHARS:,} are the most")
    if _UNREADABLE.search(text.replace(" ", "")):
        raise BadAddress(f"{shown!r}: control characters or a backslash in an address")
    try:
        parts = urllib.parse.urlsplit(text.replace(" ", "%20"))
        port, host = parts.port, parts.hostname or ""
        ascii_host = host if host.isascii() else host.encode("idna").decode("ascii")
    except ValueError as error:
        raise BadAddress(f"{shown}: {error}") from error
    scheme = parts.scheme.lower()
    if scheme not in PORTS:
        raise BadAddress(f"{shown}: only http and https addresses are fetched")
    if "@" in parts.netloc:
        raise BadAddress(f"{scheme}://…@{host[:200]}: a user name or password in an address is not sent")
    if not _HOST.fullmatch(ascii_host) or port == 0:
        raise BadAddress(f"{shown}: no host to ask")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        target = urllib.parse.quote(_LOOSE_PERCENT.sub("%25", target), safe=_SAFE)
    except UnicodeEncodeError as error:
        raise BadAddress(f"{shown!r}: no Unicode text") from error
    return Address(scheme, ascii_host.lower(), port or PORTS[scheme], target)


def joined(base: Address, reference: str) -> Address:
    """Where a Location header or a link leads from `base`; raises BadAddress."""
    try:
        return parse_address(urllib.parse.urljoin(str(base), reference.strip()))
    except BadAddress:
        raise
    except ValueError as error:
        raise BadAddress(f"{reference[:200]!r}: {error}") from error
