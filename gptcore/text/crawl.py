"""Many pages of many hosts: the hosts side by side, the pages of one host one after another."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Sequence

from gptcore.text.addresses import Address
from gptcore.text.http_get import Failure, Reply
from gptcore.text.manners import Manners, Stopped
from gptcore.text.polite_fetch import Fetcher

HOST_PATIENCE = 5
"""Pages of one host in a row that do not come, after which its others are not asked for."""

Outcome = tuple[Address, Reply] | Failure


def crawl(
    addresses: Sequence[Address], fetcher: Fetcher, manners: Manners, connections: int
) -> Generator[tuple[Address, Outcome], None, None]:
    """Each address with what came of it, in the order of coming; leaving early ends the threads within a request."""
    hosts: dict[str, list[Address]] = {}
    for address in addresses:
        hosts.setdefault(address.host, []).append(address)
    waiting: queue.SimpleQueue[list[Address]] = queue.SimpleQueue()
    for pages in hosts.values():
        waiting.put(pages)
    # Bounded: pages that come faster than they are taken would fill the memory.
    done: queue.Queue[tuple[Address, Outcome] | BaseException] = queue.Queue(2 * connections)

    def work() -> None:
        try:
            while True:
                for found in _host_pages(waiting.get_nowait(), fetcher):
                    done.put(found)
        except (queue.Empty, Stopped):
            return
        except BaseException as error:  # of ours: raised again where the pages are taken
            done.put(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(connections, len(hosts)))]
    for thread in threads:
        thread.start()
    try:
        for _ in addresses:
            found = done.get()
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        manners.stop()
        while any(thread.is_alive() for thread in threads):
            try:
                done.get(timeout=0.05)
            except queue.Empty:
                continue


def _host_pages(pages: Sequence[Address], fetcher: Fetcher) -> Generator[tuple[Address, Outcome], None, None]:
    silent = 0
    for address in pages:
        if silent == HOST_PATIENCE:
            yield address, Failure("unreachable", f"{HOST_PATIENCE} pages before it did not come from {address.host}")
            continue
        try:
            yield address, fetcher.fetch(address)
            silent = 0
        except Failure as failure:
            silent = silent + 1 if failure.kind in ("unreachable", "too_slow") else 0
            yield address, failure
