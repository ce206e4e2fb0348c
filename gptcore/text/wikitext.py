"""MediaWiki markup to plain text, in time linear in the markup's length whatever it holds.

Syntax: mediawiki.org, Help:Formatting, Help:Links, Help:Tables and Writing systems/Syntax. No template is expanded:
what a template would show is left out. Every pass either runs a pattern that cannot backtrack over more than it has
read, or keeps a stack that each piece of markup enters and leaves once.
"""
# ruff: noqa: RUF001 - full-width punctuation is meant

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from gptcore.text.wikitext_tags import without_tags

HIDDEN_NAMESPACES = frozenset(
    {"file", "image", "media", "category"}  # understood by every wiki
    | {"文件", "檔案", "档案", "图像", "圖像", "媒体", "媒體", "分类", "分類"}
)
"""Lower-case names of the namespaces whose links show no text, besides those a dump names itself."""
LINKS_DEEP = 8
"""Links inside links (captions of files hold some) beyond which brackets are taken for noise."""
VARIANTS = ("zh-hans", "zh-cn", "zh-sg", "zh-my", "zh", "zh-hant", "zh-tw", "zh-hk", "zh-mo")
"""Of several spellings of a Chinese word the first of these is taken, so that a text keeps to one."""

_BRACES = re.compile(r"\{\{+|\}\}+|^[ \t:]*+\{\||^[ \t]*+\|\}(?!\})", re.MULTILINE)
_BRACKETS = re.compile(r"\[\[|\]\]")
_EXTERNAL = re.compile(r"\[(?:https?:|ftp:|mailto:|//)[^\s\[\]]*+[ \t]*+([^\[\]\n]*+)\]", re.IGNORECASE)
_QUOTES = re.compile(r"'''''|'''|''")
_MAGIC = re.compile(r"__(?:[A-Z]+|[\u4e00-\u9fff]+)__")
_CONVERSION = re.compile(r"-\{([^{}]*+)\}-")
_FLAGS = re.compile(r"\A[ \t]*([A-Za-z;-]*)[ \t]*\|")
_RULE = re.compile(r"(?:\A|;)\s*+(?:[^;:]*+=>)?\s*+(zh(?:-[a-z]+)?)\s*+:\s*+")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z]{2,10})*\Z")
_SPACES = re.compile(r"[ \t\u00a0\u3000]{2,}|[\t\u00a0]")
_EMPTY_PARENTHESES = re.compile(r" ?(?:\([ ,;:]*+\)|（[ ,;:，；：、]*+）)")
_TORN_PARENTHESES = re.compile(r"([(（])[ ,;:，；：、]++")
_MARKERS = re.compile(r"[*#:;]+")


def plain_text(markup: str, hidden: Iterable[str] = ()) -> str:
    """The text of an article: paragraphs, headings as lines of their own, list items as lines with `- `.

    hidden: names of the wiki's own namespaces for files, media and categories, in any case; links into them are
    dropped. Templates, tables, references, formulas, code and galleries are dropped, and headings with nothing below.
    """
    text = without_tags(markup.replace("\r\n", "\n"))
    text = _without_braces(text)
    text = _links_shown(text, HIDDEN_NAMESPACES | {namespace_key(name) for name in hidden})
    text = _EXTERNAL.sub(r"\1", text)
    text = _QUOTES.sub("", text)
    text = _CONVERSION.sub(_one_variant, text)
    text = _MAGIC.sub("", text)
    return _in_lines(text)


def namespace_key(name: str) -> str:
    """A namespace's name as links are compared by it."""
    return name.replace("_", " ").strip().lower()


