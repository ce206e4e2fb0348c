"""The main text of a web page, without menus and advertisements, by trafilatura (Barbaresi 2021, ACL demos)."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from gptcore.text.html_limits import bounded_markup
from gptcore.text.page_charset import decode_page

MAX_BYTES = 20_000_000
"""A longer page gives no text."""
_DATES = {"original_date": True, "extensive_search": False, "max_date": "2100-01-01"}
"""Only dates that the page states, and none judged by today's, which would give other results tomorrow."""


@dataclass(frozen=True)
class Page:
    """What a page says."""

    text: str
    """The main text, a line a paragraph."""
    title: str | None
    """The title, where one is found."""
    date: str | None
    """Day of publication, YYYY-MM-DD, where the page states one."""


def page_of(data: bytes, url: str | None = None) -> Page | None:
    """The main text of an HTML page, or None when there is none or the page is beyond limits.

    The encoding is that of the byte order mark or the meta tag, else UTF-8, else a guess. `url` helps to find the date.
    """
    if len(data) > MAX_BYTES:
        return None
    markup = bounded_markup(decode_page(data))
    if markup is None or not markup.strip():
        return None
    from lxml.etree import LxmlError
    from trafilatura import bare_extraction

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # a page without text is counted, not logged
    try:
        found = bare_extraction(
            markup, url=url, include_comments=False, with_metadata=True, date_extraction_params=dict(_DATES)
        )
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, LxmlError):
        # Faults of the library on odd trees: the page gives no text. A full disk or memory is no fault of a page.
        return None
    if found is None or isinstance(found, dict) or not (found.text or "").strip():
        return None
    return Page(found.text or "", _line(found.title), _line(found.date))


def _line(value: str | None) -> str | None:
    """One line, of signs that UTF-8 holds: JSON in a page can spell half a surrogate pair."""
    return " ".join(value.encode(errors="ignore").decode().split()) or None if value else None
