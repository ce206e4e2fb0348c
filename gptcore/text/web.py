"""Web pages as a source: listed, fetched once into a store, read from it in the order of the list."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptcore.durable import locked, sha256_json
from gptcore.text.addresses import PORTS, Address, parse_address
from gptcore.text.crawl import Outcome, crawl
from gptcore.text.documents import Document, Problem
from gptcore.text.html_text import Page, page_of
from gptcore.text.http_get import Client, Failure
from gptcore.text.manners import Manners
from gptcore.text.page_charset import decode_page
from gptcore.text.page_store import PageStore
from gptcore.text.polite_fetch import Fetcher, Limits
from gptcore.text.site_pages import Entry, list_pages
from gptcore.text.sitemaps import MAX_BYTES as SITE_MAP_BYTES

if TYPE_CHECKING:
    from gptcore.config_sources import Web
    from gptcore.text.workers import Tell

HTML = ("text/html", "application/xhtml+xml")
PLAIN = "text/plain"
_IDENTITY = ("pages", "sitemaps", "snapshot", "max_pages", "max_page_bytes", "allow_private")


def resolve(source: Web) -> dict[str, Any]:
    """The version: the snapshot's name and a digest of the addresses; no request is made.

    Raises ValueError for an address that cannot be fetched.
    """
    for address in (*source.pages, *source.sitemaps):
        parse_address(address)
    addresses = sha256_json({"pages": sorted(source.pages), "sitemaps": sorted(source.sitemaps)})
    return {"kind": source.kind, "snapshot": source.snapshot, "addresses": addresses}


def read_unit(
    unit: dict[str, Any], label: str, scratch: Path, tell: Tell, done: int = 0
) -> Iterator[Document | Problem]:
    """Fetch what the store in `scratch` lacks, then give one document or problem for each address, `done` skipped.

    `unit` holds the fields of `Web`. Raises ValueError when a site map that it names cannot be had.
    """
    directory = scratch / "web" / sha256_json({name: unit[name] for name in _IDENTITY})[:16]
    # Waits for the worker of a killed run, which may live a moment longer than it.
    with locked(directory / "lock"), PageStore(directory) as store:
        entries = _fetch_all(unit, store, tell)
    return _items(entries[done:], store, label, unit.get("licence"))


def _fetch_all(unit: dict[str, Any], store: PageStore, tell: Tell) -> list[Entry]:
    """The list of pages, each in the store."""
    manners = Manners(unit["delay_s"], unit["max_delay_s"])
    named = [parse_address(text) for text in (*unit["pages"], *unit["sitemaps"])]
    ports = frozenset({*PORTS.values(), *(address.port for address in named)})
    client = Client(unit["allow_private"], ports=ports)
    fetcher = Fetcher(client, manners, Limits(unit["page_seconds"], unit["attempts"], unit["max_page_bytes"]))

    def site_map(address: Address) -> bytes:
        name = f"site map {address}"
        if name not in store:
            store.put(name, {}, fetcher.fetch(address, SITE_MAP_BYTES)[1].body)
        return store.get(name)[1]

    entries, cut = list_pages(unit["pages"], unit["sitemaps"], unit["max_pages"], site_map)
    if cut:
        tell({"say": f"web: only the first {unit['max_pages']:,} pages are taken, as max_pages says"})
    wanted = [entry.address for entry in entries if entry.address is not None and entry.problem is None]
    missing = [address for address in wanted if str(address) not in store]
    if len(missing) < len(wanted):
        tell({"say": f"web: going on, {len(wanted) - len(missing):,} of {len(wanted):,} pages were fetched before"})
    told = 0.0
    with closing(crawl(missing, fetcher, manners, unit["connections"])) as outcomes:
        for number, (address, outcome) in enumerate(outcomes, len(wanted) - len(missing) + 1):
            head, body = _record(outcome)
            store.put(str(address), head, body)
            if time.monotonic() - told > 0.5:
                told = time.monotonic()
                tell({"share": number / len(wanted) / 2})  # the other half is reading
    return entries


def _record(outcome: Outcome) -> tuple[dict[str, Any], bytes]:
    """(head, body) as the store keeps them: {"type", "final"} or {"problem", "reason"}."""
    if isinstance(outcome, Failure):
        return {"problem": outcome.kind, "reason": outcome.reason}, b""
    final, reply = outcome
    # A page whose type is not told counts as HTML: get_content_type would say text/plain.
    kind = reply.headers.get_content_type() if "Content-Type" in reply.headers else HTML[0]
    if kind not in (*HTML, PLAIN):
        return {"problem": "not_html", "reason": kind[:100]}, b""
    body, told = reply.body, reply.headers.get_content_charset()
    if told is not None:
        # Kept as UTF-8 with a mark, which says more than the page's own meta tag.
        body = codecs.BOM_UTF8 + decode_page(body, told).encode()
    return {"type": kind, "final": str(final)}, body


def _items(entries: list[Entry], store: PageStore, label: str, licence: str | None) -> Iterator[Document | Problem]:
    for entry in entries:
        if entry.problem is not None:
            yield Problem(entry.problem, f"{entry.where} ({entry.reason})")
            continue
        head, body = store.get(entry.where)
        if "problem" in head:
            yield Problem(head["problem"], f"{entry.where} ({head['reason']})")
            continue
        page = _plain(body) if head["type"] == PLAIN else page_of(body, head["final"])
        if page is None:
            yield Problem("no_text", entry.where)
            continue
        yield Document(
            f"{label}/{entry.where}",
            "web",
            entry.where,
            None,
            None,
            page.text,
            title=page.title,
            date=page.date,
            licence=licence,
        )


def _plain(body: bytes) -> Page | None:
    text = decode_page(body)
    return Page(text, None, None) if text.strip() else None
