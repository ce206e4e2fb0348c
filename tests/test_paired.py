"""The statistics of comparisons, on simulated models whose true difference is known."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from gptcore.evaluation import paired
from gptcore.evaluation.decomposition import Sums
from gptcore.evaluation.holm import holm
from gptcore.evaluation.paired import (
    LEVEL,
    MOST_UNITS,
    PairedDifference,
    difference,
    student_quantile,
    widened,
)

Numbers = NDArray[Any]
FEWER = 999
"""Resamples in simulations, where thousands of comparisons are made."""
TRIALS = 400
ALPHA = 0.05


def mean(sums: Sums) -> Sums:
    return np.asarray(sums[..., 0] / sums[..., 1])


def beside(values: Numbers, weights: Numbers | None = None) -> Sums:
    return np.stack([values, np.ones(len(values)) if weights is None else weights], axis=1).astype(float)


def of_means(a: Numbers, b: Numbers, groups: list[str] | None = None) -> PairedDifference:
    return difference(beside(a), beside(b), mean, groups)


def normal(draw: np.random.Generator, effect: float) -> PairedDifference:
    """Hard and easy items for both models, and noise of each."""
    items = draw.normal(size=60)
    return of_means(items + draw.normal(size=60), items + draw.normal(size=60) + effect)


def right_or_wrong(draw: np.random.Generator, effect: float) -> PairedDifference:
    """Exact match: each item has its own chance of a right answer."""
    chance = draw.uniform(0.1, 0.5, size=80)
    return of_means(draw.random(80) < chance, draw.random(80) < chance + effect)


def bits_per_byte(draw: np.random.Generator, effect: float) -> PairedDifference:
    """Documents of very different lengths; a ratio of sums."""
    size = np.exp(draw.normal(6, 0.7, size=60))
    text = draw.normal(2.0, 0.3, size=60)
    bits = [size * (text + draw.normal(0, 0.1, size=60) + extra) for extra in (0.0, effect)]
    return difference(beside(bits[0], size), beside(bits[1], size), mean)


def clustered(draw: np.random.Generator, effect: float, told: bool = True) -> PairedDifference:
    """Forty modules of one to six items, whose differences have half of their variance in common."""
    module = np.repeat(np.arange(40), np.arange(40) % 6 + 1)
    a = draw.normal(size=len(module))
    b = a + draw.normal(size=40)[module] + draw.normal(size=len(module)) + effect
    return of_means(a, b, [f"module{number}" for number in module] if told else None)


SIMULATIONS: dict[str, tuple[Callable[[np.random.Generator, float], PairedDifference], float]] = {
    "normal": (normal, 0.0),
    "right or wrong": (right_or_wrong, 0.2),
    "bits per byte": (bits_per_byte, 0.03),
    "clustered": (clustered, 0.3),
}


@contextmanager
def fewer_resamples() -> Iterator[None]:
    kept, paired.RESAMPLES = paired.RESAMPLES, FEWER
    caches = (paired._resamples, paired._exchanges)
    try:
        for cache in caches:
            cache.cache_clear()
        yield
    finally:
        paired.RESAMPLES = kept
        for cache in caches:
            cache.cache_clear()


@functools.cache
def simulated(name: str, effect: float) -> list[PairedDifference]:
    simulate = SIMULATIONS[name][0]
    with fewer_resamples():
        return [simulate(np.random.default_rng((7, trial)), effect) for trial in range(TRIALS)]


def within(count: int, share: float) -> bool:
    """Whether a count of TRIALS is what a true share gives, but for one case in a thousand."""
    low, high = stats.binom.interval(0.999, TRIALS, share)
    return bool(low <= count <= high)


@pytest.mark.parametrize("name", SIMULATIONS)
def test_chance_is_taken_for_a_difference_as_often_as_said(name: str) -> None:
    false = sum(found.p < ALPHA for found in simulated(name, 0.0))
    assert within(false, ALPHA), false


@pytest.mark.parametrize("name", SIMULATIONS)
def test_intervals_hold_the_true_difference_as_often_as_said(name: str) -> None:
    true = SIMULATIONS[name][1]
    inside = sum(found.interval[0] <= true <= found.interval[1] for found in simulated(name, true))
    assert within(inside, LEVEL), inside


@pytest.mark.parametrize("name", SIMULATIONS)
def test_standard_errors_are_the_spread_of_the_differences(name: str) -> None:
    found = simulated(name, 0.0)
    spread = np.std([one.delta for one in found], ddof=1)
    assert np.sqrt(np.mean([one.stderr**2 for one in found])) == pytest.approx(spread, rel=0.12)


def test_items_of_one_module_taken_singly_would_be_too_sure() -> None:
    with fewer_resamples():
        false = sum(clustered(np.random.default_rng((7, trial)), 0.0, told=False).p < ALPHA for trial in range(TRIALS))
    assert false > 2 * ALPHA * TRIALS


def test_pairs_show_what_two_separate_errors_hide() -> None:
    """On items that are hard or easy for both."""
    together, apart = 0, 0
    with fewer_resamples():
        for trial in range(200):
            draw = np.random.default_rng((8, trial))
            items = draw.normal(size=60)
            a, b = items + draw.normal(0, 0.3, size=60), items + draw.normal(0, 0.3, size=60) + 0.2
            together += of_means(a, b).p < ALPHA
            apart += abs(b.mean() - a.mean()) > 1.96 * np.hypot(*(np.std(v, ddof=1) / np.sqrt(60) for v in (a, b)))
    assert together > 180 and apart < 40, (together, apart)


def test_the_figures_of_a_mean() -> None:
    draw = np.random.default_rng(1)
    a = draw.normal(size=200)
    b = a + draw.normal(0.1, 0.5, size=200)
    found = of_means(a, b)
    assert (found.a, found.b, found.delta) == pytest.approx((a.mean(), b.mean(), (b - a).mean()))
    assert found.stderr == pytest.approx(np.std(b - a, ddof=1) / np.sqrt(200))
    student = stats.t.interval(LEVEL, 199, found.delta, found.stderr)
    assert found.interval == pytest.approx(student, abs=0.1 * found.stderr)
    assert (found.items, found.units, found.left_out, found.equal) == (200, 200, (0, 0), False)


def test_randomization_is_scipys() -> None:
    """Exactly for few items, within its own error for many."""
    draw = np.random.default_rng(2)
    for size, tolerance in ((8, 1e-12), (12, 1e-12), (30, 0.02)):
        a, b = draw.integers(0, 3, size=(2, size))
        theirs = stats.permutation_test(
            (a, b), lambda x, y, axis: (y - x).mean(axis), permutation_type="samples", vectorized=True, rng=3
        )
        assert 0.01 < theirs.pvalue < 0.9
        assert of_means(a, b).p == pytest.approx(theirs.pvalue, abs=tolerance)


def test_the_bootstrap_is_scipys() -> None:
    draw = np.random.default_rng(3)
    size = np.exp(draw.normal(6, 0.7, size=80))
    a, b = (size * draw.normal(2.0, 0.3, size=80) for _ in range(2))
    found = difference(beside(a, size), beside(b, size), mean)

    def statistic(x: Numbers, y: Numbers, z: Numbers, axis: int = -1) -> Any:
        return y.sum(axis) / z.sum(axis) - x.sum(axis) / z.sum(axis)

    level = 1 - widened(1 - LEVEL, 80)
    theirs = stats.bootstrap(
        (a, b, size), statistic, paired=True, confidence_level=level, method="percentile", rng=4, n_resamples=9999
    )
    low, high = theirs.confidence_interval
    assert found.interval == pytest.approx((low, high), abs=0.1 * found.stderr)


def test_equal_items_are_equal_and_exchanged_ones_are_not() -> None:
    scores = np.array([0.0, 1.0] * 10)
    found = of_means(scores, scores)
    assert found.equal and (found.delta, found.stderr, found.interval, found.p) == (0.0, 0.0, (0.0, 0.0), 1.0)
    found = of_means(scores, scores[::-1])
    assert found.delta == 0.0 and not found.equal and found.p == 1.0 and found.stderr > 0


def test_the_same_comparison_gives_the_same_numbers() -> None:
    draw = np.random.default_rng(5)
    a, b = draw.random(50), draw.random(50)
    assert of_means(a, b) == of_means(a, b)
    back = of_means(b, a)
    assert (back.delta, back.stderr, back.p) == pytest.approx((-of_means(a, b).delta, of_means(a, b).stderr, back.p))


def test_many_units_are_put_together() -> None:
    draw = np.random.default_rng(6)
    a = draw.normal(size=7 * MOST_UNITS)
    b = a + draw.normal(size=7 * MOST_UNITS)
    found = of_means(a, b)
    assert (found.items, found.units) == (7 * MOST_UNITS, MOST_UNITS)
    assert found.delta == pytest.approx((b - a).mean())
    assert found.stderr == pytest.approx(np.std(b - a, ddof=1) / np.sqrt(7 * MOST_UNITS), rel=0.1)


def test_one_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="1 unit of items"):
        of_means(np.zeros(5), np.ones(5), ["one"] * 5)


def test_quantiles_are_students() -> None:
    for freedom in (9, 30, 400):
        for share in (0.95, 0.975, 0.995):
            assert student_quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-3)
    assert widened(0.05, 10_000) == pytest.approx(0.05, rel=1e-2)
    assert widened(0.05, 10) < 0.03


def test_holm() -> None:
    """By hand: 0.01 x 4, 0.02 x 3, 0.03 x 2, and 0.04 x 1 raised to the one before it; in the order given."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.005, 0.04, 0.011, 0.9]) == pytest.approx([0.02, 0.08, 0.033, 0.9])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02] and holm([]) == []


def test_corrected_comparisons_rarely_err_together() -> None:
    """Twenty comparisons without a difference: any false one in 5 % of the families, uncorrected in most."""
    draw = np.random.default_rng(9)
    families = draw.uniform(size=(TRIALS, 20))
    wrong = sum(min(holm(list(family))) < ALPHA for family in families)
    assert within(wrong, 1 - (1 - ALPHA / 20) ** 20), wrong
    assert sum(family.min() < ALPHA for family in families) > 0.5 * TRIALS
