"""The HTML and the extension tags of MediaWiki markup: some show what they hold, some hide it, some protect it."""

from __future__ import annotations

import re

_HIDE = (
    "ref references math chem ce code syntaxhighlight source gallery timeline score pre hiero graph mapframe maplink "
    "imagemap inputbox templatedata templatestyles table style script includeonly indicator"
)
_BREAK = "br hr p div center blockquote li ul ol dl dd dt h1 h2 h3 h4 h5 h6 poem"
_INLINE = (
    "abbr b bdi bdo big cite data del dfn em font i ins kbd mark noinclude nowiki onlyinclude q rb rp rt ruby s samp "
    "section small span strike strong sub sup time tr td th tt u var wbr langconvert"
)
HIDE = frozenset(_HIDE.split())
"""Elements dropped with all they hold: notes, formulas, code, pictures, tables, settings."""
BREAK = frozenset(_BREAK.split())
"""Elements that begin a line."""
INLINE = frozenset(_INLINE.split())
"""Elements whose tags are dropped and whose text stays. Any other `<word>` is text."""

_TAG = re.compile(r"<!--.*?(?:-->|\Z)|<(/?)([A-Za-z][A-Za-z0-9]*)((?:[\s/][^<>]*)?)>", re.DOTALL)
_MARKUP = re.compile(r"[\[\]{}'|=*#:;_!-]")


def without_tags(text: str) -> str:
    """Markup without tags and comments; what nowiki protects becomes character references, which later passes leave.

    An element that is never closed loses its tag alone; an unclosed comment goes on to the end, as in MediaWiki.
    """
    if "<" not in text:
        return text
    tags = list(_TAG.finditer(text))
    last_close = {tag[2].lower(): tag.start() for tag in tags if tag[1]}
    kept: list[str] = []
    at = depth = 0
    inside = ""  # the hidden or protected element we are in; its end is known to come
    for tag in tags:
        name = tag[2].lower() if tag[2] else ""
        opens = bool(name) and not tag[1] and not tag[3].endswith("/")
        if inside:
            if name != inside:
                continue
            if tag[1]:
                depth -= 1
            elif opens and name == "table":
                depth += 1
            if depth and tag.start() != last_close[name]:
                continue
            if name == "nowiki":
                kept.append(_MARKUP.sub(lambda match: f"&#{ord(match[0])};", text[at : tag.start()]))
            at, inside = tag.end(), ""
            continue
        if name and name not in HIDE and name not in BREAK and name not in INLINE:
            continue
        kept.append(text[at : tag.start()])
        at = tag.end()
        if name in BREAK:
            kept.append("\n")
        elif opens and (name in HIDE or name == "nowiki") and last_close.get(name, -1) > tag.start():
            inside, depth = name, 1
    kept.append(text[at:])
    return "".join(kept)
