"""Whether a new model takes the champion's place: its target figure is better, and no guarded one is worse."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gptcore.evaluation.comparison import ALPHA, Delta, direction

if TYPE_CHECKING:
    from gptcore.evaluation.paired import PairedDifference

TOLD = 5
"""Guarded figures that a reason tells one by one; of more it tells the number."""


@dataclass(frozen=True)
class Score:
    """One measured value with its standard error."""

    value: float
    stderr: float


@dataclass(frozen=True)
class Decision:
    """What the gate says of a new version."""

    promote: bool
    reason: str


@dataclass(frozen=True)
class Evidence:
    """What is known of a new version and the champion beside their target scores."""

    target: PairedDifference | None = None
    """Champion to new version over the same test items; None where the champion's samples are out of reach."""
    guarded: Mapping[str, Delta] = field(default_factory=dict)
    """Champion to new version, judged together."""
    unmeasured: tuple[str, ...] = ()
    """Guarded names of which the new version has no figure."""
    unknown: tuple[str, ...] = ()
    """Guarded figures that the champion never had."""
    beside: Mapping[str, Delta] = field(default_factory=dict)
    """Every figure of the skill and every guarded one, champion to new version: to be read, not to decide by."""


def gate(
    metric: str,
    new: Score | None,
    champion: Score | None,
    held_by: str | None,
    margin: float,
    evidence: Evidence | None = None,
) -> Decision:
    """Whether a new version becomes champion.

    There is none yet; or its target is better by more than `margin` standard errors of the difference, and no guarded
    figure is worse. The standard error is that over the same items where evidence has it, else sqrt(a^2 + b^2).
    held_by: the champion's version, None where there is none. Higher is better for every target metric.
    """
    evidence = evidence or Evidence()
    if new is None or not math.isfinite(new.value):
        return Decision(False, f"not promoted: {metric} was not measured")
    shown = f"{metric} {new.value:.4f} ± {new.stderr:.4f}"
    if held_by is None:
        return Decision(True, f"promoted: {shown}; there was no champion yet")
    if champion is None:
        return Decision(False, f"not promoted: {shown}, but champion version {held_by} has no {metric} to compare with")
    gain, error, items = new.value - champion.value, math.hypot(new.stderr, champion.stderr), ""
    if evidence.target is not None:
        gain, error = evidence.target.delta, evidence.target.stderr
        items = f" over the same {evidence.target.items:,} items"
    measured = f"{gain:+.4f}, {gain / error:+.1f} standard errors" if error else f"{gain:+.4f}, standard error 0"
    against = f"{shown} against {champion.value:.4f} ± {champion.stderr:.4f} of champion version {held_by}: "
    better = math.isfinite(error) and gain > margin * error
    target = f"{against}{measured}{items}, {'' if better else 'not '}more than {margin:g}"
    lost = worse(evidence.guarded)
    guard = told(evidence, lost)
    promote = better and not lost and not evidence.unmeasured
    return Decision(promote, f"{'' if promote else 'not '}promoted: {target}{guard}")


def worse(guarded: Mapping[str, Delta]) -> list[str]:
    """Guarded figures that are worse beyond noise; one whose noise is not known counts by its value."""
    return [
        name
        for name, delta in guarded.items()
        if delta.verdict == "worse"
        or (delta.verdict == "no standard error" and delta.delta * (direction(name) or 0) < 0)
    ]


def told(evidence: Evidence, lost: list[str]) -> str:
    """What the reason says of the guarded figures, the worse ones first."""
    parts = []
    if evidence.unmeasured:
        parts.append(f"guarded {', '.join(evidence.unmeasured)} was not measured")
    if lost:
        each = [_one(name, evidence.guarded[name]) for name in lost[:TOLD]]
        more = f", and {len(lost) - TOLD} more" if len(lost) > TOLD else ""
        parts.append(f"guarded {', '.join(each)}{more}")
    kept = [name for name in evidence.guarded if name not in lost]
    if len(kept) > TOLD:
        parts.append(f"{len(kept)} guarded figures are not shown to be worse")
    elif kept:
        parts.append(f"guarded {', '.join(_one(name, evidence.guarded[name]) for name in kept)}")
    if evidence.unknown:
        first = ", ".join(evidence.unknown[:TOLD])
        more = f" and {len(evidence.unknown) - TOLD} more" if len(evidence.unknown) > TOLD else ""
        parts.append(f"the champion has no {first}{more}, which guards nothing")
    return "".join(f"; {part}" for part in parts)


def _one(name: str, delta: Delta) -> str:
    chance = "" if delta.p_corrected is None else f", p {delta.p_corrected:.4f} of {ALPHA:g}"
    items = f" over the same {delta.items:,} items" if delta.items is not None else ""
    return f"{name} {delta.b:.4f} against {delta.a:.4f}: {delta.verdict}{chance}{items}"


def score_of(values: Mapping[str, str | float], metric: str) -> Score | None:
    """A metric and its `_stderr` from a version's tags or a stage's metrics; None where it is not there."""
    if metric not in values:
        return None
    return Score(float(values[metric]), float(values.get(f"{metric}_stderr", "nan")))
