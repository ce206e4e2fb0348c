"""How long a model takes to write."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch

from gptcore.model.generate import Answer, generate
from gptcore.model.gpt import GPT
from gptcore.sizes import Shape, count


def generation_times(model: GPT, prompt_tokens: int, new_tokens: int, rows: int, rounds: int) -> dict[str, Any]:
    """Medians over the rounds, and least and most, of greedy answers of one length to prompts made up.

    Of the answers' medians: time_to_first_token_s, from the call on, so that answers of a later batch wait for the
    earlier; time_per_token_s after that, None for one token. tokens_per_s: all new tokens over all the time. A round
    before the first is not counted.

    ValueError where prompt and answer do not fit the context, or a number is not positive.
    """
    numbers = {"prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "rows": rows, "rounds": rounds}
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} {number} must be at least 1")
    if prompt_tokens + new_tokens > model.config.context:
        raise ValueError(
            f"prompt_tokens {prompt_tokens} + new_tokens {new_tokens} exceed the model's context of "
            f"{model.config.context}"
        )
    draw = np.random.default_rng(0)
    prompts = draw.integers(0, model.config.vocab_size, (rows, prompt_tokens)).tolist()
    found: dict[str, list[float]] = {"time_to_first_token_s": [], "time_per_token_s": [], "tokens_per_s": []}
    for _ in range(rounds + 1):
        stamps: dict[int, list[float]] = {}

        def listen(answer: Answer, token: int, stamps: dict[int, list[float]] = stamps) -> None:
            stamps.setdefault(id(answer), []).append(time.perf_counter())

        began = time.perf_counter()
        answers = generate(model, prompts, new_tokens, listen=listen)
        seconds = time.perf_counter() - began
        each = [stamps[id(answer)] for (answer,) in answers]
        found["time_to_first_token_s"].append(statistics.median(stamp[0] - began for stamp in each))
        found["tokens_per_s"].append(rows * new_tokens / seconds)
        if new_tokens > 1:
            after = statistics.median(stamp[-1] - stamp[0] for stamp in each)
            found["time_per_token_s"].append(after / (new_tokens - 1))
    times = {name: values[1:] for name, values in found.items()}
    return {
        **{name: _short(statistics.median(values)) if values else None for name, values in times.items()},
        **{f"{name}_range": [_short(min(values)), _short(max(values))] for name, values in times.items() if values},
        **numbers,
        "parameters": count(Shape.like(model.config)).parameters,
        "device": str(model.device),
        "threads": torch.get_num_threads(),
    }


def _short(value: float) -> float:
    return float(f"{value:.4g}")
