"""Where e-mail and IP addresses stand in a text.

E-mail: a local part of at most 64 characters, a host of labels, a last label of letters; also at example.com and the
like, since nothing is lost by it. Not one: `git@host:path`, names of files such as `icon@2x.png`, and products of
matrices in code (`q@k.transpose(`).

IP: only addresses of the public internet. Private, loopback, link-local, multicast and documentation addresses say
nothing about anyone and stay; their ranges are those of the IANA special-purpose registries (RFC 6890). Four numbers of
which fewer than two reach 20 stay too: of random addresses that is one in 550, of versions and sections nearly every
one. So do four numbers behind a word such as `version` or a comparison, and those that are part of a longer name.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

_HOST = re.compile(r"@(?:[A-Za-z0-9-]{1,63}\.){1,8}([A-Za-z]{2,24})(?![A-Za-z0-9_(\[]|[.-][A-Za-z0-9])")
_LOCAL = re.compile(r"[A-Za-z0-9._%+-]{1,65}")
_NAMES = "png jpg jpeg gif svg webp ico css js jsx ts tsx html htm json xml yml yaml txt gz tgz whl jar"
_FILES = frozenset(_NAMES.split())

_V4 = re.compile(r"\d(?<![\w.]\d)\d{0,2}(?:\.\d{1,3}){3}(?!\w|\.\w|-[A-Za-z])", re.ASCII)
_NAMED_OTHERWISE = re.compile(
    r"(?:(?:(?<![a-z])(?:version|ver\.?|release|build|firmware|revision|rev\.?|section|chapter|oid)|版本号?|版|固件)"
    r"[\s:\uff1a=\"'(]{0,3}|(?<![a-z])v[\s.]?|§\s?|[=~!^]=\s?|\w\s?[<>]=?\s?|[a-z_]-|(?<!/)/)\Z",
    re.IGNORECASE,
)
_RANGES = """
0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24
192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/3
"""
_NOT_PUBLIC = tuple(
    (int(network.network_address) >> (32 - network.prefixlen), 32 - network.prefixlen)
    for network in map(ipaddress.IPv4Network, _RANGES.split())
)
"""(leading bits, number of the others) of each range."""
_SMALL = 20
"""Under it numbers are more likely a version's."""

_V6 = re.compile(r"[23](?<![\w:.][23])[0-9A-Fa-f]{3}:[0-9A-Fa-f:.]{1,40}(?![\w:])", re.ASCII)
"""The addresses that are given out begin with the bits 001 (RFC 4291, section 2.4)."""
_V6_DOCUMENTATION = (ipaddress.IPv6Network("2001:db8::/32"), ipaddress.IPv6Network("3fff::/20"))


def emails(text: str) -> Iterator[tuple[int, int]]:
    """(begin, end) of every e-mail address."""
    if "@" not in text:
        return
    for found in _HOST.finditer(text):
        at = found.start()
        local = _LOCAL.match(text[max(0, at - 65) : at][::-1])
        if local is None or found[1].lower() in _FILES or found[0].startswith("@self."):
            continue
        name = local[0][::-1].lstrip("._%+-")
        if not name or len(name) > 64 or (name == "git" and text.startswith(":", found.end())):
            continue
        yield at - len(name), found.end()


def ips(text: str) -> Iterator[tuple[int, int]]:
    """(begin, end) of every public IP address."""
    if "." in text:
        for found in _V4.finditer(text):
            if _public_v4(found[0]) and not _NAMED_OTHERWISE.search(text[max(0, found.start() - 12) : found.start()]):
                yield found.span()
    if ":" in text:
        for found in _V6.finditer(text):
            address = found[0].rstrip(".")
            address = address if address.endswith("::") else address.rstrip(":")
            if _public_v6(address):
                yield found.start(), found.start() + len(address)


def _public_v4(address: str) -> bool:
    parts = address.split(".")
    numbers = [int(part) for part in parts]
    if max(numbers) > 255 or sorted(numbers)[-2] < _SMALL or any(len(part) > 1 and part[0] == "0" for part in parts):
        return False
    value = int.from_bytes(bytes(numbers), "big")
    return not any(value >> others == leading for leading, others in _NOT_PUBLIC)


def _public_v6(address: str) -> bool:
    if sum(map(bool, address.split(":"))) < 3:  # a slice of Python, 2000::2, is an address too
        return False
    try:
        value = ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return not any(value in network for network in _V6_DOCUMENTATION)
