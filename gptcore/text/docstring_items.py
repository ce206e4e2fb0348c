"""Questions, answers and summaries that Python docstrings hold by convention.

Summaries: PEP 257 makes the first paragraph the summary of the rest. Questions: parameter sections name a type, a
default, a meaning, what is returned and what is raised, in three styles: numpydoc (a title underlined with dashes),
Google (`Args:`) and Sphinx (`:param x:`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

UNANSWERABLE = "unanswerable"
"""The answer to a question that the context does not answer."""

KINDS = ("type", "default", "meaning", "returns", "raises", UNANSWERABLE)

QUESTIONS = {
    "type": ("What is the type of {name}?", "Which type does {name} have?"),
    "default": ("What is the default of {name}?", "Which value does {name} have by default?"),
    "meaning": ("What is {name}?", "What does {name} mean?"),
    "return type": ("Which type is returned?", "What is the type of the return value?"),
    "return value": ("What is returned?", "What does it return?"),
    "raises": ("Which error is raised {name}?", "What is raised {name}?"),
}

MAX_CONDITION = 80
"""Longest condition that a question quotes ("Which error is raised if ...?"), characters."""

UNANSWERABLE_EVERY = 6
"""One parameter in so many also gets an unanswerable question: about one item in ten."""

# Asked about where a docstring has no further parameter to be asked about.
ABSENT = ("axis", "timeout", "dtype", "encoding", "copy", "seed", "verbose", "weights", "callback", "shape", "mode")

_SECTIONS = {
    "parameters": "parameters", "other parameters": "parameters", "args": "parameters", "arguments": "parameters",
    "params": "parameters", "keyword args": "parameters", "keyword arguments": "parameters", "attributes": "parameters",
    "returns": "returns", "return": "returns", "yields": "returns",
    "raises": "raises",
}  # fmt: skip
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*\Z")
_HEAD = re.compile(r"\A(?P<name>[A-Za-z_][\w.]*)\s*:\s*(?P<type>\S.*)\Z")
_GOOGLE_HEAD = re.compile(r"\A`*(?P<name>[A-Za-z_][\w.]*)`*\s*(?:\((?P<type>.+?)\))?\s*:(?:\s+(?P<text>.*))?\Z")
_SPHINX = re.compile(r"\A:(?P<role>param|parameter|arg|argument|type|returns?|rtype|raises?|except|exception)"
                     r"(?:\s+(?P<what>[^:]*?))?:\s*(?P<text>.*)\Z")  # fmt: skip
_ANY_SECTION = re.compile(
    r"^(?:[-=~]{3,}\s*$|(?:" + "|".join(_SECTIONS) + r"):\s*$|:(?:param|arg|type|return|rtype|raise|except))",
    re.I | re.M,
)
_FIELD = re.compile(r"\A:\w+(?:\s[^:]*)?:(?:\s|\Z)")
_VALUE = r"(``[^`]+``|`[^`]+`|'[^']*'|\"[^\"]*\"|None|True|False|[-+]?\d(?:[\w.+\-]*\w)?|\(\)|\[\]|\{\})"
_DEFAULT_IN_TYPE = re.compile(
    r"[,;(]?\s*\(?\bdefaults?(?:\s+(?:is|to|value))?\s*[:=]?\s*(?P<value>[^\s,;].*?)\)?\.?\Z", re.I
)
_DEFAULT_IN_TEXT = re.compile(
    r"(?:\b[Dd]efaults?(?:\s+value)?\s+(?:is|to|are)|\b[Dd]efault\s?[:=])\s*:?\s*" + _VALUE + r"(?=[\s.,;)]|\Z)"
)
_NOT_A_TYPE = re.compile(r"[,;]?\s*\(?\*?\b(?:optional|required|keyword[- ]only)\b\*?\)?", re.I)
_TYPE_WORDS = re.compile(
    r"\b(?:str|strings?|int|integers?|floats?|bool|booleans?|lists?|dict|dictionary|tuples?|arrays?|objects?|functions?"
    r"|callables?|numbers?|sets?|class|types?|instances?|iterables?|sequences?|true|false|flag|none|bytes|paths?|names?"
    r"|mapping|tensors?|modules?|file)\b", re.I)  # fmt: skip
_NOT_PROSE = re.compile(r"https?://|copyright|licen[cs]e|\(c\)", re.I)
_SENTENCE_END = re.compile(r"(?<=[^.\s])[.!?](?=\s+[A-Z`'\"(*]|\s*\Z)")


@dataclass(frozen=True)
class Entry:
    """One parameter, return value or exception of a docstring."""

    section: str
    """parameters, returns or raises."""
    name: str
    """The parameter or exception; empty for an unnamed return value."""
    type: str | None
    """As written, without default and `optional`."""
    default: str | None
    """As written, without backticks."""
    description: str
    """On one line."""
    text: str
    """How it reads in a context: the head line, and the description indented under it."""


def first_sentence(text: str) -> str:
    """The first sentence of a line of prose, or all of it; without the final stop."""
    end = _SENTENCE_END.search(text)
    return (text[: end.start()] if end else text).strip()


def _one_line(lines: Iterable[str]) -> str:
    return " ".join(" ".join(lines).split())


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _pick(count: int, *parts: str) -> int:
    """The same number below `count` for the same parts, spread evenly."""
    return int.from_bytes(hashlib.blake2b("\0".join(parts).encode(), digest_size=4).digest(), "big") % count


def _whole(text: str) -> bool:
    """Whether brackets and quotes are closed: a spec cut at the wrong place leaves them open."""
    pairs = (("(", ")"), ("[", "]"), ("{", "}"))
    return all(text.count(a) == text.count(b) for a, b in pairs) and not any(text.count(q) % 2 for q in '`"')


def _split_type(spec: str) -> tuple[str | None, str | None]:
    """`int, optional, default: 0` -> (`int`, `0`)."""
    default = None
    if found := _DEFAULT_IN_TYPE.search(spec):
        default, spec = found["value"], spec[: found.start()]
        if default.count(")") < default.count("("):
            default += ")"
        default = _NOT_A_TYPE.sub("", default).strip("` ") if _whole(default) else None
    kind = _NOT_A_TYPE.sub("", spec).strip(" ,;.*")
    if not _whole(kind) or kind.endswith("default"):
        kind = ""
    elif re.fullmatch(r"`+[^`]*`+", kind):
        kind = kind.strip("`")
    return kind or None, default or None


def _default_in(description: str) -> str | None:
    found = _DEFAULT_IN_TEXT.search(description)
    return (found[1].strip("`").strip() or None) if found else None


def _entry(section: str, name: str, spec: str | None, body: Iterable[str], head: str) -> Entry:
    """Put one entry together; `head` is the line as written, up to where the description begins."""
    kind, default = _split_type(spec) if spec else (None, None)
    description = _one_line(body)
    if head.endswith(":"):
        text = f"{head} {description}".strip()
    else:
        text = f"{head}\n    {description}" if description else head
    return Entry(section, name, kind, default or _default_in(description), description, text)


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """Cut a section into entries: each starts at the section's own indentation."""
    filled = [line for line in lines if line.strip()]
    if not filled:
        return
    edge = _indent(filled[0])
    block: list[str] = []
    for line in lines:
        if line.strip() and _indent(line) <= edge and block:
            yield block
            block = []
        if line.strip() or block:
            block.append(line)
    yield block


