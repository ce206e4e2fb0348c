"""A task measured again under several seeds, as `benchmark.seeds` asks: one result out of theirs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from gptcore.evaluation.headline import BASELINE, ERRORS, OVERLAP, SEED_STD, STDERR
from gptcore.evaluation.skill_scores import rounded

Result = Mapping[str, Any]
"""A task's entry in scores.json, with its samples."""
Values = Mapping[str, float | None]


def over_seeds(runs: Mapping[int, Result]) -> dict[str, Any]:
    """One result out of a task's results by seed; of a single seed it is that one, as it stands.

    A score is the mean over the seeds. With s the standard deviation between N seeds,

        stderr^2 = mean of the seeds' stderr^2 + s^2 / N

    Every seed measures the same items: what other items would change is the same for all, and does not shrink with N,
    so that the first term is a mean and no mean over N. What is drawn differs, and of N draws their mean keeps s^2 / N.
    What a draw does to a single item, beyond what it does to all, is in both terms, and shrinks in the second alone:
    the error is too large by the first term's share of it, never too small. The scores themselves are all it takes,
    whatever the metric; comparisons, which have the items, go by each item's mean over the seeds.

    `<score>_seed_std` is s, `seeds` holds each seed's own scores, and every sample tells its `seed`.
    """
    first, *others = runs.values()
    if not others:
        return dict(first)
    every: dict[str, Any] = {**first, "metrics": _together([run["metrics"] for run in runs.values()])}
    if kinds := first.get("kinds"):
        every["kinds"] = {
            kind: {**part, "metrics": _together([run["kinds"][kind]["metrics"] for run in runs.values()])}
            for kind, part in kinds.items()
        }
    every["seeds"] = {
        str(seed): {name: value for name, value in run["metrics"].items() if _is_drawn(name)}
        for seed, run in runs.items()
    }
    return every | {"samples": [{**sample, "seed": seed} for seed, run in runs.items() for sample in run["samples"]]}


def _together(seeds: Sequence[Values]) -> dict[str, float | None]:
    """Metrics of all seeds as one."""
    found: dict[str, float | None] = {}
    for name in seeds[0]:
        if name.endswith(STDERR):
            continue
        values = [values[name] for values in seeds]
        known = [value for value in values if value is not None and math.isfinite(value)]
        whole = len(known) == len(seeds)
        found[name] = statistics.fmean(known) if whole else seeds[0][name]
        variance = statistics.variance(known) if whole else None
        if name + STDERR in seeds[0]:
            errors = [error for values in seeds if (error := values.get(name + STDERR)) is not None]
            if variance is None or len(errors) < len(seeds):
                found[name + STDERR] = None
            else:
                found[name + STDERR] = math.sqrt(statistics.fmean(e * e for e in errors) + variance / len(seeds))
        if variance is not None and _is_drawn(name):
            found[name + SEED_STD] = math.sqrt(variance)
    return rounded(found)


def _is_drawn(name: str) -> bool:
    """Whether a draw can change it: trivial answers and test items are the same for every seed."""
    return not (name.endswith(ERRORS) or BASELINE in name or name == OVERLAP)


def each_once(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of samples under several seeds those of the first seed: every item once."""
    first = samples[0].get("seed") if samples else None
    return [sample for sample in samples if sample.get("seed") == first]
