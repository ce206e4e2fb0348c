"""The text behind a page's bytes, as browsers find it."""

from __future__ import annotations

import codecs
import re

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_META = re.compile(rb"""<meta[^>]{1,500}?charset\s*=\s*["']?\s*([a-z0-9_:.()-]{1,40})""", re.IGNORECASE)
_META_BYTES = 4096
"""Where a declaration may stand: 1,024 by the standard, a little more on pages in the wild."""

# Labels of the Encoding standard (https://encoding.spec.whatwg.org/#names-and-labels) that mean more than they say.
_WIDER = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "big5": "big5hkscs",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "utf-16": "utf-8",
    "utf-16-le": "utf-8",
    "utf-16-be": "utf-8",
}
_KNOWN = re.compile(
    r"utf-8|cp125[0-8]|cp(874|866|932|949)|iso8859-\d+|koi8-[ru]|mac-(roman|cyrillic)"
    r"|gb18030|big5hkscs|euc_jp|iso2022_jp"
)


def known_charset(label: str | None) -> str | None:
    """Python's name of an encoding that pages may be in, or None: not every codec is one (utf-7, punycode)."""
    try:
        name = codecs.lookup((label or "").strip()).name
    except (LookupError, ValueError):  # ValueError: a zero in it
        return None
    name = _WIDER.get(name, name)
    return name if _KNOWN.fullmatch(name) else None


def decode_page(data: bytes, told: str | None = None) -> str:
    """Text of a page: by its byte order mark, then `told` (the header's charset), then its meta tag, then UTF-8.

    Without any of them, and not UTF-8, the encoding is guessed from the bytes. Bytes that do not fit become U+FFFD.
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(name, "replace")
    declared = _META.search(data[:_META_BYTES])
    charset = known_charset(told) or (known_charset(declared[1].decode("ascii")) if declared else None)
    if charset is None:
        try:
            return data.decode()
        except UnicodeDecodeError:
            charset = _guess(data)
    return data.decode(charset, "replace")


def _guess(data: bytes) -> str:
    from trafilatura.utils import detect_encoding  # from the first and last 5,000 bytes

    return next((name for guess in detect_encoding(data) if (name := known_charset(guess))), "utf-8")
