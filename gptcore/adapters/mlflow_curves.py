"""Curves on the parent run, by tokens seen: two pipelines overlay in MLflow whatever their batch sizes were."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gptcore.adapters.mlflow_client import Metric, asking
from gptcore.evaluation.learning_curves import evenly, learning_curves

if TYPE_CHECKING:
    from gptcore.adapters.mlflow_runs import Tracker

SHOWN = ("loss", "val_loss", "val_bits_per_byte", "tokens_per_second")
MOST_POINTS = 400
"""Of one curve: a chart has no more pixels to show them with, and a parent is closed in a second."""


def log_curves(tracker: Tracker, parent_run_id: str, stage: str, directory: Path) -> None:
    """Put a training stage's curves on the parent run; the step of a point is the tokens seen.

    A parent that has them keeps them. Raises TrackerAway.
    """
    points = [
        Metric(f"{stage}/{name}", point.value, point.at, round(point.tokens))
        for name, curve in learning_curves(directory, stage).items()
        if name in SHOWN
        for point in evenly(curve, MOST_POINTS)
    ]
    with asking(tracker.uri):
        known = tracker.client.get_run(parent_run_id).data.metrics
        fresh = [point for point in points if point.key not in known]
        for start in range(0, len(fresh), 1000):
            tracker.client.log_batch(parent_run_id, metrics=fresh[start : start + 1000], synchronous=True)
