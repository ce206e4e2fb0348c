"""Where telephone numbers stand in a text.

| form | such as | asks for |
|---|---|---|
| international | +44 20 7946 0958, +8613812345678 | a country code in use (ITU E.164), 8 to 15 digits |
| Chinese mobile | 138-1234-5678, 13812345678 | hyphens; else a Chinese character near it or a word for telephone |
| Chinese landline | 010-12345678, (0755)1234567 | an area code with a hyphen or in parentheses; with a space as above |
| North American | (212) 555-0123, 212-555-0123, 1-800-555-0123 | parentheses, hyphens or dots in these places |
| any other | Tel: 030/123456, 电话 12345678 | a word for telephone right before it, 7 to 15 digits |

Digits without any of these signs stay: they are more often counts, times and identifiers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_ALONE = r"(?!\w|[-.]\w)"
"""Ends a number: neither a letter or digit follows, nor one behind a hyphen or a dot."""


def _first(digit: str) -> str:
    """A pattern of a number's first digit, with nothing before it that makes it a part of something else.

    The digit stands before the condition because that is how `re` finds it fast.
    """
    return f"{digit}(?<![\\w/+-]{digit})(?<!\\d\\.{digit})"


_INTERNATIONAL = re.compile(r"\+(?<![\w+]\+)(\d{1,15})((?:[ .()-]{1,3}\d{1,12}){0,8})" + _ALONE, re.ASCII)
_COUNTRY = re.compile(
    r"1|7|2(?:[07]|[1-6]\d|9\d)|3(?:[0-469]|[578]\d)|4(?:[013-9]|2\d)|5(?:[1-8]|[09]\d)|6(?:[0-6]|[7-9]\d)"
    r"|8(?:[1246]|[0578]\d)|9(?:[0-58]|[679]\d)"
)
_MOBILE = re.compile(_first("1") + r"[3-9]\d(?:([- ])\d{4}\1\d{4}|\d{8})" + _ALONE, re.ASCII)
_MOBILE_86 = re.compile(r"86(?<![1-9A-Za-z_/+.-]86)([- ]?)1[3-9]\d(?:([- ]?)\d{4}){2}" + _ALONE, re.ASCII)
_LANDLINE = re.compile(
    _first("0") + r"(?:10|2\d|[3-9]\d\d)([)\uff09] ?|[- ])[1-9]\d{2,3}[- ]?\d{4}(?:-\d{1,4})?" + _ALONE,
    re.ASCII,
)
_AMERICAN = re.compile(
    _first("[2-9]") + r"\d\d(?:\) ?\d{3}[-. ]|(-)\d{3}-|\.[2-9]\d\d\.)\d{4}" + _ALONE,
    re.ASCII,
)
_AMERICAN_1 = re.compile(_first("1") + r"[-. ]\(?[2-9]\d\d\)?[-. ]\d{3}[-.]\d{4}" + _ALONE, re.ASCII)
_DIGITS = re.compile(r"\d(?<!\w\d)(?:[ .()\uff08\uff09/-]{0,2}\d){6,14}(?!\w)", re.ASCII)

_WORD = re.compile(
    r"(?:(?<![A-Za-z])(?:tele(?:phone|fon)|t[eé]l|phone|mobile|cell(?:phone)?|fax|whatsapp)\.?"
    r"(?:\s?(?:number|no\.?|nr\.?|#))?|(?:电话|手机|传真|热线|座机|联系方式)(?:号码|号)?)"
    r"[\"']?\s?[:\uff1a=是为]?\s?[\"'(\uff08+]{0,2}\Z",
    re.IGNORECASE,
)
"""A word that says that a telephone number follows."""
_PARTS = (
    "tel",
    "tél",
    "phone",
    "mobile",
    "cell",
    "fax",
    "whatsapp",
    "电话",
    "手机",
    "传真",
    "热线",
    "座机",
    "联系方式",
)
"""One of them is in every such word."""
_HAN = re.compile(r"[\u4e00-\u9fff]")


def phones(text: str) -> Iterator[tuple[int, int]]:
    """(begin, end) of every telephone number; a number of several forms comes more than once."""
    if "+" in text:
        yield from _international(text)
    for found in _MOBILE.finditer(text):
        if found[1] == "-" or _expected(text, *found.span()):
            yield found.span()
    for found in _MOBILE_86.finditer(text):
        start = found.start() - 2 * text.startswith("00", max(0, found.start() - 2))
        if found[1] or found[2] or _expected(text, start, found.end()):
            yield start, found.end()
    for found in _LANDLINE.finditer(text):
        start, end = found.span()
        if found[1][0] in ")\uff09":
            if text[start - 1 : start] in ("(", "\uff08"):
                yield start - 1, end
        elif found[1] == "-" or _expected(text, start, end):
            yield start, end
    for found in _AMERICAN.finditer(text):
        start, end = found.span()
        if text[start + 3] != ")":
            yield start, end
        elif text[start - 1 : start] == "(":
            yield start - 1, end
    for found in _AMERICAN_1.finditer(text):
        yield found.span()
    lowered = text.lower()
    if not any(part in lowered for part in _PARTS):
        return
    for found in _DIGITS.finditer(text):
        before = text[max(0, found.start() - 28) : found.start()]
        if _WORD.search(before):
            yield found.start() - (before[-1:] in "(\uff08+"), found.end()


def _international(text: str) -> Iterator[tuple[int, int]]:
    for found in _INTERNATIONAL.finditer(text):
        first, rest = found.groups()
        digits = len(first) + sum(map(str.isdigit, rest))
        country = _COUNTRY.match(first)
        if country is None or not 8 <= digits <= 15:
            continue
        # A sum, a difference of versions and a row of a table may have the plus too.
        grouped = rest.count(".") != 1 and (country.end() == len(first) or 4 <= len(first) <= 7)
        if grouped if rest else digits >= 10:
            yield found.span()


def _expected(text: str, start: int, end: int) -> bool:
    """Whether what stands around a number of that form makes it a telephone number."""
    before = text[max(0, start - 28) : start]
    return bool(_HAN.search(before[-8:]) or _HAN.search(text[end : end + 4]) or _WORD.search(before))
