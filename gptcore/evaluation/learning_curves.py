"""A training stage's metric log as curves: every value with the updates, tokens and seconds of training behind it."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gptcore.work import read_metrics


@dataclass(frozen=True)
class Point:
    """One value of a curve, and what had been spent for it."""

    step: int
    """Updates."""
    tokens: float
    """Tokens seen; between two counts of them, in proportion to the updates."""
    seconds: float
    """Of training alone: evaluations, saves and interruptions are left out, so that runs compare."""
    at: int
    """Unix time in milliseconds at which it was logged."""
    value: float


def learning_curves(directory: Path, stage: str) -> dict[str, list[Point]]:
    """A finished training stage's curves by metric name without the stage's; none where no tokens were counted.

    Seconds follow from the log: tokens between two lines over the speed on the second.
    """
    log = read_metrics(directory / "metrics.jsonl")
    marks = [(0, 0.0, 0.0)]  # (step, tokens, seconds)
    for line in log:
        tokens, speed = (line["m"].get(f"{stage}/{name}") for name in ("tokens", "tokens_per_second"))
        if tokens and speed and line["step"] > marks[-1][0]:
            marks.append((line["step"], tokens, marks[-1][2] + (tokens - marks[-1][1]) / speed))
    if len(marks) == 1:
        return {}
    curves: dict[str, list[Point]] = defaultdict(list)
    for line in log:
        tokens, seconds = _spent(marks, line["step"])
        for name, value in line["m"].items():
            if name.startswith(f"{stage}/") and math.isfinite(value):
                curve = Point(line["step"], tokens, seconds, line["t"], value)
                curves[name.removeprefix(f"{stage}/")].append(curve)
    return dict(curves)


def _spent(marks: Sequence[tuple[int, float, float]], step: int) -> tuple[float, float]:
    """Tokens and seconds at a step: of the marks around it, in proportion; after the last one, as it stood there."""
    after = bisect_left(marks, step, key=lambda mark: mark[0])
    if after == 0:
        return 0.0, 0.0
    if after == len(marks):
        return marks[-1][1:]
    (step_a, tokens_a, seconds_a), (step_b, tokens_b, seconds_b) = marks[after - 1 : after + 1]
    share = (step - step_a) / (step_b - step_a)
    return tokens_a + share * (tokens_b - tokens_a), seconds_a + share * (seconds_b - seconds_a)


def evenly(points: Sequence[Point], most: int) -> list[Point]:
    """At most so many of the points, evenly chosen, the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[(number + 1) * len(points) // most - 1] for number in range(most)]
