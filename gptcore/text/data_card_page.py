"""The data card as a page to read."""

from __future__ import annotations

from typing import Any

from gptcore.html_page import Markup, definitions, element, folded, joined, page, paragraph, table
from gptcore.text.documents import SPLITS

SIDES = (("dropped", "document"), ("stays", "of"))
BAR = 24
"""Width of the longest bar, characters."""


def data_card_page(card: dict[str, Any]) -> bytes:
    """A self-contained HTML page of `data_card.json`."""
    documents, size = sum(card["documents"].values()), sum(card["bytes"].values())
    opening = paragraph(f"{documents:,} documents, {size:,} bytes of text.", "soft")
    return page("Data card", opening, sections(card))


def sections(card: dict[str, Any]) -> list[tuple[str, Markup]]:
    """(title, content) of every part of the card."""
    found = [("Splits", _splits(card)), ("Sources", _sources(card)), ("Left out", _left_out(card)), *processing(card)]
    return [*found, ("Lengths", _lengths(card)), ("Samples", _samples(card))]


def processing(card: dict[str, Any]) -> list[tuple[str, Markup]]:
    """(title, content) of what `corpus.steps` did; nothing where there was none."""
    found = []
    if card.get("steps"):
        found.append(("Steps", joined(_step(number, step) for number, step in enumerate(card["steps"], 1))))
    if "near_duplicates" in card:
        found.append(("Near-duplicates", _near_duplicates(card["near_duplicates"])))
    if "decontaminate" in card:
        found.append(("Contamination", _contamination(card["decontaminate"])))
    return found


def _splits(card: dict[str, Any]) -> Markup:
    rows = [(split, f"{card['documents'][split]:,}", f"{card['bytes'][split]:,}") for split in SPLITS]
    return table(("split", "documents", "bytes"), rows, (1, 2))


def _sources(card: dict[str, Any]) -> Markup:
    rows = [
        (
            number,
            source["kind"],
            f"{source['found']:,}",
            f"{sum(source['documents'].values()):,}",
            f"{sum(source['bytes'].values()):,}",
        )
        for number, source in enumerate(card["sources"], 1)
    ]
    pieces = [table(("source", "kind", "found", "documents", "bytes"), rows, (2, 3, 4))]
    packages = [
        (
            name,
            of["version"],
            of["licence"] or "",
            "yes" if of["held_out"] else "",
            f"{sum(of['documents'].values()):,}",
            f"{sum(of['bytes'].values()):,}",
        )
        for name, of in sorted(card["packages"].items())
    ]
    if packages:
        listed = table(("package", "version", "licence", "held out", "documents", "bytes"), packages, (4, 5))
        pieces.append(folded(f"Packages and their versions: {len(packages)}", listed))
    licences = [
        (name, f"{sum(of['documents'].values()):,}", f"{sum(of['bytes'].values()):,}")
        for name, of in sorted(card["licences"].items(), key=lambda item: -sum(item[1]["bytes"].values()))
    ]
    pieces.append(folded(f"Licences: {len(licences)}", table(("licence", "documents", "bytes"), licences, (1, 2))))
    return joined(pieces)


def _left_out(card: dict[str, Any]) -> Markup:
    rows = [(why.replace("_", " "), f"{count:,}") for why, count in card["dropped"].items() if count]
    if card["cut"]:
        rows.append(("shortened to the length limit", f"{card['cut']:,}"))
    return table(("why", "documents"), rows, (1,)) if rows else paragraph("Nothing.", "soft")


def _step(number: int, step: dict[str, Any]) -> Markup:
    gone = sum(step["dropped"].values())
    settings = "; ".join(f"{name} {_said(value)}" for name, value in step["config"].items())
    pieces = [
        element("h3", f"{number}. {step['kind']}"),
        paragraph(
            f"{step['documents']:,} documents seen, {step['changed']:,} changed, {gone:,} dropped. {settings}.", "soft"
        ),
    ]
    if step["dropped"]:
        rows = [
            (rule.replace("_", " "), f"{count:,}", f"{count / step['documents']:.2%}")
            for rule, count in step["dropped"].items()
        ]
        pieces.append(table(("rule", "dropped", "share"), rows, (1, 2)))
        shown = [
            definitions([("rule", rule), ("why", one["why"]), ("document", one["id"]), ("text", one["text"])])
            for rule, examples in step["examples"].items()
            for one in examples
        ]
        pieces.append(folded(f"Examples of what was dropped: {len(shown)}", joined(shown)))
    if step["counts"]:
        found = [(name, f"{count:,}") for name, count in step["counts"].items()]
        pieces.append(table(("found", "times"), found, (1,)))
    return joined(pieces)


def _said(value: Any) -> str:
    """A setting as a preset writes it."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "nothing"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _near_duplicates(found: dict[str, Any]) -> Markup:
    pieces: list[object] = [
        paragraph(
            f"{found['dropped']:,} documents dropped that are nearly equal to one of {found['clusters']:,} others."
        )
    ]
    if found["examples"]:
        shown = [
            definitions((f"{what}: {one[side]['id']}", one[side]["text"]) for what, side in SIDES)
            for one in found["examples"]
        ]
        pieces.append(folded(f"Examples: {len(shown)}", joined(shown)))
    return joined(pieces)


def _contamination(found: dict[str, Any]) -> Markup:
    rows = [
        (name, f"{of['items']:,}", f"{of['too_short']:,}", f"{of['contaminated']:,}", f"{of['contaminated_share']:.2%}")
        for name, of in found["benchmarks"].items()
    ]
    pieces: list[object] = [
        paragraph(f"{found['dropped']:,} documents dropped that share a run of words with a benchmark."),
        table(("benchmark", "items", "too short to be found", "found", "share"), rows, (1, 2, 3, 4)),
    ]
    if found["examples"]:
        shown = definitions((one["id"], one["why"]) for one in found["examples"])
        pieces.append(folded(f"Examples: {len(found['examples'])}", shown))
    return joined(pieces)


def _lengths(card: dict[str, Any]) -> Markup:
    most = max((count for of in card["lengths"].values() for count in of.values()), default=1)
    rows = [
        (split, f"under {int(limit):,}", f"{count:,}", "▇" * max(1, round(BAR * count / most)))
        for split in SPLITS
        for limit, count in card["lengths"][split].items()
    ]
    return table(("split", "bytes", "documents", ""), rows, (1, 2))


def _samples(card: dict[str, Any]) -> Markup:
    return joined(
        folded(
            f"{split}: {len(card['samples'][split])} documents",
            joined(definitions([("document", one["id"]), ("text", one["text"])]) for one in card["samples"][split]),
        )
        for split in SPLITS
    )
