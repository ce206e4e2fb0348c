"""The report's sections on the corpus, skills' own data, the tokenizer and the published models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptcore.evaluation.report_words import DASH, NOT_MEASURED, flat, number, size
from gptcore.html_page import Markup, code, element, folded, joined, paragraph, table
from gptcore.store import Manifest
from gptcore.text.data_card_page import processing
from gptcore.text.documents import SPLITS
from gptcore.text.licences import own_origins
from gptcore.text.skill_items import COUNTS
from gptcore.text.sources import labels_of


def stage_json(inputs: Mapping[str, Path], stage: str, name: str) -> Any:
    """A stage's JSON file, or None where the stage or the file is absent."""
    path = inputs[stage] / name if stage in inputs else None
    if path is None or not path.exists():
        return None
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is broken: {error}; `gptmill verify {stage}` tells more") from None


def published(inputs: Mapping[str, Path]) -> Markup:
    """Registered versions, and what the gate said."""
    published = stage_json(inputs, "publish", "published.json")
    if not published:
        return paragraph("Nothing was published.", "soft")
    rows = [
        (skill, code(entry["uri"]), "yes" if entry["promoted"] else "no", entry["champion"] or "none", entry["reason"])
        for skill, entry in published.items()
    ]
    pieces = [table(("skill", "model", "became champion", "champion now", "why"), rows)]
    for skill, entry in published.items():
        if before := entry.get("champion_before"):
            pieces += _against(skill, before["version"], before["figures"])
    return joined(pieces)


def _against(skill: str, champion: str, figures: Mapping[str, Mapping[str, Any]]) -> list[Markup]:
    """Each figure's difference from the champion that there was."""
    rows = []
    for name, of in figures.items():
        interval = f"{of['interval'][0]:+.4f} to {of['interval'][1]:+.4f}" if of["interval"] else DASH
        items = f"{of['items']:,}" if of["items"] is not None else "not by item"
        rows.append((name, f"{of['a']:.4f}", f"{of['b']:.4f}", f"{of['delta']:+.4f}", interval, items, of["verdict"]))
    explained = (
        f"From champion version {champion} to this one, over the same items where both were kept. The verdict is "
        "corrected for the number of figures (Holm), the 95 % interval is each figure's own."
    )
    head = ("figure", "champion", "this model", "difference", "95 %", "items", "it is")
    return [element("h3", f"{skill}: against the champion of before"), paragraph(explained, "soft"),
            table(head, rows, (1, 2, 3))]  # fmt: skip


def corpus(inputs: Mapping[str, Path]) -> Markup:
    """The data card."""
    data = stage_json(inputs, "corpus", "data_card.json")
    if data is None:
        return NOT_MEASURED
    splits = [(split, f"{data['documents'][split]:,}", size(data["bytes"][split])) for split in SPLITS]
    left_out = [(what.replace("_", " "), f"{count:,}") for what, count in data.get("dropped", {}).items() if count]
    if data.get("cut"):
        left_out.append(("shortened to the length limit", f"{data['cut']:,}"))
    pieces = [table(("split", "documents", "text"), splits, (1, 2))]
    if left_out:
        pieces.append(table(("left out", "documents"), left_out, (1,)))
    pieces.append(_sources(inputs, data))
    licences = data.get("licences", {})
    if licences:
        by_bytes = sorted(licences.items(), key=lambda item: -sum(item[1]["bytes"].values()))
        rows = [(name, f"{sum(of['documents'].values()):,}", size(sum(of["bytes"].values()))) for name, of in by_bytes]
        pieces.append(folded(f"Licences: {len(licences)}", table(("licence", "documents", "text"), rows, (1, 2))))
    packages = [
        (
            name,
            of["version"],
            "yes" if of["held_out"] else "",
            f"{sum(of['documents'].values()):,}",
            size(sum(of["bytes"].values())),
        )
        for name, of in sorted(data.get("packages", {}).items())
    ]
    if packages:
        listed = table(("package", "version", "held out", "documents", "text"), packages, (3, 4))
        pieces.append(folded(f"Packages and their versions: {len(packages)}", listed))
    pieces += [folded(title, content) for title, content in processing(data)]
    return joined(pieces)


def own_data(inputs: Mapping[str, Path], manifests: Mapping[str, Manifest]) -> Markup:
    """Of each skill with data of its own: its items, and where they come from under which licence."""
    pieces: list[Markup] = []
    for stage, manifest in manifests.items():
        if not stage.startswith("items-"):
            continue
        skill, counts = stage.removeprefix("items-"), stage_json(inputs, stage, COUNTS)
        pieces.append(element("h3", skill))
        if counts is not None:
            found = [(split, counts["items"][split]) for split in SPLITS]
            found += [(w.replace("_", " "), n) for w, n in counts["left_out"].items()]
            pieces.append(table(("items", "number"), [(what, f"{count:,}") for what, count in found], (1,)))
        asked, versions = manifest.identity["config"], manifest.identity["sources"]
        rows = [
            (o.name, o.kind, code(o.version[:12]), o.split or "shared out", o.licence or "unknown")
            for o in own_origins(asked["sources"], versions, asked["places"])
        ]
        pieces.append(table(("source", "kind", "version", "split", "licence"), rows))
    return joined(pieces)


def _sources(inputs: Mapping[str, Path], data: dict[str, Any]) -> Markup:
    """Each source's share, with its training tokens where the tokens stage has counted them."""
    index = stage_json(inputs, "tokens", "index.json")
    tokens = index["splits"]["train"].get("sources", {}) if index else {}
    kinds = [source["kind"] for source in data.get("sources", ())]
    rows = [
        (
            number,
            source["kind"],
            f"{sum(source['documents'].values()):,}",
            size(sum(source["bytes"].values())),
            f"{tokens[label]['tokens']:,}" if label in tokens else "",
        )
        for number, (label, source) in enumerate(zip(labels_of(kinds), data.get("sources", ()), strict=True), 1)
    ]
    return table(("source", "kind", "documents", "text", "training tokens"), rows, (2, 3, 4))


def tokenizer(inputs: Mapping[str, Path]) -> Markup:
    """Size and density."""
    found = stage_json(inputs, "tokenizer", "statistics.json")
    if found is None:
        return NOT_MEASURED
    rows = [
        (name.replace("_", " ").replace(".", ": "), number(value) if isinstance(value, int | float) else code(value))
        for name, value in flat({k: v for k, v in found.items() if k != "special_tokens"})
    ]
    special = ", ".join(f"{name} = {number}" for name, number in found.get("special_tokens", {}).items())
    return joined(
        [table(("", "value"), rows), paragraph(joined(["Special tokens: ", code(special)]), "soft") if special else ""]
    )