def _numpy_entries(section: str, lines: list[str]) -> Iterator[Entry]:
    for head, *body in _blocks(lines):
        head = " ".join(head.split())
        found = _HEAD.match(head)
        if section == "parameters":
            if found:
                yield _entry(section, found["name"], found["type"], body, head)
            elif _IDENTIFIER.match(head):
                yield _entry(section, head, None, body, head)
        elif section == "returns":
            yield _entry(section, "", found["type"] if found else head, body, head)
        elif _IDENTIFIER.match(head):
            yield _entry(section, head, None, body, head)


def _google_entries(section: str, lines: list[str]) -> Iterator[Entry]:
    blocks = list(_blocks(lines))
    if section == "returns":
        body = [line for block in blocks for line in block]
        kind, colon, rest = _one_line(body).partition(": ")
        if colon and len(kind) <= 40 and re.match(r"[\w.\[\], |`~]+\Z", kind) and kind.count(" ") <= 3:
            yield _entry(section, "", kind, [rest], f"{kind}:")
        else:
            yield _entry(section, "", None, [], _one_line(body))
        return
    for head, *body in blocks:
        head = " ".join(head.split())
        if found := _GOOGLE_HEAD.match(head):
            text = found["text"] or ""
            yield _entry(section, found["name"], found["type"], [text, *body], head[: len(head) - len(text)].strip())


