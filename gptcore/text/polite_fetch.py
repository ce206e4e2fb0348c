"""One page as a polite robot fetches it: robots.txt first, in turn, redirects checked again, tries spaced out."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from gptcore.text.addresses import Address, BadAddress, joined, parse_address
from gptcore.text.http_get import AGENT, Client, Deadline, Failure, Reply
from gptcore.text.manners import WORTH_ANOTHER_TRY, Manners
from gptcore.text.robots import MAX_BYTES as ROBOTS_BYTES
from gptcore.text.robots import Robots, read_robots

MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})
ROBOTS_FILE_BYTES = 20 * ROBOTS_BYTES
"""A longer robots.txt is as good as none to be had; of others the first 500 KiB count."""


class _Site:
    """What is known of one origin."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.rules: Robots | Failure | None = None


@dataclass(frozen=True)
class Limits:
    """Of one page."""

    seconds: float
    """For one try, redirects included; waiting for a turn is not counted."""
    attempts: int
    max_bytes: int


class Fetcher:
    """Fetches for one source; safe to share between threads."""

    def __init__(self, client: Client, manners: Manners, limits: Limits) -> None:
        self._client, self._manners, self._limits = client, manners, limits
        self._sites: dict[str, _Site] = {}
        self._lock = threading.Lock()

    def fetch(self, address: Address, max_bytes: int | None = None) -> tuple[Address, Reply]:
        """The page and where it was found in the end; raises Failure with one of the kinds of `web.PROBLEMS`."""
        return self._tries(address, max_bytes or self._limits.max_bytes, heeding=True)

    def _tries(self, address: Address, max_bytes: int, heeding: bool) -> tuple[Address, Reply]:
        for tried in range(1, self._limits.attempts + 1):
            retry_after = None
            try:
                final, reply = self._follow(address, max_bytes, heeding)
            except Failure as failure:
                if not failure.passing or tried == self._limits.attempts:
                    raise
            else:
                if reply.status == 200:
                    return final, reply
                if reply.status not in WORTH_ANOTHER_TRY or tried == self._limits.attempts:
                    raise _status_failure(reply.status)
                retry_after = reply.headers.get("Retry-After")
            self._manners.back_off(tried, retry_after)
        raise AssertionError("at least one try is made")

    def _follow(self, address: Address, max_bytes: int, heeding: bool) -> tuple[Address, Reply]:
        """One try; each address on the way is checked and asked in its turn."""
        left = self._limits.seconds
        for _ in range(MAX_REDIRECTS + 1):
            rules = self._rules(address) if heeding else Robots()
            if not rules.allows(address.target):
                raise Failure("forbidden_by_robots", f"{address.origin}/robots.txt forbids {address.target[:200]}")
            with self._manners.turn(address.host, rules.crawl_delay_s):
                deadline = Deadline(left)
                reply = self._client.get(address, deadline, max_bytes)
            if reply.status not in REDIRECTS or "Location" not in reply.headers:
                return address, reply
            try:
                left = deadline.left()
            except TimeoutError as error:
                raise Failure("too_slow", f"not done in {self._limits.seconds:g} s", passing=True) from error
            try:
                address = joined(address, _as_utf8(reply.headers["Location"]))
            except BadAddress as error:
                raise Failure("bad_address", str(error)) from error
        raise Failure("too_many_redirects", f"more than {MAX_REDIRECTS} redirects")

    def _rules(self, address: Address) -> Robots:
        """The site's rules, asked for once; raises Failure when they cannot be had, which forbids everything."""
        with self._lock:
            site = self._sites.setdefault(address.origin, _Site())
        with site.lock:
            if site.rules is None:
                site.rules = self._ask_rules(address)
        if isinstance(site.rules, Failure):
            raise Failure(site.rules.kind, site.rules.reason)
        return site.rules

    def _ask_rules(self, address: Address) -> Robots | Failure:
        try:
            _, reply = self._tries(parse_address(address.origin + "/robots.txt"), ROBOTS_FILE_BYTES, heeding=False)
        except Failure as failure:
            # Unavailable (4xx, or a circle of redirects) allows all; unreachable forbids all (RFC 9309, 2.3.1).
            if failure.kind in ("not_found", "refused", "too_many_redirects"):
                return Robots()
            return Failure(failure.kind, f"{address.origin}/robots.txt: {failure.reason}")
        return read_robots(reply.body, AGENT)


def _as_utf8(header: str) -> str:
    """A header's text as its server meant it: http.client reads bytes as Latin-1, and most servers write UTF-8."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header


def _status_failure(status: int) -> Failure:
    if status in (404, 410):
        return Failure("not_found", f"the server answers {status}")
    if status >= 500 or status in WORTH_ANOTHER_TRY:
        return Failure("unreachable", f"the server answers {status}")
    return Failure("refused", f"the server answers {status}")
