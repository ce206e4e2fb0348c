"""Two models on the same items: difference, standard error, interval and the probability of chance.

found = difference(parts_a, parts_b, figure, groups)    # gptcore/evaluation/measured.py has it for two benchmarks

1. Items that share a group (a module, an article) are one unit: their scores are not independent (Miller 2024, "Adding
   error bars to evals", section 2.2). More than MOST_UNITS units are put together at random.
2. The standard error is the jackknife's over units; for a mean over single items, the sample deviation of the paired
   differences over root n.
3. The interval is the bootstrap's percentiles over units, both models resampled together (Koehn 2004), widened for few
   units (Hesterberg 2015, section 4.3).
4. The probability is that of approximate randomization: the two models' answers to a random half of the units change
   places (Noreen 1989; for means the same as flipping signs). Few units are gone through exactly.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from gptcore.evaluation.decomposition import Figure, Sums

RESAMPLES = 9999
"""Of the bootstrap and of the randomization each: the smallest probability is 1 in 10,000."""
LEVEL = 0.95
"""Of the interval."""
MOST_UNITS = 1000
"""Beyond it units are put together: time is RESAMPLES times their number."""
SEED = 13
"""Draws are the same in every comparison."""
_ROWS = 500
"""Resamples computed at a time."""
_SAME = 1e-9
"""Relative difference under which two statistics count as tied."""


@dataclass(frozen=True)
class PairedDifference:
    """One figure of two models on the same items."""

    a: float
    b: float
    delta: float
    """b - a."""
    stderr: float
    """Of delta, paired."""
    interval: tuple[float, float]
    """Of delta, at LEVEL; by itself, without correction for other comparisons."""
    p: float
    """How often chance alone gives a difference of this size or more, both ways."""
    items: int
    """Compared, the same in both."""
    units: int
    """What was resampled: groups of items, or items."""
    left_out: tuple[int, int] = (0, 0)
    """Items of a, of b that the other does not have."""
    equal: bool = False
    """Whether every single item has the same score."""


def difference(a: Sums, b: Sums, figure: Figure, groups: Sequence[str] | None = None) -> PairedDifference:
    """Compare two models by what their items add to the sums, row for row the same item: (n, k) each.

    groups: of each item; None takes every item by itself. ValueError for fewer than two units.
    """
    units_a, units_b = _units(a, b, groups)
    count = len(units_a)
    if count < 2:
        raise ValueError(f"{count} unit of items: a difference needs 2 at least")
    whole_a, whole_b = units_a.sum(axis=0), units_b.sum(axis=0)
    value_a, value_b = float(figure(whole_a)), float(figure(whole_b))
    delta = value_b - value_a
    equal = bool(np.array_equal(a, b))
    if equal:
        return PairedDifference(value_a, value_b, delta, 0.0, (0.0, 0.0), 1.0, len(a), count, equal=True)
    without = figure(whole_b - units_b) - figure(whole_a - units_a)  # jackknife: each unit left out in turn
    stderr = math.sqrt((count - 1) / count * float(np.square(without - without.mean()).sum()))
    return PairedDifference(
        value_a,
        value_b,
        delta,
        stderr,
        _interval(units_a, units_b, figure),
        _by_exchange(units_a, units_b, figure),
        len(a),
        count,
    )


def _units(a: Sums, b: Sums, groups: Sequence[str] | None) -> tuple[Sums, Sums]:
    """Sums of each unit."""
    place = np.arange(len(a))
    if groups is not None:
        place = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)[1]
    count = int(place.max()) + 1 if len(place) else 0
    if count > MOST_UNITS:
        place = (np.random.default_rng(SEED).permutation(count) % MOST_UNITS)[place]
        count = MOST_UNITS

    def summed(parts: Sums) -> Sums:
        found = np.zeros((count, parts.shape[1]))
        np.add.at(found, place, parts)
        return found

    return summed(a), summed(b)


def _interval(a: Sums, b: Sums, figure: Figure) -> tuple[float, float]:
    draws = _resamples(len(a))
    found = np.concatenate(
        [figure(weights @ b) - figure(weights @ a) for weights in _in_rows(draws)]  # one draw for both: paired
    )
    outside = widened(1 - LEVEL, len(a))
    low, high = np.quantile(found, (outside / 2, 1 - outside / 2))
    return float(low), float(high)


def widened(outside: float, units: int) -> float:
    """The share to leave outside percentiles so that a mean's interval is as wide as Student's (Hesterberg 2015)."""
    normal = NormalDist()
    quantile = student_quantile(1 - outside / 2, units - 1) * math.sqrt(units / (units - 1))
    return 2 * normal.cdf(-quantile)


def student_quantile(share: float, freedom: float) -> float:
    """Quantile of Student's t by its expansion in 1 / freedom (Abramowitz and Stegun 1964, 26.7.5)."""
    z = NormalDist().inv_cdf(share)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))


def _by_exchange(a: Sums, b: Sums, figure: Figure) -> float:
    """How often a difference as large comes out when units change places between the models at random."""
    seen = abs(float(figure(b.sum(axis=0)) - figure(a.sum(axis=0))))
    masks, exact = _exchanges(len(a))
    between, whole_a, whole_b = b - a, a.sum(axis=0), b.sum(axis=0)
    as_large = 0
    for mask in _in_rows(masks):
        moved = mask @ between
        found = np.abs(figure(whole_b - moved) - figure(whole_a + moved))
        as_large += int((found >= seen * (1 - _SAME)).sum())
    return as_large / len(masks) if exact else (as_large + 1) / (len(masks) + 1)


def _in_rows(draws: NDArray[np.uint8]) -> list[Sums]:
    return [draws[start : start + _ROWS].astype(float) for start in range(0, len(draws), _ROWS)]


@functools.lru_cache(maxsize=2)
def _resamples(units: int) -> NDArray[np.uint8]:
    """How often each unit stands in each resample: (RESAMPLES, units)."""
    draw = np.random.default_rng((SEED, units))
    found = np.empty((RESAMPLES, units), dtype=np.uint8)
    for row in found:
        row[:] = np.bincount(draw.integers(0, units, units), minlength=units)
    return found


@functools.lru_cache(maxsize=2)
def _exchanges(units: int) -> tuple[NDArray[np.uint8], bool]:
    """Which units change places each time, and whether these are all the ways there are: (RESAMPLES, units)."""
    if 2**units <= RESAMPLES:
        ways = np.arange(2**units)[:, None] >> np.arange(units) & 1
        return ways.astype(np.uint8), True
    return np.random.default_rng((SEED, units)).integers(0, 2, (RESAMPLES, units), dtype=np.uint8), False
