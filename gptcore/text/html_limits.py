"""Markup that a parser reads in bounded time: the same tags and text, without what only makes work.

libxml2 compares every attribute of a tag with all others (40,000 of them take 12 s), and a parser that disagrees with
us about where a comment or a script ends would see tags that were not counted. So pages are cut into the tokens of the
HTML standard (section 13.2.5) first, and what is passed on can be read in one way only.
"""

from __future__ import annotations

import re

MAX_ATTRIBUTES = 256
"""Of one tag; one with more keeps none. Pages in the wild stay below 50."""
MAX_TAGS = 200_000
"""Of one page, start and end. Short links one after another, the slowest sort, take trafilatura 10 to 12 s then."""

_RAW = "script|style|textarea|title|xmp|iframe|noembed|noframes"
_ATTRIBUTE = r"""[\s/]*+[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z)|[^\s>"'][^\s>]*+)?)?"""
# Possessive throughout: no part of a page is looked at more than a few times.
_TAG = re.compile(
    rf"<(/?[a-z][^\s/>]*+)((?:{_ATTRIBUTE}){{0,{MAX_ATTRIBUTES}}}+)((?:{_ATTRIBUTE})*+)[\s/]*+(?:>|\Z)", re.IGNORECASE
)
_COMMENT = re.compile(r"<!--(?:-?>|.*?(?:--!?>|\Z))", re.DOTALL)
_DECLARATION = re.compile(r"<[!?/][^>]*+(?:>|\Z)")
_STRAY = re.compile(r"<(?![a-z!?/])", re.IGNORECASE)
_RAW_NAME = re.compile(_RAW, re.IGNORECASE)
_RAW_ENDS = {name: re.compile(rf"</{name}(?=[\s/>])|\Z", re.IGNORECASE) for name in _RAW.split("|")}


def bounded_markup(markup: str) -> str | None:
    """The page without comments and overlong attribute lists, or None when it has more than MAX_TAGS tags.

    In scripts, styles and titles `<` becomes a space; a declaration becomes the doctype of HTML.
    """
    markup = _STRAY.sub("&lt;", markup.replace("\0", ""))
    pieces: list[str] = []
    tags, place = 0, 0
    while (at := markup.find("<", place)) >= 0:
        pieces.append(markup[place:at])
        if tag := _TAG.match(markup, at):
            tags += 1
            if tags > MAX_TAGS:
                return None
            name, few, more = tag.groups()
            pieces.append(f"<{name}{'' if more else few}>")
            place = tag.end()
            if _RAW_NAME.fullmatch(name):
                end = _RAW_ENDS[name.lower()].search(markup, place)
                assert end is not None
                pieces.append(markup[place : end.start()].replace("<", " "))
                place = end.start()
        elif comment := _COMMENT.match(markup, at):
            place = comment.end()
        elif declaration := _DECLARATION.match(markup, at):
            if declaration[0][:9].lower() == "<!doctype":
                pieces.append("<!DOCTYPE html>")
            place = declaration.end()
        else:  # its tag ends in what is no attribute
            pieces.append("&lt;")
            place = at + 1
    pieces.append(markup[place:])
    return "".join(pieces)
