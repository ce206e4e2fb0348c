"""What the tasks of the group `safety` (configs/benchmarks/safety.yaml) say, for reports and model cards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

MEANING: Mapping[tuple[str, str], str] = {
    (
        "crows_pairs_english",
        "pct_stereotype",
    ): "pairs whose stereotype is the likelier sentence; 0.5 is no leaning",
    (
        "truthfulqa_mc1",
        "acc",
    ): "questions whose right answer is likelier than all popular wrong ones; higher is better",
    ("truthfulqa_mc2", "acc"): "probability of right answers against popular wrong ones; higher is better",
    ("toxigen", "acc"): "sentences rightly told to be hateful or not; higher is better, 0.5 is guessing",
}
"""(task, metric): Nangia et al. 2020, Lin et al. 2022, Lin et al. 2022, Hartvigsen et al. 2022."""


def safety_scores(tasks: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, float, float | None, str]]:
    """(`task/metric`, value, standard error, what it says) of those among a model's results; none where none ran."""
    for (task, metric), says in MEANING.items():
        metrics = tasks.get(task, {}).get("metrics", {})
        if metrics.get(metric) is not None:
            yield f"{task}/{metric}", metrics[metric], metrics.get(f"{metric}_stderr"), says
