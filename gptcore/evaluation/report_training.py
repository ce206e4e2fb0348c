"""The report's sections on training: curves over tokens and over time, and what everything cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from gptcore.evaluation.report_data import stage_json
from gptcore.evaluation.report_plots import Line, curves
from gptcore.evaluation.report_words import DASH, NOT_MEASURED, duration, number
from gptcore.html_page import Markup, element, figure, joined, paragraph, table
from gptcore.store import Manifest
from gptcore.work import read_metrics

PAUSE = 20
"""A gap between two logged lines of so many usual ones is a pause: the run was stopped, and goes on."""

TRAINED = ("tokens", "tokens_per_second")
"""Metrics of training stages beside their cost."""
Point = tuple[int, float]
"""(step, value)."""


class Curves:
    """A training stage's log: its series, and the tokens and seconds behind each step."""

    def __init__(self, log: Sequence[Mapping[str, Any]], stage: str) -> None:
        self._log, self._stage = log, stage
        self._seconds = _seconds_by_step(log)
        counted = self.series("tokens")
        self.tokens_per_step = counted[-1][1] / counted[-1][0] if counted else None
        """None where the log counts no tokens."""

    def series(self, name: str) -> list[Point]:
        """The finite values of a metric."""
        name = f"{self._stage}/{name}"
        found = [(line["step"], line["m"][name]) for line in self._log if name in line["m"]]
        return [(step, value) for step, value in found if math.isfinite(value)]

    def over_tokens(self, label: str, points: Sequence[Point], marked: bool = False) -> Line:
        """A curve over millions of tokens seen, or over updates where none were counted."""
        scale = 1.0 if self.tokens_per_step is None else self.tokens_per_step / 1e6
        return Line(label, [step * scale for step, _ in points], [value for _, value in points], marked)

    def over_time(self, label: str, points: Sequence[Point], marked: bool = False) -> Line:
        """A curve over minutes of training."""
        return Line(label, [self._seconds[step] / 60 for step, _ in points], [value for _, value in points], marked)

    @property
    def token_axis(self) -> str:
        """What `over_tokens` counts."""
        return "updates" if self.tokens_per_step is None else "million tokens"


def _seconds_by_step(log: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """Seconds since the first logged line; a pause counts as a usual gap."""
    moments = {line["step"]: line["t"] / 1000 for line in log}
    gaps = [later - before for before, later in pairwise(moments.values())]
    usual = median(gaps) if gaps else 0.0
    seconds, total = {}, 0.0
    for step, gap in zip(moments, [0.0, *gaps], strict=True):
        total += usual if gap > PAUSE * usual else gap
        seconds[step] = total
    return seconds


def training(inputs: Mapping[str, Path]) -> Markup:
    """Every training stage's curves."""
    plots: list[Markup] = []
    for stage in (name for name in inputs if name == "pretrain" or name.startswith("finetune-")):
        log = Curves(read_metrics(inputs[stage] / "metrics.jsonl"), stage)
        if not log.series("loss"):
            plots.append(paragraph(f"{stage}: no curve was recorded.", "soft"))
        elif stage == "pretrain":
            plots += _pretraining(log, _bits_per_byte(log, inputs))
        else:
            lines = [
                log.over_tokens("training", log.series("loss")),
                log.over_tokens("validation", log.series("val_loss"), marked=True),
            ]
            drawn = curves(f"{stage}-loss", [line for line in lines if line.y], log.token_axis, "nats per token")
            plots.append(figure(drawn, f"{stage}: loss on answers"))
    return element("div", joined(plots), "plots") if plots else NOT_MEASURED


def _bits_per_byte(log: Curves, inputs: Mapping[str, Path]) -> list[tuple[str, list[Point]]]:
    """Training and validation in bits per byte; the first needs what the tokens stage has counted."""
    index = stage_json(inputs, "tokens", "index.json")
    train = index["splits"]["train"] if index else {}
    found = []
    if train.get("bytes") and train.get("tokens"):
        bits = train["tokens"] / train["bytes"] / math.log(2)  # of a nat per token
        found.append(("training", [(step, loss * bits) for step, loss in log.series("loss")]))
    return [*found, ("validation", log.series("val_bits_per_byte"))]


def _pretraining(log: Curves, both: Sequence[tuple[str, list[Point]]]) -> list[Markup]:
    plots = []
    there = [(label, points) for label, points in both if points]
    if there:
        for name, axis, over in (("tokens", log.token_axis, log.over_tokens), ("time", "minutes", log.over_time)):
            lines = [over(label, points, label == "validation") for label, points in there]
            drawn = curves(f"pretrain-{name}", lines, axis, "bits per byte")
            plots.append(figure(drawn, f"pretrain: bits per byte against {name}"))
    else:
        drawn = curves("pretrain-loss", [log.over_tokens("training", log.series("loss"))], log.token_axis, "nats")
        plots.append(figure(drawn, "pretrain: loss, nats per token"))
    speed = log.series("tokens_per_second")
    if speed:
        line = log.over_tokens("tokens per second", speed)
        drawn = curves("pretrain-speed", [line], log.token_axis, "tokens per second", from_zero=True)
        plots.append(figure(drawn, "pretrain: throughput"))
    return plots


def cost(manifests: Mapping[str, Manifest]) -> Markup:
    """Time of every stage, what it trained on, and energy where the machine could tell."""
    if not manifests:
        return NOT_MEASURED
    rows = [
        (name, duration(m.seconds), m.attempts, *(_trained(m, what) for what in TRAINED), energy(m.joules))
        for name, m in manifests.items()
    ]
    known = [m.joules for m in manifests.values() if m.joules is not None]
    total = energy(sum(known) if known else None)
    rows.append(("all", duration(sum(m.seconds for m in manifests.values())), "", "", "", total))
    explained = (
        "Own work over all tries, reused stages with what they cost when they ran. Energy is that of the whole "
        "machine's processors and GPUs while a stage worked."
    )
    if len(known) < len(manifests):
        missing = [name for name, m in manifests.items() if m.joules is None]
        which = "every stage" if not known else ", ".join(missing)
        explained += f" It could not be read for {which}: no counter of the machine was readable."
    head = ("stage", "own work", "tries", "tokens", "tokens/s", "energy")
    return joined([paragraph(explained, "soft"), table(head, rows, (1, 2, 3, 4, 5))])


def _trained(manifest: Manifest, what: str) -> str:
    value = manifest.metrics.get(f"{manifest.stage}/{what}")
    return "" if value is None else number(round(value))


def energy(joules: float | None) -> str:
    """`812 J`, `3.2 kJ`, `1.20 kWh`; a dash for what is not known."""
    if joules is None:
        return DASH
    if joules < 1e6:
        return f"{joules:.0f} J" if joules < 1e3 else f"{joules / 1e3:.1f} kJ"
    return f"{joules / 3.6e6:.2f} kWh"