def _sphinx_entries(lines: list[str]) -> Iterator[Entry]:
    """`:type x:` and `:rtype:` lines join the parameter or return value they speak of."""
    fields: list[tuple[str, str, list[str]]] = []
    inside = False
    for line in lines:
        if found := _SPHINX.match(line):
            fields.append((found["role"], (found["what"] or "").strip(), [found["text"]]))
            inside = True
        elif inside and line.startswith((" ", "\t")):
            fields[-1][2].append(line)
        else:
            inside = False
    types = {what: _one_line(body) for role, what, body in fields if role in ("type", "rtype")}
    for role, what, body in fields:
        if role.startswith(("param", "arg")):
            spec, _, name = what.rpartition(" ")
            spec = spec or types.get(name, "")
            if _IDENTIFIER.match(name):
                written = f":type {name}: {spec}\n" if name in types else ""
                entry = _entry("parameters", name, spec or None, body, f":param {what}:")
                yield Entry("parameters", name, entry.type, entry.default, entry.description, written + entry.text)
        elif role.startswith("return"):
            yield _entry("returns", "", None, body, ":returns:")
        elif role == "rtype":
            yield _entry("returns", "", _one_line(body), [], f":rtype: {_one_line(body)}")
        elif role.startswith(("raise", "except")) and _IDENTIFIER.match(what):
            yield _entry("raises", what, None, body, f":raises {what}:")


def _heading(lines: list[str], i: int) -> tuple[str, int] | None:
    """A section title at line i in lower case, and how many lines it takes; None where there is none."""
    line = lines[i]
    if not line or line[0].isspace():
        return None
    if i + 1 < len(lines) and re.match(r"[-=~]{3,}\s*\Z", lines[i + 1]) and len(line) < 40:
        return line.strip().rstrip(":").lower(), 2
    title = line.strip().rstrip(":").lower()
    if line.rstrip().endswith(":") and (title in _SECTIONS or title in ("example", "examples", "note", "notes")):
        return title, 1
    return None


def parse(text: str) -> list[Entry]:
    """Every parameter, return value and exception of a docstring (indentation removed), in its order."""
    if not _ANY_SECTION.search(text):  # four documents of five
        return []
    lines = text.expandtabs().splitlines()
    entries: list[Entry] = []
    i = 0
    while i < len(lines):
        heading = _heading(lines, i)
        if heading is None:
            i += 1
            continue
        title, taken = heading
        start = i = i + taken
        # A Google section is indented; a numpydoc one ends at the next title.
        while i < len(lines) and _heading(lines, i) is None:
            if taken == 1 and lines[i] and not lines[i][0].isspace():
                break
            i += 1
        section = _SECTIONS.get(title)
        if section:
            reader = _numpy_entries if taken == 2 else _google_entries
            entries.extend(reader(section, lines[start:i]))
    if not entries and "\n:" in f"\n{text}":
        entries.extend(_sphinx_entries(lines))
    return entries


def _headline(entry: Entry) -> str:
    """Return values and exceptions say which they are; a Sphinx field already does."""
    return "" if entry.section == "parameters" or entry.text.startswith(":") else f"{entry.section.capitalize()}:\n"


def _render(entries: list[Entry]) -> str:
    lines, section = [], "parameters"
    for entry in entries:
        headline = _headline(entry) if entry.section != section else ""
        lines.append(headline + entry.text)
        section = entry.section
    return "\n".join(lines)


def window(entries: list[Entry], at: int, max_chars: int) -> str | None:
    """The context of one entry: itself and as many neighbours as fit, in order; None when it alone is too long."""
    first = last = at
    if len(_render(entries[at : at + 1])) > max_chars:
        return None
    grown = True
    while grown:
        grown = False
        for left, right in ((first, last + 1), (first - 1, last)):
            if left >= 0 and right < len(entries) and len(_render(entries[left : right + 1])) <= max_chars:
                first, last, grown = left, right, True
    return _render(entries[first : last + 1])


