"""What differs between two runs: config, the first stage with another result, and metrics with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["better", "worse", "no difference shown", "equal", "differs", "no standard error"]

STDERR = "_stderr"
SHOWN_AT = 2.0
"""Combined standard errors from which a difference counts as shown."""

STAGE_ORDER = ("corpus", "tokenizer", "tokens", "pretrain", "finetune", "benchmark", "publish", "report")
"""Kinds of stages, each after what it reads."""

LOWER_IS_BETTER = ("loss", "bits_per_byte", "byte_perplexity", "word_perplexity", "perplexity", "brier_score")
HIGHER_IS_BETTER = ("exact_match", "f1", "rouge", "acc", "mcc", "bleu", "chrf", "tokens_per_second", "mfu")
"""Beginnings of measures; what follows is a kind of item (`exact_match_type`) or a variant (`acc_norm`)."""
ABOUT_OTHERS = ("_baseline", "_base")
"""Ends of metrics that tell another model's value in the same measure."""


@dataclass(frozen=True)
class Delta:
    """One metric in both runs."""

    a: float
    b: float
    delta: float
    """b - a."""
    stderr: float | None
    """Of the delta: sqrt(a^2 + b^2), the two runs being independent; None where a run has none."""
    verdict: Verdict
    """Of b, seen from a."""


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side."""

    config: dict[str, tuple[Any, Any]]
    """Fields whose values differ; None where a run has no such field."""
    first_stage: str | None
    """The first stage that both ran and that gave another output digest."""
    metrics: dict[str, Delta]
    """Metrics that both runs have."""
    only_in: tuple[list[str], list[str]]
    """Stages that only the first, only the second run has."""

    def row(self) -> dict[str, Any]:
        """What `compare --json` prints beside the two run ids."""
        return {
            "config": {field: list(values) for field, values in self.config.items()},
            "first_stage": self.first_stage,
            "metrics": {name: asdict(delta) for name, delta in self.metrics.items()},
        }


def compare(
    config: tuple[Mapping[str, Any], Mapping[str, Any]],
    digests: tuple[Mapping[str, str], Mapping[str, str]],
    metrics: tuple[Mapping[str, float], Mapping[str, float]],
) -> Comparison:
    """Compare two runs.

    config: flat, by dotted field. digests: output digest by stage. metrics: final values by name.
    """
    fields = sorted({*config[0], *config[1]})
    both = ordered(digests[0].keys() & digests[1].keys())
    return Comparison(
        config={
            field: (config[0].get(field), config[1].get(field))
            for field in fields
            if config[0].get(field) != config[1].get(field)
        },
        first_stage=next((stage for stage in both if digests[0][stage] != digests[1][stage]), None),
        metrics=deltas(*metrics),
        only_in=(ordered(digests[0].keys() - digests[1].keys()), ordered(digests[1].keys() - digests[0].keys())),
    )


def ordered(stages: Iterable[str]) -> list[str]:
    """Stage names in the order in which a pipeline runs them."""
    return sorted(stages, key=lambda stage: (STAGE_ORDER.index(_kind(stage)), stage))


def _kind(stage: str) -> str:
    kind = stage.partition("-")[0]
    return kind if kind in STAGE_ORDER else STAGE_ORDER[-1]


def deltas(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, Delta]:
    """Every metric that both have, standard errors folded into the metric they belong to."""
    names = sorted(name for name in a.keys() & b.keys() if not name.endswith(STDERR))
    return {name: _delta(name, a, b) for name in names}


def _delta(name: str, a: Mapping[str, float], b: Mapping[str, float]) -> Delta:
    errors = [values.get(name + STDERR) for values in (a, b)]
    known = [error for error in errors if error is not None and math.isfinite(error)]
    stderr = math.hypot(*known) if len(known) == 2 else None
    return Delta(a[name], b[name], b[name] - a[name], stderr, verdict(name, b[name] - a[name], stderr))


def verdict(name: str, delta: float, stderr: float | None) -> Verdict:
    """A plain word about a change: better or worse only where the direction is known and the change is shown."""
    if delta == 0:
        return "equal"
    sign = direction(name)
    if sign is None:
        return "differs"
    if stderr is None:
        return "no standard error"
    if not abs(delta) > SHOWN_AT * stderr:
        return "no difference shown"
    return "better" if delta * sign > 0 else "worse"


def direction(name: str) -> int | None:
    """1 where higher is better, -1 where lower is, None where neither can be said (counts, sizes)."""
    measure = name.rsplit("/", 1)[-1].removeprefix("val_")
    if measure.startswith(LOWER_IS_BETTER):
        return -1
    return 1 if measure.startswith(HIGHER_IS_BETTER) else None
