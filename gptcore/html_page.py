"""The pieces of a self-contained HTML page: escaped by default, no script, nothing fetched."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #60666d; --line: #d9dce0; --back: #fff; --card: #f5f6f8;
  --good: #18794e; --bad: #ce2c31; }
@media (prefers-color-scheme: dark) { :root { --ink: #edeef0; --soft: #a4a9b0; --line: #363a40; --back: #111315;
  --card: #1b1e21; --good: #3dd68c; --bad: #ff9592; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 68rem; padding: 1.25rem clamp(0.9rem, 3vw, 2rem) 4rem; color: var(--ink);
  background: var(--back); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 0.6rem; padding-top: 0.6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 0.4rem; }
p { margin: 0.4rem 0; } p, dd, td, small, figcaption { overflow-wrap: anywhere; }
.soft, small, figcaption, caption { color: var(--soft); }
small { font-size: 0.82em; }
code, pre, .code { font: 0.87em/1.45 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { background: var(--card); padding: 0.7rem 0.8rem; border-radius: 6px; overflow-x: auto; margin: 0.4rem 0;
  white-space: pre-wrap; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: 0.2rem 1rem; margin: 0.8rem 0; font-size: 0.92em; }
a { color: inherit; text-underline-offset: 0.2em; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: 0.8rem; margin: 1rem 0; }
.card { background: var(--card); border-radius: 8px; padding: 0.8rem 1rem; }
.card b { display: block; font-size: 1.75rem; font-weight: 600; line-height: 1.25; font-variant-numeric: tabular-nums; }
.card b small { font-size: 0.55em; font-weight: 400; }
.wide { overflow-x: auto; margin: 0.5rem 0; }
table { border-collapse: collapse; font-size: 0.92em; font-variant-numeric: tabular-nums; width: max-content;
  min-width: min(50%, 24rem); }
caption { text-align: left; padding-bottom: 0.2rem; }
th, td { text-align: left; vertical-align: top; padding: 0.32rem 1.1rem 0.32rem 0; }
tr { border-bottom: 1px solid var(--line); }
td { max-width: min(20rem, 70vw); }
th { font-weight: 600; white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; }
.digest { white-space: nowrap; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem 1.6rem; }
figure { margin: 0.6rem 0; min-width: 0; max-width: 36rem; }
figure svg { width: 100%; height: auto; display: block; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
.samples { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 0 1.6rem; }
.sample { min-width: 0; border-left: 3px solid var(--line); padding-left: 0.8rem; margin: 0.6rem 0; }
.sample.right { border-color: var(--good); } .sample.wrong { border-color: var(--bad); }
dl { margin: 0.3rem 0; display: grid; grid-template-columns: minmax(5.5rem, max-content) 1fr; gap: 0.15rem 0.9rem; }
dt { color: var(--soft); } dd { margin: 0; white-space: pre-wrap; }
details { margin: 0.4rem 0; } summary { cursor: pointer; }
"""

_VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
"""Control characters as their pictures; a raw NUL would end the text in some browsers."""


class Markup(str):
    """Text that is HTML already; every other text is escaped on its way in."""

    __slots__ = ()


def text(value: object) -> Markup:
    """A value as HTML: escaped, control characters made visible."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(str(value).translate(_VISIBLE), quote=True))


def joined(pieces: Iterable[object]) -> Markup:
    """Pieces one after the other."""
    return Markup("\n".join(text(piece) for piece in pieces))


def element(name: str, content: object, classes: str = "") -> Markup:
    """`<name class="classes">content</name>`."""
    attribute = f' class="{text(classes)}"' if classes else ""
    return Markup(f"<{name}{attribute}>{text(content)}</{name}>")


def paragraph(content: object, classes: str = "") -> Markup:
    """A paragraph."""
    return element("p", content, classes)


def code(value: object) -> Markup:
    """Something to be copied: a digest, a name."""
    return element("span", value, "code")


def short(digest: str | None, length: int = 8) -> Markup:
    """The beginning of a digest, with the whole one under the pointer; a dash for None."""
    if digest is None:
        return Markup("&ndash;")
    return Markup(f'<span class="code digest" title="{text(digest)}">{text(digest[:length])}</span>')


def table(
    head: Sequence[object], rows: Iterable[Sequence[object]], numbers: Iterable[int] = (), caption: str = ""
) -> Markup:
    """A table that scrolls sideways on a narrow screen. numbers: columns that stand to the right."""
    right = set(numbers)

    def line(cells: Sequence[object], tag: str) -> str:
        return "".join(element(tag, cell, "number" if i in right else "") for i, cell in enumerate(cells))

    above = element("caption", caption) if caption else ""
    body = "\n".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    above += f"<thead><tr>{line(head, 'th')}</tr></thead>"
    return Markup(f'<div class="wide"><table>{above}\n<tbody>{body}</tbody></table></div>')


def definitions(pairs: Iterable[tuple[object, object]]) -> Markup:
    """Names and what they stand for."""
    return element("dl", joined(Markup(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>") for name, value in pairs))


def folded(summary: object, content: object) -> Markup:
    """Content behind a line that opens it."""
    return Markup(f"<details><summary>{text(summary)}</summary>\n{text(content)}</details>")


def card(title: str, value: object, below: object) -> Markup:
    """A headline number."""
    return Markup(f'<div class="card">{text(title)}<b>{text(value)}</b>{element("small", below)}</div>')


def figure(svg: str, caption: str) -> Markup:
    """A plot with a line under it."""
    return Markup(f"<figure>{svg}<figcaption>{text(caption)}</figcaption></figure>")


def page(title: str, opening: object, sections: Sequence[tuple[str, object]]) -> bytes:
    """The whole document. sections: (title, content), each with an anchor in the table of contents."""
    contents = "".join(f'<a href="#{_anchor(name)}">{text(name)}</a> ' for name, _ in sections)
    body = joined(Markup(f'<h2 id="{_anchor(name)}">{text(name)}</h2>\n{text(content)}') for name, content in sections)
    whole = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{text(title)}</h1>
{text(opening)}
<nav>{contents}</nav>
{body}
</body>
</html>
"""
    return whole.encode("utf-8", "replace")  # a lone surrogate in a sample becomes a question mark


def _anchor(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())
