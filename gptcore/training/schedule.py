"""The learning rate of each step."""

from __future__ import annotations

import math

from gptcore.config import Training


def learning_rate(step: int, config: Training) -> float:
    """The rate of update `step`, counted from 0."""
    # 1. Warm-up: a line that reaches the peak with the first update after it.
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    # 2. Decay: from the peak to the floor at the last update.
    done = (step - config.warmup_steps) / max(1, config.steps - 1 - config.warmup_steps)
    share = {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "constant": 1.0}[config.schedule]
    floor = config.learning_rate * config.min_lr_ratio
    return floor + (config.learning_rate - floor) * share
