"""The list of pages of a web source: those it names, then those of its site maps, in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gptcore.text.addresses import Address, BadAddress, joined, parse_address
from gptcore.text.http_get import Failure
from gptcore.text.sitemaps import read_site_map

MAX_DEPTH = 3
"""An index of indices of site maps, and no deeper; the protocol has an index of site maps only."""
MAX_MAPS = 1_000
"""Site maps that a source reads."""


@dataclass(frozen=True)
class Entry:
    """One address of the list, and why it is not to be fetched, if so."""

    where: str
    address: Address | None
    problem: str | None = None
    reason: str = ""


class _Maps:
    """Site maps being read, depth first."""

    def __init__(self, load: Callable[[Address], bytes]) -> None:
        self._load = load
        self._seen: set[str] = set()

    def entries(self, map_address: Address, depth: int = 1) -> Iterator[Entry]:
        """The pages of a site map and of those it lists; raises Failure or ValueError when it is none."""
        self._seen.add(str(map_address))
        found = read_site_map(self._load(map_address))
        for text in found.pages:
            yield _entry(map_address, text)
        for text in found.maps:
            entry = _entry(map_address, text)
            if entry.address is None or entry.problem:
                yield entry
            elif str(entry.address) not in self._seen:
                yield from self._nested(entry.address, depth + 1)

    def _nested(self, address: Address, depth: int) -> Iterator[Entry]:
        if depth > MAX_DEPTH or len(self._seen) >= MAX_MAPS:
            limit = f"{MAX_DEPTH} deep" if depth > MAX_DEPTH else f"{MAX_MAPS:,} of them"
            yield Entry(str(address), address, "too_large", f"site maps are read {limit} at most")
            return
        try:
            yield from self.entries(address, depth)
        except Failure as failure:
            yield Entry(str(address), address, failure.kind, failure.reason)
        except ValueError as error:
            yield Entry(str(address), address, "unparsable", str(error))


def list_pages(
    pages: Sequence[str], sitemaps: Sequence[str], max_pages: int, load: Callable[[Address], bytes]
) -> tuple[list[Entry], bool]:
    """(the entries, each address once, and whether max_pages left some out); `load` gives a site map's bytes.

    Raises BadAddress for an address of `pages` or `sitemaps`, and ValueError when one of `sitemaps` cannot be had: a
    corpus without it would look whole. One that another site map lists is an entry with a problem then.
    """
    maps = _Maps(load)
    entries: list[Entry] = []
    known: set[tuple[str, bool]] = set()
    taken = 0
    for entry in _all(pages, sitemaps, maps):
        # A page that one host's site map may not list can still be listed by its own.
        name = (entry.where, entry.problem is None)
        if name in known:
            continue
        if entry.problem is None:
            if taken == max_pages:
                return entries, True
            taken += 1
        known.add(name)
        entries.append(entry)
    return entries, False


def _all(pages: Sequence[str], sitemaps: Sequence[str], maps: _Maps) -> Iterator[Entry]:
    for text in pages:
        address = parse_address(text)
        yield Entry(str(address), address)
    for text in sitemaps:
        try:
            yield from maps.entries(parse_address(text))
        except BadAddress:
            raise
        except (Failure, ValueError) as error:
            raise ValueError(f"site map {text}: {error}; run again, or take it out of corpus.sources") from error


def _entry(base: Address, text: str) -> Entry:
    """An address that a site map lists; only its own host's count (sitemaps.org, "Sitemap file location")."""
    try:
        address = joined(base, text)
    except BadAddress as error:
        return Entry(text[:200], None, "bad_address", str(error))
    if address.host != base.host:
        return Entry(str(address), address, "other_host", f"listed by {base.host}")
    return Entry(str(address), address)
