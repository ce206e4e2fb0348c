"""robots.txt: what a site asks of robots (RFC 9309)."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass

MAX_BYTES = 500 * 1024
"""What a robot must at least read (RFC 9309, 2.5); no more is."""
_KEPT = "/?:@!$&'()*+,;=-._~%[]"
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_PRODUCT = re.compile(r"[A-Za-z_-]+")


@dataclass(frozen=True)
class Robots:
    """The rules for one robot on one site."""

    rules: tuple[tuple[bool, str], ...] = ()
    """(allowed, path pattern), the longest pattern first; of equal lengths allow first (RFC 9309, 2.2.2)."""
    crawl_delay_s: float = 0.0
    """Seconds between two requests; no part of the RFC, but widely asked for."""

    def allows(self, target: str) -> bool:
        """Whether a path with query may be asked for; robots.txt itself always may."""
        target = _normal(target)
        if target == "/robots.txt":
            return True
        return next((allowed for allowed, pattern in self.rules if _fits(pattern, target)), True)


def read_robots(data: bytes, agent: str) -> Robots:
    """The rules for a product token: those of all groups that name it, else of all for `*`. Any bytes are taken."""
    groups: dict[str, tuple[list[tuple[bool, str]], list[float]]] = {}
    current: list[str] = []
    naming = False
    for key, value in _lines(data):
        if key == "user-agent":
            name = _PRODUCT.match(value)
            if not naming:
                current = []
            naming = True
            current.append("*" if value.startswith("*") else name[0].lower() if name else "")
            groups.setdefault(current[-1], ([], []))
        elif key in ("allow", "disallow"):
            naming = False
            if value:  # an empty Disallow forbids nothing
                for group in current:
                    groups[group][0].append((key == "allow", _normal(value)))
        elif key == "crawl-delay":
            naming = False
            if re.fullmatch(r"\d{1,6}(\.\d{1,6})?", value):
                for group in current:
                    groups[group][1].append(float(value))
    rules, delays = groups.get(agent.lower()) or groups.get("*") or ([], [])
    ordered = sorted(dict.fromkeys(rules), key=lambda rule: (-len(rule[1]), not rule[0]))
    return Robots(tuple(ordered), max(delays, default=0.0))


def _lines(data: bytes) -> Iterator[tuple[str, str]]:
    text = data[:MAX_BYTES].decode("utf-8-sig", "replace")
    for line in re.split(r"[\r\n]+", text):
        key, colon, value = line.partition("#")[0].partition(":")
        if colon:
            yield key.strip().lower(), value.strip()


def _normal(path: str) -> str:
    """Percent escapes in one form, so that `%7Ejoe` and `~joe` are equal (RFC 9309, 2.2.2); `*` and `$` stay."""

    def plain(found: re.Match[str]) -> str:
        sign = chr(int(found[1], 16))
        unreserved = sign.isascii() and (sign.isalnum() or sign in "-._~")
        return sign if unreserved else found[0].upper()

    return _ESCAPE.sub(plain, urllib.parse.quote(path, safe=_KEPT, errors="replace"))


def _fits(pattern: str, target: str) -> bool:
    """Whether a path begins as the pattern says: `*` is any run of signs, `$` at the end is the path's end.

    Each piece between stars is taken where it first fits, which loses nothing: time is linear in pattern times path.
    """
    anchored = pattern.endswith("$")
    first, *pieces = pattern.removesuffix("$").split("*")
    if not target.startswith(first):
        return False
    if not pieces:
        return not anchored or len(target) == len(first)
    last = pieces.pop() if anchored else ""
    place = len(first)
    for piece in pieces:
        place = target.find(piece, place)
        if place < 0:
            return False
        place += len(piece)
    return not anchored or (target.endswith(last) and len(target) - len(last) >= place)
