"""What differs between runs: config, the first stage with another result, and metrics with their uncertainty."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from gptcore.evaluation.headline import BASELINE, ERRORS, OVERLAP, STDERR
from gptcore.evaluation.holm import holm
from gptcore.evaluation.seeds import with_seeds

if TYPE_CHECKING:
    from gptcore.evaluation.paired import PairedDifference

Metrics = Mapping[str, float]
Found = Mapping[str, "PairedDifference | str"]
Verdict = Literal["better", "worse", "no difference shown", "equal", "differs", "no standard error"]

ALPHA = 0.05
"""Share of comparisons without a difference in which any metric may be called better or worse."""

STAGE_ORDER = ("corpus", "tokenizer", "tokens", "pretrain", "finetune", "benchmark", "publish", "report")
"""Kinds of stages, each after what it reads."""

LOWER_IS_BETTER = ("loss", "bits_per_byte", "byte_perplexity", "word_perplexity", "perplexity", "brier_score", "ter")
HIGHER_IS_BETTER = (
    *("exact_match", "f1", "rouge", "acc", "mcc", "bleu", "chrf", "macro_f1", "matthews", "edit_similarity", "parses"),
    *("tokens_per_second", "mfu"),
)
"""Beginnings of measures; what follows is a kind of item (`exact_match_type`) or a variant (`acc_norm`)."""
ABOUT_OTHERS = ("_baseline", "_base")
"""Ends of metrics that tell another model's value in the same measure."""


