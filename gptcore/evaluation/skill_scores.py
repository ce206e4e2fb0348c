"""A skill's scores over its samples, the model's beside the trivial answers'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gptcore.config_skill import CORPUS_METRICS, Skill
from gptcore.evaluation.corpus_scores import ALL_TOGETHER, corpus_score, signature
from gptcore.evaluation.scores import mean_stderr

DIGITS = 6
"""Decimals of a score in scores.json."""


def summed(skill: Skill, samples: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """{"n", "metrics", "signatures"}: every metric with its standard error, of the predictions and the trivial answers.

    seed: of the bootstrap behind the error of metrics that belong to all samples together.
    """
    metrics: dict[str, float | None] = {}
    for metric in skill.metrics:
        for suffix, answers, column in (("", "prediction", "scores"), ("_baseline", "baseline", "baseline_scores")):
            if metric in ALL_TOGETHER:
                predictions, targets = ([sample[part] for sample in samples] for part in (answers, "target"))
                value, stderr = corpus_score(metric, predictions, targets, seed, skill.language)
            else:
                value, stderr = mean_stderr([sample[column][metric] for sample in samples])
            metrics |= {f"{metric}{suffix}": value, f"{metric}{suffix}_stderr": stderr}
    signatures = {name: signature(name, skill.language) for name in skill.metrics if name in CORPUS_METRICS}
    found: dict[str, Any] = {"n": len(samples), "metrics": rounded(metrics)}
    return found | {"signatures": signatures} if signatures else found


def rounded(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """The values as scores.json writes them."""
    return {name: None if value is None else round(float(value), DIGITS) for name, value in values.items()}
