"""How a guest behaves: one request at a time to a host, a pause after each, and no hurry to come back."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from gptcore.text.retry_after import retry_after_s

WORTH_ANOTHER_TRY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses that may pass (RFC 9110; 425: RFC 8470; 429: RFC 6585)."""
FIRST_PAUSE_S = 0.5
"""Before the second try; doubles with each further one."""


class Stopped(Exception):
    """The source is no longer read; whoever waits gives up."""


@dataclass
class _Host:
    lock: threading.Lock = field(default_factory=threading.Lock)
    free_at: float = 0.0
    """When the next request may begin, by time.monotonic()."""


class Manners:
    """The turns of all hosts, shared by all threads of a source."""

    def __init__(self, delay_s: float, max_delay_s: float) -> None:
        self._delay_s, self._max_delay_s = delay_s, max_delay_s
        self._hosts: dict[str, _Host] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    @contextmanager
    def turn(self, host: str, crawl_delay_s: float = 0.0) -> Iterator[None]:
        """Be the only one who asks `host`, and not before its pause is over.

        The pause lies between the end of a request and the start of the next: the configured delay, or the host's own
        `crawl_delay_s` where that is longer, up to `max_delay_s`. Raises Stopped.
        """
        with self._lock:
            known = self._hosts.setdefault(host, _Host())
        with known.lock:
            self.sleep(known.free_at - time.monotonic())
            try:
                yield
            finally:
                pause = max(self._delay_s, min(crawl_delay_s, self._max_delay_s))
                known.free_at = time.monotonic() + pause

    def back_off(self, tried: int, retry_after: str | None) -> None:
        """Wait before the next try: as long as the server asks, else 0.5 s, 1 s, 2 s … shaken; max_delay_s at most."""
        asked = retry_after_s(retry_after)
        # Shaken, so that a crowd does not come back at once.
        pause = FIRST_PAUSE_S * 2 ** (tried - 1) * random.uniform(0.5, 1.5) if asked is None else asked
        self.sleep(min(pause, self._max_delay_s))

    def sleep(self, seconds: float) -> None:
        """Wait; raises Stopped as soon as the source is no longer read."""
        if self._stopped.wait(max(0.0, seconds)):
            raise Stopped

    def stop(self) -> None:
        """End every wait, now and from now on."""
        self._stopped.set()