def _without_braces(text: str) -> str:
    """Drop templates, parameters and tables, nested ones with those around them; braces without a partner are noise."""
    spans: list[tuple[int, int]] = []  # disjoint and in order
    stack: list[tuple[int, int]] = []  # (where it begins, number of braces; 0 for a table)
    templates = tables = 0

    def drop(start: int, end: int) -> None:
        while spans and spans[-1][0] >= start:
            spans.pop()
        spans.append((start, end))

    for match in _BRACES.finditer(text):
        token, start = match[0], match.start()
        if token.endswith("{|"):
            stack.append((start, 0))
            tables += 1
        elif token.endswith("|}"):
            if tables:
                while stack[-1][1]:
                    stack.pop()
                    templates -= 1
                drop(stack.pop()[0], match.end())
                tables -= 1
        elif token[0] == "{":
            stack.append((start, len(token)))
            templates += 1
        else:
            left, at = len(token), start
            while left > 1 and templates:
                while not stack[-1][1]:
                    stack.pop()  # a table that its template's end cuts off
                    tables -= 1
                begin, braces = stack.pop()
                pair = min(braces, left, 3)
                left, at, braces = left - pair, at + pair, braces - pair
                drop(begin + braces, at)
                if braces > 1:
                    stack.append((begin, braces))
                else:
                    templates -= 1
    kept, last = [], 0
    for start, end in spans:
        kept.append(text[last:start])
        last = end
    kept.append(text[last:])
    # An unclosed pair is taken out, what it holds is not.
    return re.sub(r"\{\{+|\}\}+", "", "".join(kept))


def _links_shown(text: str, hidden: frozenset[str]) -> str:
    """Every [[link]] as the text it shows; brackets without a partner are taken out."""
    frames: list[list[str]] = [[]]
    last = ignored = 0
    for match in _BRACKETS.finditer(text):
        frames[-1].append(text[last : match.start()])
        last = match.end()
        if match[0] == "[[":
            if len(frames) <= LINKS_DEEP:
                frames.append([])
            else:
                ignored += 1
        elif ignored:
            ignored -= 1
        elif len(frames) > 1:
            inside = "".join(frames.pop())
            frames[-1].append(_shown(inside, hidden))
    frames[0].extend(piece for frame in frames[1:] for piece in frame)
    frames[0].append(text[last:])
    return "".join(frames[0])


def _shown(link: str, hidden: frozenset[str]) -> str:
    """What a link of this inside shows."""
    target, bar, label = link.partition("|")
    if "\n" in target:
        return link  # brackets that are none of a link
    prefix, colon, _ = target.partition(":")
    if colon and namespace_key(prefix) in hidden:
        return ""
    if bar and label.strip():
        return label
    if colon and not bar and _LANGUAGE.match(prefix):
        return ""  # the article in another language
    return target.strip().removeprefix(":")


def _one_variant(match: re.Match[str]) -> str:
    """One spelling of `-{zh-hans:…;zh-hant:…}-`; nothing where the markup only declares a rule."""
    body = match[1]
    if flags := _FLAGS.match(body):
        if set(flags[1].upper().split(";")) & {"H", "T", "-", "D"}:
            return ""
        body = body[flags.end() :]
    parts = _RULE.split(body)
    if len(parts) == 1:
        return body
    spellings = dict(zip(parts[1::2], parts[2::2], strict=True))
    chosen = next((name for name in VARIANTS if name in spellings), parts[1])
    return spellings[chosen].strip(" ;\n")


def _in_lines(text: str) -> str:
    """Headings, list items and paragraphs, one blank line between blocks at most, entities decoded."""
    lines: list[str] = []
    headings: list[tuple[int, str]] = []  # those that nothing stands below yet
    for raw in text.split("\n"):
        line = raw.strip()
        if line.startswith("=") and line.endswith("=") and line.strip("= "):
            level = min(len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("=")))
            while headings and headings[-1][0] >= level:
                headings.pop()
            headings.append((level, _tidy(line.strip("= "))))
            continue
        if line.startswith(("|", "----")):
            line = ""  # what is left of a table that a template ends; a rule across the page
        if markers := _MARKERS.match(line):
            line = line[markers.end() :].lstrip()
            bullet = "- " if markers[0][-1] in "*#" else ""
        else:
            bullet = ""
        line = _tidy(line)
        if line.strip(" .,;:，。；：、-"):
            for _, heading in headings:
                lines += ["", heading, ""]
            headings.clear()
            lines.append(bullet + line)
        elif lines and lines[-1]:
            lines.append("")
    joined = "\n".join(lines)
    return re.sub(r"\n{3,}", "\n\n", joined).strip("\n")


def _tidy(line: str) -> str:
    """Entities as characters, and without the holes that dropped markup leaves."""
    if "&" in line:
        line = _ENTITY.sub(lambda match: html.unescape(match[0]), line)
    line = _SPACES.sub(" ", line)
    if "(" in line or "（" in line:
        line = _TORN_PARENTHESES.sub(r"\1", _EMPTY_PARENTHESES.sub("", line))
    return line.strip()
