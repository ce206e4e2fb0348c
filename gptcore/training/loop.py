"""The one training loop: pretraining and fine-tuning differ only in their batches and their evaluation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gptcore.config import Training
from gptcore.model.gpt import GPT, flops_per_token
from gptcore.training.batches import Batch
from gptcore.training.checkpoint import Progress
from gptcore.training.device import peak_flops, torch_dtype
from gptcore.training.gradient import gradient
from gptcore.training.optimizer import build_optimizers
from gptcore.training.saver import Saver
from gptcore.training.schedule import rate_share
from gptcore.training.team import team_of
from gptcore.work import Work

LOG_EVERY = 10
"""Updates between logged training metrics."""
SHOW_EVERY_S = 0.1
"""Seconds between two moves of the progress bar."""


class NotFinite(RuntimeError):
    """A loss or gradient is nan or infinite; the update was not made."""


@dataclass(frozen=True)
class Job:
    """What sets one training run apart from another."""

    name: str
    """The stage's name, before the slash in metric names."""
    config: Training
    next_batch: Callable[[int], Batch]
    """The batch of a step, counted from 0: a pure function."""
    evaluate: Callable[[], dict[str, float]]
    """Metrics on the validation split, `val_loss` among them."""
    fingerprint: Mapping[str, str]
    """Digests of what the run depends on; a checkpoint of another is refused."""


def train(model: GPT, job: Job, work: Work) -> dict[str, float]:
    """Run the job to its last step, from the newest checkpoint where there is one; returns the final metrics.

    The order around an update makes a resume exact: 1. update; 2. log it; 3. save, with the metric log's position;
    4. evaluate. A run resumed from a checkpoint evaluates first, if its step is due, since 4 came after 3.

    Raises NotFinite, with the weights untouched by the bad update; Interrupted at a step boundary, after a save.
    """
    config, total = job.config, job.config.steps
    dtype = torch_dtype(config.dtype, model.device)
    team = team_of(work)
    peak = (peak_flops(model.device, dtype) or 0.0) * team.size
    optimizers = build_optimizers(model, config)
    forward = team.forward(model)
    compiled: Callable[..., torch.Tensor] = torch.compile(forward) if work.runtime.compile else forward
    saver = Saver(team.checkpoints(work.directory / "checkpoints", job.fingerprint, work.say), work)

    torch.manual_seed(team.seed(config.seed))  # dropout; its state is in the checkpoint
    now = saver.checkpoints.restore(model, optimizers) or Progress(step=0, tokens=0, seconds=0.0, metrics_position=0)
    work.metrics.rewind(now.metrics_position)
    if now.step:
        work.say(f"resuming at step {now.step} of {total}")
    scores: dict[str, float] = {}
    logged, shown = now, 0.0
    model.train()
    with work.deferred_interrupts():
        while True:
            if now.step == total or (now.step and now.step % config.eval_every == 0):
                scores = team.evaluated(job.evaluate)
                work.log({f"{job.name}/{name}": value for name, value in scores.items()}, now.step)
            if now.step == total:
                break
            started = time.perf_counter()
            batch = job.next_batch(now.step)
            share = rate_share(now.step, config)
            loss, norm = gradient(compiled, model, batch, config, dtype, work.runtime.micro_batch_tokens, team)
            _check_finite(loss, norm, now.step + 1, saver.checkpoints.latest())
            optimizers.step(share)
            seconds = now.seconds + time.perf_counter() - started
            now = replace(now, step=now.step + 1, tokens=now.tokens + batch.tokens, seconds=seconds)

            if now.step % LOG_EVERY == 0 or now.step == total:
                speed = (now.tokens - logged.tokens) / (now.seconds - logged.seconds)
                metrics = {"loss": loss, "learning_rate": config.learning_rate * share, "grad_norm": norm}
                metrics |= {"tokens": float(now.tokens), "tokens_per_second": speed}
                if peak:
                    metrics["mfu"] = speed * flops_per_token(model, batch.inputs.shape[1]) / peak
                work.log({f"{job.name}/{name}": value for name, value in metrics.items()}, now.step)
                logged = now
            if time.monotonic() - shown > SHOW_EVERY_S or now.step == total:
                shown = time.monotonic()
                work.progress(now.step, total, "step", loss=loss, tokens_per_second=now.tokens / now.seconds)
            stopping = work.interrupted  # read once: a signal that comes during the save waits for the next update
            saver.after_update(model, optimizers, now, required=stopping or now.step == total)
            if stopping:
                work.stop_if_interrupted()
        work.stop_if_interrupted()
    final = {**scores, "tokens": float(now.tokens), "tokens_per_second": now.tokens / now.seconds}
    return {f"{job.name}/{name}": value for name, value in final.items()}


def _check_finite(loss: float, norm: float, step: int, last_good: Path | None) -> None:
    for name, value in (("loss", loss), ("gradient norm", norm)):
        if not math.isfinite(value):
            kept = f"the last good checkpoint is {last_good}" if last_good else "there is no checkpoint yet"
            raise NotFinite(
                f"{name} is {value} at step {step}; the update was not made, {kept}; "
                "try a lower learning_rate or a longer warm-up"
            )