@dataclass(frozen=True)
class Delta:
    """One metric in both runs, or in both groups of seeds."""

    a: float
    b: float
    delta: float
    """b - a; where only some items are in both, of these alone."""
    stderr: float | None
    """Of the delta: over the same items where it is paired, else sqrt(a^2 + b^2), the runs being independent; with the
    spread between seeds in it where that is known. None where neither is."""
    verdict: Verdict
    """Of b, seen from a."""
    interval: tuple[float, float] | None = None
    """95 % of delta, of this metric by itself."""
    p: float | None = None
    """How often chance alone gives such a difference."""
    p_corrected: float | None = None
    """The same among all that is compared (Holm); the verdict goes by it."""
    paired: bool = False
    """Whether it was taken item by item."""
    items: int | None = None
    """Items that both were measured on, where it is paired."""
    note: str | None = None
    """Why it is not paired, or which items were left out."""
    overlap: tuple[float | None, float | None] = (None, None)
    """Contamination: the share of the benchmark's items of which 13 words in a row stand in the training text."""
    spread: tuple[float | None, float | None] = (None, None)
    """Standard deviation between the seeds of each group; None for a single one."""


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
    metrics: Mapping[str, Delta],
) -> Comparison:
    """Compare two runs.

    config: flat, by dotted field. digests: output digest by stage. metrics: of `deltas`, or of `judged`.
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
        metrics=dict(metrics),
        only_in=(ordered(digests[0].keys() - digests[1].keys()), ordered(digests[1].keys() - digests[0].keys())),
    )


def ordered(stages: Iterable[str]) -> list[str]:
    """Stage names in the order in which a pipeline runs them."""
    return sorted(stages, key=lambda stage: (STAGE_ORDER.index(_kind(stage)), stage))


def _kind(stage: str) -> str:
    kind = stage.partition("-")[0]
    return kind if kind in STAGE_ORDER else STAGE_ORDER[-1]


def deltas(a: Metrics, b: Metrics, paired: Found | None = None) -> dict[str, Delta]:
    """Every metric that both have, standard errors folded into the metric they belong to, judged together."""
    return judged([differences([a], [b], paired or {})])[0]


def differences(a: Sequence[Metrics], b: Sequence[Metrics], paired: Found) -> dict[str, Delta]:
    """The same, not judged yet, of two groups of runs: one run each, or several that differ in seeds alone.

    paired: by metric, its difference over the same items, or why there is none.
    """
    shared = set.intersection(*(set(metrics) for metrics in (*a, *b)))
    names = sorted(name for name in shared if not name.endswith(ERRORS))
    return {name: _delta(name, a, b, paired.get(name)) for name in names}


def _delta(name: str, a: Sequence[Metrics], b: Sequence[Metrics], found: PairedDifference | str | None) -> Delta:
    values = [[metrics[name] for metrics in group] for group in (a, b)]
    means = [math.fsum(group) / len(group) for group in values]
    spread = [statistics.stdev(group) if len(group) > 1 else None for group in values]
    overlap = [_overlap(name, group[0]) for group in (a, b)]
    if found is None or isinstance(found, str):
        errors = [_error(name, group) for group in (a, b)]
        known = [error for error in errors if error is not None]
        delta, units, items, note = means[1] - means[0], None, None, found
        stderr = math.hypot(*known) if len(known) == 2 else None
        p, interval = by_normal(delta, stderr)
        equal = delta == 0
    else:
        delta, stderr, interval, p = found.delta, found.stderr, found.interval, found.p
        units, items, equal = found.units, found.items, found.equal
        left = max(found.left_out)
        note = f"{left} items that only one has are left out" if left else None
    if any(size is not None for size in spread):
        stderr, interval, p = with_seeds(delta, stderr, units, spread, (len(a), len(b)))
        equal = equal and delta == 0 and stderr == 0
    return Delta(
        a=means[0],
        b=means[1],
        delta=delta,
        stderr=stderr,
        verdict="equal" if equal else "no standard error",
        interval=interval,
        p=p,
        paired=items is not None,
        items=items,
        note=note,
        overlap=(overlap[0], overlap[1]),
        spread=(spread[0], spread[1]),
    )


def _error(name: str, group: Sequence[Metrics]) -> float | None:
    """Standard error of a mean over seeds by its items, which are the same for all of them."""
    errors = [metrics.get(name + STDERR) for metrics in group]
    known = [error for error in errors if error is not None and math.isfinite(error)]
    return math.sqrt(math.fsum(e * e for e in known) / len(known)) if len(known) == len(errors) else None


def _overlap(name: str, metrics: Metrics) -> float | None:
    if not isinstance(direction(name), int):
        return None
    return metrics.get(f"{name.split('/')[0]}/{OVERLAP}")


def by_normal(delta: float, stderr: float | None) -> tuple[float | None, tuple[float, float] | None]:
    """Probability and 95 % interval of a difference by its standard error alone."""
    if stderr is None:
        return None, None
    reach = statistics.NormalDist().inv_cdf(1 - ALPHA / 2) * stderr
    p = 2 * statistics.NormalDist().cdf(-abs(delta) / stderr) if stderr else float(delta == 0)
    return p, (delta - reach, delta + reach)


def in_family(name: str, delta: Delta) -> bool:
    """Whether a metric is judged with the others: it has a direction and a probability, and is no trivial answer's."""
    return direction(name) is not None and delta.p is not None and BASELINE not in name


def judged(comparisons: Sequence[Mapping[str, Delta]]) -> list[dict[str, Delta]]:
    """Comparisons with their verdicts: the probabilities of all their metrics are corrected together."""
    family = [(n, name) for n, every in enumerate(comparisons) for name in every if in_family(name, every[name])]
    corrected = dict(zip(family, holm([comparisons[n][name].p or 0.0 for n, name in family]), strict=True))
    return [
        {name: _judge(name, delta, corrected.get((n, name))) for name, delta in every.items()}
        for n, every in enumerate(comparisons)
    ]


def _judge(name: str, delta: Delta, corrected: float | None) -> Delta:
    said: Verdict = delta.verdict
    if said != "equal":
        if corrected is None:
            said = "differs" if direction(name) is None or BASELINE in name else "no standard error"
        elif corrected < ALPHA:
            said = "better" if delta.delta * (direction(name) or 0) > 0 else "worse"
        else:
            said = "no difference shown"
    return replace(delta, verdict=said, p_corrected=corrected)


def direction(name: str) -> int | None:
    """1 where higher is better, -1 where lower is, None where neither can be said (counts, sizes, errors)."""
    measure = name.rsplit("/", 1)[-1].removeprefix("val_")
    if measure.endswith(ERRORS):
        return None
    if measure.startswith(LOWER_IS_BETTER):
        return -1
    return 1 if measure.startswith(HIGHER_IS_BETTER) else None
