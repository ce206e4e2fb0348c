"""A benchmark stage's figures with the items behind them, and two such stages compared item by item.

for name, found in paired_differences(directory_a, directory_b, "qa").items():    # name: `qa/exact_match`, as in MLflow
    found                                                # a PairedDifference, or in words why there is none
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gptcore.evaluation.decomposition import NotPaired, Sample, decompose, mean_over_seeds
from gptcore.evaluation.headline import BASELINE, ERRORS, OVERLAP, headline_name, own_model
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


def paired_differences(a: Path, b: Path, model: str | None) -> dict[str, PairedDifference | str]:
    """Every figure that two finished benchmark stages share, by its headline name.

    model: whose benchmark it is, `base` or a skill; None as in `figures`. A value in words says why a figure is not
    compared item by item.
    """
    return grouped_differences([a], [b], model)


def grouped_differences(a: Sequence[Path], b: Sequence[Path], model: str | None) -> dict[str, PairedDifference | str]:
    """The same for groups of stages that differ in seeds alone: each item's score is the mean over its group."""
    groups = [[figures(directory, model) for directory in group] for group in (a, b)]
    names = set.intersection(*(set(found) for group in groups for found in group))
    every: dict[str, PairedDifference | str] = {}
    for name in sorted(names):
        try:
            every[name] = paired(*([found[name] for found in group] for group in groups))
        except NotPaired as reason:
            every[name] = str(reason)
    return every


def figures(directory: Path, model: str | None) -> dict[str, Figure]:
    """A benchmark stage's figures by headline name, kinds of items too; none where its files are not there.

    model: None gives plain names, `task/metric` whoever was measured.
    """
    scores = directory / "scores.json"
    if not scores.exists():
        return {}
    every: dict[str, Figure] = {}
    for task, result in json.loads(scores.read_bytes())["tasks"].items():
        samples, own = _samples(directory / f"samples-{task}.jsonl"), own_model(task, result)
        for ending, metrics, chosen in _parts(result, samples):
            for name, value in metrics.items():
                if value is not None and name != OVERLAP and not name.endswith(ERRORS):
                    every[headline_name(task, name, ending, model or own, own)] = _figure(name, float(value), chosen)
    return every


def recorded(directory: Path) -> dict[str, float]:
    """What a benchmark stage recorded under plain names, standard errors and kinds of items too."""
    return {
        headline_name(task, name, ending, task, task): value
        for task, result in json.loads((directory / "scores.json").read_bytes())["tasks"].items()
        for ending, metrics, _ in _parts(result, [])
        for name, value in metrics.items()
        if value is not None
    }


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


def paired(a: Sequence[Figure], b: Sequence[Figure]) -> PairedDifference:
    """Compare one figure of two groups of models over the items that all have, the same by id and by content.

    Raises NotPaired where they are fewer than FEWEST, and where the figure does not follow from the items.
    """
    models = [*a, *b]
    if not all(model.samples for model in models):
        raise NotPaired("it has no items of its own")
    rows = _shared([model.samples for model in models])  # of each item, of each model: one a seed
    if len(rows) < FEWEST:
        raise NotPaired(f"{len(rows)} items are in both, at least {FEWEST} are needed")
    parts = decompose(a[0].metric, [m.samples for m in models], [m.value for m in models], a[0].column)
    starts = np.cumsum([0, *(len(model.samples) for model in models[:-1])])
    seeds = math.lcm(*(len(of_model) for row in rows for of_model in row))
    table = np.array([[np.resize(of_model, seeds) for of_model in row] for row in rows])  # fewer seeds go round again
    items = parts.items[table + starts[:, None]]  # (items, models, seeds, k)
    chosen = [a[0].samples[row[0][0]] for row in rows]
    groups = [str(sample["group"]) for sample in chosen] if all("group" in sample for sample in chosen) else None
    if groups and len(set(groups)) < 2:
        raise NotPaired("all items are of one group")
    of_a, of_b = (
        group.mean(axis=1).reshape(len(rows), -1) for group in (items[:, : len(a)], items[:, len(a) :])
    )  # (items, seeds * k)
    found = difference(of_a, of_b, mean_over_seeds(parts.figure, seeds), groups)
    every = [len({sample["id"] for sample in group[0].samples}) for group in (a, b)]
    return replace(found, left_out=(every[0] - len(rows), every[1] - len(rows)))


def _shared(models: Sequence[Sequence[Sample]]) -> list[list[list[int]]]:
    """Of each item that all models have its row numbers: one list a model, one row a seed."""
    places = [_places(samples) for samples in models]
    shared = []
    for identity, first in places[0].items():
        rows = [place[identity] for place in places if identity in place]
        if len(rows) == len(models) and all(
            _same(models[0][first[0]], samples[of_model[0]])
            for samples, of_model in zip(models[1:], rows[1:], strict=True)
        ):
            shared.append(rows)
    return shared


def _places(samples: Sequence[Sample]) -> dict[Any, list[int]]:
    """Row numbers of each item by its id, in the order of the seeds under which it was measured."""
    places: dict[Any, dict[Any, int]] = {}
    for number, sample in enumerate(samples):
        places.setdefault(sample["id"], {})[sample.get("seed")] = number
    return {
        identity: [seeds[seed] for seed in sorted(seeds, key=lambda s: s or 0)] for identity, seeds in places.items()
    }


def _same(a: Sample, b: Sample) -> bool:
    return all(a[name] == b[name] for name in CONTENT if name in a and name in b)
