"""Runs of one config under several seeds: who belongs together, and how much a seed changes a result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gptcore.config import EXECUTION_OF_TRAINING


def is_seed(field: str) -> bool:
    """Whether a config field, dotted, is a seed: `pretrain.seed`, `finetune.qa.seed`, `tokens.shuffle_seed`.

    `benchmark.seeds` is none: it says how often the same model is measured.
    """
    last = field.rsplit(".", 1)[-1]
    return last == "seed" or last.endswith("_seed")


def is_execution(field: str) -> bool:
    """Whether a field says how a result is computed, not which one."""
    parts = field.split(".")
    return parts[0] == "runtime" or (parts[0] in ("pretrain", "finetune") and parts[-1] in EXECUTION_OF_TRAINING)


def seed_groups(configs: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Places of the runs whose configs are equal but for seeds, of which no two are the same; in the order given."""
    groups: list[list[int]] = []
    for number, config in enumerate(configs):
        for group in groups:
            if _rest(configs[group[0]]) == _rest(config) and all(_seeds(configs[n]) != _seeds(config) for n in group):
                group.append(number)
                break
        else:
            groups.append([number])
    return groups


def _rest(config: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in config.items() if not is_seed(field) and not is_execution(field)}


def _seeds(config: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in config.items() if is_seed(field)}


def with_seeds(
    delta: float,
    items_stderr: float | None,
    units: int | None,
    spread: Sequence[float | None],
    counts: tuple[int, int],
) -> tuple[float, tuple[float, float], float]:
    """Standard error, 95 % interval and probability of a difference between means over seeds.

    se^2 = s_a^2 / m_a + s_b^2 / m_b + e^2, with s the standard deviation between the m seeds of a group, and e the
    standard error by the items of the difference of the groups' means. Degrees of freedom are Welch's and
    Satterthwaite's over the three terms: m - 1 each, and units - 1 for the items. A group of one seed is taken to
    spread as the other one does.

    items_stderr, units: None where the items are not known. At least one of `spread` is.
    """
    from scipy.special import stdtr, stdtrit  # Student's distribution; a fifth of a second

    known = [(size, count - 1) for size, count in zip(spread, counts, strict=True) if size is not None]
    terms: list[tuple[float, float]] = []
    if len(known) == 2:
        terms = [(size**2 / (freedom + 1), freedom) for size, freedom in known]
    else:
        size, freedom = known[0]
        terms = [(size**2 * sum(1 / count for count in counts), freedom)]
    if items_stderr is not None:
        terms.append((items_stderr**2, units - 1 if units else math.inf))
    variance = math.fsum(term for term, _ in terms)
    if variance == 0:
        return 0.0, (delta, delta), float(delta == 0)
    stderr = math.sqrt(variance)
    below = math.fsum(term**2 / freedom for term, freedom in terms)
    freedom_of_all = min(variance**2 / below if below else math.inf, 1e6)
    p = 2 * float(stdtr(freedom_of_all, -abs(delta) / stderr))
    reach = float(stdtrit(freedom_of_all, 0.975)) * stderr
    return stderr, (delta - reach, delta + reach), p
