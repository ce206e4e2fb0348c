"""Site maps (sitemaps.org protocol 0.9): the pages of a site, as it lists them itself."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field

from gptcore.text.http_get import unpacked

MAX_BYTES = 50 * 1024 * 1024
"""Of one site map, unpacked (sitemaps.org, "Sitemap file requirements")."""
MAX_ADDRESSES = 50_000
"""Of one site map (the same); what follows is left out."""


@dataclass
class SiteMap:
    """What one file lists, in its order, as written."""

    pages: list[str] = field(default_factory=list)
    maps: list[str] = field(default_factory=list)
    """Further site maps, where the file is an index."""


def read_site_map(data: bytes) -> SiteMap:
    """A site map from its bytes: XML urlset or index, or text with an address a line; each also gzipped.

    No entity is expanded and nothing is loaded. Raises ValueError for anything else, and http_get.Failure for broken
    gzip or more than MAX_BYTES.
    """
    if data[:2] == b"\x1f\x8b":
        data = unpacked(data, MAX_BYTES)
    start = data[:1000].removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith((b"<", b"\xff\xfe", b"\xfe\xff")):
        return _read_xml(data)
    lines = data.decode("utf-8-sig", "replace").splitlines()
    pages = [line.strip() for line in lines if line.strip()]
    if not pages or not re.match(r"https?://", pages[0], re.IGNORECASE):
        raise ValueError("neither XML nor a list of addresses")
    return SiteMap(pages[:MAX_ADDRESSES])


def _read_xml(data: bytes) -> SiteMap:
    from lxml import etree

    found = SiteMap()
    # Entities stay as they are, so that ten of them cannot become a billion; libxml2's own limits stay on.
    entries = etree.iterparse(
        io.BytesIO(data),
        events=("end",),
        tag=("{*}url", "{*}sitemap", "{*}urlset", "{*}sitemapindex"),
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        huge_tree=False,
    )
    known = False
    try:
        for _, entry in entries:
            known = True
            location = entry.find("{*}loc")
            if location is None:
                continue
            address = (location.text or "").strip()
            if address and len(location) == 0:
                kind = etree.QName(entry).localname
                (found.pages if kind == "url" else found.maps).append(address)
            if len(found.pages) + len(found.maps) == MAX_ADDRESSES:
                break
            entry.clear()
            while entry.getprevious() is not None:
                del entry.getparent()[0]
    except etree.XMLSyntaxError as error:
        raise ValueError(f"no site map: {error.msg}") from error
    if not known:
        raise ValueError("XML, but no site map")
    return found
