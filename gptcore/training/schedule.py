"""The learning rate of each step."""

from __future__ import annotations

import math

from gptcore.config import Training


def rate_share(step: int, config: Training) -> float:
    """What share of its peak the rate of update `step` is, counted from 0."""
    # 1. Warm-up: a line that reaches the peak with the first update after it.
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    # 2. Decay: from the peak to the floor at the last update. wsd holds the peak first (Hu et al. 2024, section 4).
    begin = config.warmup_steps
    if config.schedule == "wsd":
        begin = max(begin, config.steps - round(config.decay_share * config.steps))
    done = max(0.0, (step - begin) / max(1, config.steps - 1 - begin))
    share = {"cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}.get(config.schedule, 1 - done)
    return config.min_lr_ratio + (1 - config.min_lr_ratio) * share