def _questions(entry: Entry) -> Iterator[tuple[str, str, str, str]]:
    """(kind, template, what fills it, answer) of every question that an entry answers."""
    if entry.section == "parameters":
        if entry.type:
            yield "type", "type", entry.name, entry.type
        if entry.default:
            yield "default", "default", entry.name, entry.default
        meaning = first_sentence(entry.description)
        if len(meaning.split()) >= 2:
            yield "meaning", "meaning", entry.name, meaning
    elif entry.section == "returns":
        if entry.type:
            yield "returns", "return type", "", entry.type
        else:
            yield "returns", "return value", "", first_sentence(entry.description or entry.text)
    else:
        condition = first_sentence(entry.description)
        if re.match(r"(?:if|when)\s", condition, re.I) and len(condition) <= MAX_CONDITION:
            yield "raises", "raises", condition[0].lower() + condition[1:], entry.name


def _unanswerable(entry: Entry, entries: list[Entry], context: str, salt: str) -> tuple[str, str]:
    """(template, what fills it) of a question about this entry's context that has no answer there."""
    asked = []
    if entry.default is None and "default" not in entry.text.lower():
        asked.append(("default", entry.name))
    if entry.type is None and not _TYPE_WORDS.search(entry.text):
        asked.append(("type", entry.name))
    present = set(re.findall(r"\w+", context))
    others = [e.name for e in entries if e.section == "parameters" and e.name not in present]
    others = others or [name for name in ABSENT if name not in present]
    absent = others[_pick(len(others), salt, "absent")]
    asked.append((("type", "default", "meaning")[_pick(3, salt, "about")], absent))
    return asked[_pick(len(asked), salt, "asked")]


def parameter_items(
    identity: str, text: str, max_context: int, max_answer: int
) -> Iterator[tuple[str, str, str, str, str]]:
    """(kind, name, context, question, answer) of a docstring; answers are substrings of contexts, or `unanswerable`.

    `identity` (the document's id) chooses wordings and unanswerable questions; items with a longer context or answer
    (characters) are left out.
    """
    entries = parse(text)
    seen = set()
    for at, entry in enumerate(entries):
        context = window(entries, at, max_context)
        if context is None:
            continue
        for kind, template, name, answer in _questions(entry):
            key = (kind, entry.name or template)
            if answer and len(answer) <= max_answer and answer in context and key not in seen:
                seen.add(key)
                wordings = QUESTIONS[template]
                question = wordings[_pick(len(wordings), identity, *key)].format(name=name)
                yield kind, entry.name or template, context, question, answer
        salt = f"{identity}\0{entry.name}"
        key = (UNANSWERABLE, entry.name)
        if entry.section == "parameters" and key not in seen and _pick(UNANSWERABLE_EVERY, salt) == 0:
            seen.add(key)
            template, name = _unanswerable(entry, entries, context, salt)
            wordings = QUESTIONS[template]
            question = wordings[_pick(len(wordings), salt, "wording")].format(name=name)
            yield UNANSWERABLE, entry.name, context, question, UNANSWERABLE


def _prose(lines: list[str]) -> str:
    """The paragraphs before the first section, field list, example or directive, one line each."""
    kept = []
    for i, line in enumerate(lines):
        if _heading(lines, i) or _FIELD.match(line) or line.lstrip().startswith((">>>", ".. ", "@")):
            break
        kept.append(line)
    paragraphs = re.split(r"\n\s*\n", "\n".join(kept))
    return "\n".join(filter(None, (_one_line(paragraph.splitlines()) for paragraph in paragraphs)))


def summary_item(name: str | None, text: str, min_document: int, max_summary: int) -> tuple[str, str] | None:
    """(document, summary) of a docstring, or None where it makes no good pair. Limits in characters.

    The document is the prose after the first paragraph; it neither repeats the summary nor holds the object's own
    name, which would give the summary away.
    """
    lines = text.expandtabs().splitlines()
    blank = next((i for i, line in enumerate(lines) if not line.strip()), None)
    if blank is None or _heading(lines, 0) or any(_FIELD.match(line) for line in lines[:blank]):
        return None
    summary = _one_line(lines[:blank])
    document = _prose(lines[blank + 1 :])
    words = summary.split()
    if len(words) < 3 or not 15 <= len(summary) <= max_summary or len(document) < min_document:
        return None
    if not summary[0].isalpha() or summary.endswith(":") or ">>>" in summary or _NOT_PROSE.search(summary):
        return None
    if summary.rstrip(". ").lower() in document.lower():
        return None
    own = (name or "").rpartition(".")[2]
    if own and re.search(rf"\b{re.escape(own)}\b", document):
        return None
    return document, summary
