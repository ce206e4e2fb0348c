"""What a corpus holds, what was left out and why, and where it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from gptcore.config import Corpus
from gptcore.config_steps import WHOLE_CORPUS
from gptcore.text.corpus_choice import Choice
from gptcore.text.corpus_files import Files
from gptcore.text.corpus_table import PRIORITY, Table
from gptcore.text.corpus_units import SKIPS, Unit, step_records
from gptcore.text.distributions import canonical_name
from gptcore.text.documents import SPLITS, read
from gptcore.text.harvest import PREFIX
from gptcore.text.sources import Version

EXAMPLES = 3
"""Documents that are shown of each rule."""
SAMPLES = 5
"""Documents that are shown of each split."""
SAMPLE_CHARS = 400
UNKNOWN = "unknown"
"""In the place of a licence."""


def data_card(
    config: Corpus,
    versions: Sequence[Version],
    units: Sequence[Unit],
    table: Table,
    choice: Choice,
    files: Files,
) -> dict[str, Any]:
    """The whole card, JSON-able; no timing and no path, for it is a result."""
    spans = list(zip(table.units, table.units[1:], strict=False))
    by_source: dict[int, list[tuple[int, int]]] = {number: [] for number in range(len(versions))}
    by_package: dict[str, list[tuple[int, int]]] = {}
    by_licence: dict[str, list[tuple[int, int]]] = {}
    for unit, span in zip(units, spans, strict=True):
        by_source[unit.source].append(span)
        if unit.package is not None:
            by_package.setdefault(unit.package, []).append(span)
        by_licence.setdefault(unit.licence or UNKNOWN, []).append(span)
    packages = {name: known for version in versions for name, known in version.get("packages", {}).items()}
    held_out = set(map(canonical_name, config.held_out))
    steps = _steps(config, units)
    return {
        **_tally(table, choice, spans),
        "shards": files,
        "found": sum(unit.count("found") for unit in units),
        "cut": sum(unit.count("cut") for unit in units),
        "dropped": {
            **choice.left_out,
            **{kind: sum(unit.count(kind) for unit in units) for kind in ("too_short", *SKIPS)},
            **_dropped(steps),
        },
        "sources": [
            {
                "kind": source.kind,
                "version": version,
                "found": sum(unit.count("found") for unit in units if unit.source == number),
                **_tally(table, choice, by_source[number]),
            }
            for number, (source, version) in enumerate(zip(config.sources, versions, strict=True))
        ],
        "packages": {
            name: {
                "version": packages[name]["version"],
                "licence": packages[name]["licence"],
                "held_out": name in held_out,
                **_tally(table, choice, spans),
            }
            for name, spans in by_package.items()
        },
        "licences": {name: _tally(table, choice, spans) for name, spans in sorted(by_licence.items())},
        "steps": steps,
        **choice.notes,
        "lengths": _lengths(table, choice),
        "samples": _samples(table, choice),
    }


def _tally(table: Table, choice: Choice, spans: Sequence[tuple[int, int]]) -> dict[str, dict[str, int]]:
    """Documents and bytes by split, of some stretches of the table."""
    documents, size = Counter[str](), Counter[str]()
    for first, end in spans:
        for split in SPLITS:
            members = choice.splits[first:end] == PRIORITY.index(split)
            documents[split] += int(members.sum())
            size[split] += int(table.rows["bytes"][first:end][members].sum(dtype=np.int64))
    return {"documents": dict(documents), "bytes": dict(size)}


def _steps(config: Corpus, units: Sequence[Unit]) -> list[dict[str, Any]]:
    """Of each step that looks at one document alone: what it saw, changed and dropped by which rule, with examples."""
    found = []
    for number, step in enumerate(step for step in config.steps if step.kind not in WHOLE_CORPUS):
        counts, dropped = Counter[str](), Counter[str]()
        examples: dict[str, list[dict[str, str]]] = {}
        records = step_records(units, number)
        for record in records:
            counts.update(record["counts"])
            dropped.update(record["dropped"])
            for rule, shown in record["examples"].items():
                examples[rule] = [*examples.get(rule, []), *shown][:EXAMPLES]
        found.append(
            {
                "kind": step.kind,
                "config": step.model_dump(mode="json", exclude={"kind"}),
                "documents": sum(record["documents"] for record in records),
                "changed": sum(record["changed"] for record in records),
                "counts": dict(sorted(counts.items())),
                "dropped": dict(dropped.most_common()),
                "examples": {rule: examples[rule] for rule, _ in dropped.most_common()},
            }
        )
    return found


def _dropped(steps: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Documents that each kind of step dropped."""
    total = Counter[str]()
    for step in steps:
        total[step["kind"]] += sum(step["dropped"].values())
    return dict(total)


def _lengths(table: Table, choice: Choice) -> dict[str, dict[str, int]]:
    """Documents by split and length: under each power of two bytes that is not under the one before."""
    found = {}
    for split in SPLITS:
        sizes = table.rows["bytes"][choice.splits == PRIORITY.index(split)]
        powers, counts = np.unique(np.frexp(sizes.astype(np.float64))[1], return_counts=True)
        found[split] = {str(2 ** int(power)): int(count) for power, count in zip(powers, counts, strict=True)}
    return found


def _samples(table: Table, choice: Choice) -> dict[str, list[dict[str, str]]]:
    """A few documents of each split, by the hash of their text: the same ones whatever else the corpus holds."""
    found = {}
    for split in SPLITS:
        members = np.flatnonzero(choice.splits == PRIORITY.index(split))
        drawn = members[np.argsort(table.rows["text"][members], kind="stable")[:SAMPLES]]
        documents = [read(line[PREFIX:]) for line in table.lines(np.sort(drawn))]
        found[split] = [{"id": document.id, "text": document.text[:SAMPLE_CHARS]} for document in documents]
    return found
