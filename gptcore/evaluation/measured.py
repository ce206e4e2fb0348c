"""A benchmark stage's figures with the items behind them, and two such stages compared item by item.

for name, found in paired_differences(directory_a, directory_b, "qa").items():    # name: `qa/exact_match`, as in MLflow
    found                                                # a PairedDifference, or in words why there is none
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gptcore.evaluation.decomposition import NotPaired, Sample, decompose
from gptcore.evaluation.headline import BASELINE, OVERLAP, STDERR, headline_name
from gptcore.evaluation.paired import PairedDifference, difference

FEWEST = 10
"""Items that both must have; with fewer, little can be said of any difference."""
CONTENT = ("fields", "target", "bytes", "document")
"""What of a sample tells whether two of equal id are the same item."""


@dataclass(frozen=True)
class Figure:
    """One figure of a benchmark, and the items that it was taken over."""

    metric: str
    """The score's name within a sample."""
    column: str
    """Of a sample: the model's `scores`, or `baseline_scores`."""
    value: float
    """As recorded, over all items."""
    samples: Sequence[Sample]


def paired_differences(a: Path, b: Path, model: str) -> dict[str, PairedDifference | str]:
    """Every figure that two finished benchmark stages share, by its headline name.

    model: whose benchmark it is, `base` or a skill. A value in words says why a figure is not compared item by item.
    """
    first, second = figures(a, model), figures(b, model)
    found: dict[str, PairedDifference | str] = {}
    for name in first.keys() & second.keys():
        try:
            found[name] = paired(first[name], second[name])
        except NotPaired as reason:
            found[name] = str(reason)
    return dict(sorted(found.items()))


def figures(directory: Path, model: str) -> dict[str, Figure]:
    """A benchmark stage's figures by headline name, kinds of items too; none where its files are not there."""
    scores = directory / "scores.json"
    if not scores.exists():
        return {}
    every: dict[str, Figure] = {}
    for task, result in json.loads(scores.read_bytes())["tasks"].items():
        samples = _samples(directory / f"samples-{task}.jsonl")
        for ending, metrics, chosen in _parts(result, samples):
            for name, value in metrics.items():
                if value is not None and name != OVERLAP and not name.endswith(STDERR):
                    every[headline_name(task, name, ending, model)] = _figure(name, float(value), chosen)
    return every


def _samples(path: Path) -> list[Sample]:
    if not path.exists():  # a group of tasks has none of its own
        return []
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _parts(
    result: Mapping[str, Any], samples: list[Sample]
) -> list[tuple[str, Mapping[str, float | None], list[Sample]]]:
    """(ending of names, metrics, their items): of all items, and of each kind."""
    kinds = result.get("kinds", {})
    return [
        ("", result["metrics"], samples),
        *((f"_{kind}", part["metrics"], [s for s in samples if s["kind"] == kind]) for kind, part in kinds.items()),
    ]


def _figure(name: str, value: float, samples: list[Sample]) -> Figure:
    column, metric = "scores", name
    if name.endswith(BASELINE):
        column, metric = "baseline_scores", name.removesuffix(BASELINE)
    filters = {str(sample["filter"]) for sample in samples if "filter" in sample}
    if filters:  # lm-eval's: an answer is read in several ways, `exact_match_strict-match`
        taken = next((f for f in sorted(filters) if metric.endswith(f"_{f}")), "none")
        metric = metric.removesuffix(f"_{taken}")
        samples = [sample for sample in samples if sample["filter"] == taken]
    return Figure(metric, column, value, samples)


def paired(a: Figure, b: Figure) -> PairedDifference:
    """Compare two figures over the items that both have, the same by id and by content.

    Raises NotPaired where they are fewer than FEWEST, and where the figure does not follow from the items.
    """
    if not a.samples or not b.samples:
        raise NotPaired("it has no items of its own")
    by_id = {_identity(sample): (number, sample) for number, sample in enumerate(b.samples)}
    places = []
    for number, sample in enumerate(a.samples):
        other = by_id.get(_identity(sample))
        if other is not None and _same(sample, other[1]):
            places.append((number, other[0]))
    if len(places) < FEWEST:
        raise NotPaired(f"{len(places)} items are in both, at least {FEWEST} are needed")
    parts = decompose(a.metric, (a.samples, b.samples), (a.value, b.value), a.column)
    rows_a, rows_b = (list(column) for column in zip(*places, strict=True))
    chosen = [a.samples[row] for row in rows_a]
    groups = [str(sample["group"]) for sample in chosen] if all("group" in sample for sample in chosen) else None
    if groups and len(set(groups)) < 2:
        raise NotPaired("all items are of one group")
    first, second = parts.items[rows_a], parts.items[[len(a.samples) + row for row in rows_b]]
    found = difference(first, second, parts.figure, groups)
    return replace(found, left_out=(len(a.samples) - len(places), len(b.samples) - len(places)))


def _identity(sample: Sample) -> tuple[Any, ...]:
    return sample["id"], sample.get("seed")


def _same(a: Sample, b: Sample) -> bool:
    return all(a[name] == b[name] for name in CONTENT if name in a and name in b)
