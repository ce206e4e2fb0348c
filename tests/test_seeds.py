"""Runs of one config under several seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gptcore.evaluation.comparison import differences, judged
from gptcore.evaluation.paired import PairedDifference
from gptcore.evaluation.seeds import seed_groups, with_seeds

BASE = {"pretrain.seed": 1, "finetune.qa.seed": 1, "tokens.shuffle_seed": None, "pretrain.steps": 100}


def test_runs_that_differ_in_seeds_alone_belong_together() -> None:
    configs = [
        BASE,
        {**BASE, "pretrain.steps": 200},
        {**BASE, "pretrain.seed": 2, "runtime.workers": 8, "pretrain.devices": 2},
        {**BASE, "pretrain.steps": 200, "finetune.qa.seed": 3},
        {**BASE, "tokens.shuffle_seed": 5},
        {**BASE, "benchmark.seed": 5, "pretrain.devices": 4},
    ]
    assert seed_groups(configs) == [[0, 2, 4, 5], [1, 3]]


def test_the_same_seeds_twice_are_no_two_seeds() -> None:
    assert seed_groups([BASE, {**BASE, "runtime.workers": 8}]) == [[0], [1]]


def test_two_groups_without_items_are_welchs_test() -> None:
    a, b = [0.30, 0.33, 0.29, 0.35], [0.38, 0.37, 0.40]
    theirs = stats.ttest_ind(b, a, equal_var=False)
    delta = float(np.mean(b) - np.mean(a))
    stderr, interval, p = with_seeds(delta, None, None, (np.std(a, ddof=1), np.std(b, ddof=1)), (4, 3))
    assert p == pytest.approx(theirs.pvalue)
    assert interval == pytest.approx(tuple(theirs.confidence_interval()))
    assert stderr == pytest.approx(delta / theirs.statistic)


def test_items_and_seeds_add_in_squares() -> None:
    stderr, interval, p = with_seeds(0.1, 0.03, 200, (0.04, 0.04), (2, 2))
    assert stderr == pytest.approx(math.hypot(0.03, 0.04))
    assert interval[0] < 0 < interval[1] and p > 0.05, "few seeds tell little of their spread"
    assert with_seeds(0.1, 0.03, 200, (0.04, 0.04), (8, 8))[2] < 0.01


def test_one_seed_is_taken_to_spread_as_the_others_do() -> None:
    assert with_seeds(0.1, None, None, (None, 0.03), (1, 3))[0] == pytest.approx(0.03 * math.sqrt(1 + 1 / 3))


def test_seeds_without_any_spread() -> None:
    assert with_seeds(0.1, None, None, (0.0, 0.0), (2, 2)) == (0.0, (0.1, 0.1), 0.0)
    assert with_seeds(0.0, 0.0, 10, (0.0, 0.0), (2, 2))[2] == 1.0


def test_noise_of_training_is_no_difference_of_configs() -> None:
    """Three seeds of each of two equal configs on the same items: items alone would call most of them different."""
    draw = np.random.default_rng(1)
    false, items_alone, trials = 0, 0, 400
    for _ in range(trials):
        means = draw.normal(0.3, 0.05, size=6)  # 0.05 by seed, 0.01 by items
        found = float(means[3:].mean() - means[:3].mean()) + draw.normal(0, 0.01)
        spread = (float(np.std(means[:3], ddof=1)), float(np.std(means[3:], ddof=1)))
        false += with_seeds(found, 0.01, 200, spread, (3, 3))[2] < 0.05
        items_alone += abs(found) > 1.96 * 0.01
    low, high = stats.binom.interval(0.999, trials, 0.05)
    assert false <= high and items_alone > 0.5 * trials, (false, items_alone)
    assert false >= low / 2, "Welch's test of three is a little careful, not blind"


def test_groups_in_a_comparison() -> None:
    a = [{"qa/f1": 0.30, "pretrain/val_loss": 2.0}, {"qa/f1": 0.32, "pretrain/val_loss": 2.02}]
    b = [{"qa/f1": 0.50, "pretrain/val_loss": 1.5}, {"qa/f1": 0.52, "pretrain/val_loss": 1.51}]
    items = PairedDifference(0.31, 0.51, 0.2, 0.02, (0.16, 0.24), 0.0001, 500, 200)
    (found,) = judged([differences(a, b, {"qa/f1": items})])
    f1 = found["qa/f1"]
    assert (f1.a, f1.b, f1.verdict) == (pytest.approx(0.31), pytest.approx(0.51), "better")
    assert f1.spread == pytest.approx((0.02 / math.sqrt(2),) * 2)
    assert f1.stderr == pytest.approx(math.sqrt(0.02**2 + 2 * 0.0002 / 2)), "items and both groups' seeds"
    loss = found["pretrain/val_loss"]
    assert loss.verdict == "better" and not loss.paired, "seeds give an error to what has none of its own"
