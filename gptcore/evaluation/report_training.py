"""The report's sections on training: curves over tokens and over time, and what everything cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from gptcore.evaluation.learning_curves import Point, learning_curves
from gptcore.evaluation.report_data import stage_json
from gptcore.evaluation.report_plots import Line, curves
from gptcore.evaluation.report_words import DASH, NOT_MEASURED, duration, number
from gptcore.html_page import Markup, element, figure, joined, paragraph, table
from gptcore.store import Manifest

TRAINED = ("tokens", "tokens_per_second")
"""Metrics of training stages beside their cost."""
TOKENS, TIME = "million tokens", "minutes of training"
Lines = Mapping[str, Sequence[Point]]
"""Curves by label."""


def training(inputs: Mapping[str, Path]) -> Markup:
    """Every training stage's curves."""
    plots: list[Markup] = []
    for stage in (name for name in inputs if name == "pretrain" or name.startswith("finetune-")):
        log = learning_curves(inputs[stage], stage)
        if "loss" not in log:
            plots.append(paragraph(f"{stage}: no curve was recorded.", "soft"))
        elif stage == "pretrain":
            plots += _pretraining(log, _bits_per_byte(log, inputs))
        else:
            lines = {"training": log["loss"], "validation": log.get("val_loss", [])}
            drawn = curves(f"{stage}-loss", over_tokens(lines), TOKENS, "nats per token")
            plots.append(figure(drawn, f"{stage}: loss on answers"))
    return element("div", joined(plots), "plots") if plots else NOT_MEASURED


def over_tokens(lines: Lines) -> list[Line]:
    """Curves over millions of tokens seen, those without points left out."""
    return [_line(label, points, [point.tokens / 1e6 for point in points]) for label, points in lines.items() if points]


def over_time(lines: Lines) -> list[Line]:
    """Curves over minutes of training, those without points left out."""
    return [_line(label, points, [point.seconds / 60 for point in points]) for label, points in lines.items() if points]


def _line(label: str, points: Sequence[Point], x: Sequence[float]) -> Line:
    return Line(label, x, [point.value for point in points], marked=label == "validation")


def _bits_per_byte(log: Mapping[str, list[Point]], inputs: Mapping[str, Path]) -> dict[str, list[Point]]:
    """Training and validation in bits per byte; the first needs what the tokens stage has counted."""
    index = stage_json(inputs, "tokens", "index.json")
    train = index["splits"]["train"] if index else {}
    found = {"validation": log.get("val_bits_per_byte", [])}
    if train.get("bytes") and train.get("tokens"):
        bits = train["tokens"] / train["bytes"] / math.log(2)  # of a nat per token
        found = {"training": [replace(point, value=point.value * bits) for point in log["loss"]], **found}
    return found


def _pretraining(log: Mapping[str, list[Point]], both: Lines) -> list[Markup]:
    plots = []
    if any(both.values()):
        for name, axis, lines in (("tokens", TOKENS, over_tokens(both)), ("time", TIME, over_time(both))):
            drawn = curves(f"pretrain-{name}", lines, axis, "bits per byte")
            plots.append(figure(drawn, f"pretrain: bits per byte against {name}"))
    else:
        drawn = curves("pretrain-loss", over_tokens({"training": log["loss"]}), TOKENS, "nats")
        plots.append(figure(drawn, "pretrain: loss, nats per token"))
    speed = over_tokens({"tokens per second": log["tokens_per_second"]})
    drawn = curves("pretrain-speed", speed, TOKENS, "tokens per second", from_zero=True)
    return [*plots, figure(drawn, "pretrain: throughput")]


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
