"""The one training loop: pretraining and fine-tuning differ only in their batches and their evaluation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from gptcore.config import Training
from gptcore.model.gpt import GPT, IGNORED, flops_per_token
from gptcore.training.batches import Batch
from gptcore.training.checkpoint import Checkpoints, Progress
from gptcore.training.device import autocast, peak_flops, torch_dtype
from gptcore.training.optimizer import Optimizers, build_optimizers
from gptcore.training.schedule import rate_share
from gptcore.work import FULL_DISK, Work

LOG_EVERY = 10
"""Updates between logged training metrics."""
GPU_MICRO_BATCH_TOKENS = 32_768
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
    peak = peak_flops(model.device, dtype)
    optimizers = build_optimizers(model, config)
    compiled: Callable[..., torch.Tensor] = torch.compile(model) if work.runtime.compile else model
    saver = Saver(Checkpoints(work.directory / "checkpoints", job.fingerprint, work.say), work)

    torch.manual_seed(config.seed)  # dropout; its state is in the checkpoint
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
                scores = job.evaluate()
                work.log({f"{job.name}/{name}": value for name, value in scores.items()}, now.step)
            if now.step == total:
                break
            started = time.perf_counter()
            batch = job.next_batch(now.step)
            share = rate_share(now.step, config)
            loss, norm = _gradient(compiled, model, batch, config, dtype, work.runtime.micro_batch_tokens)
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


def _gradient(
    compiled: Callable[..., torch.Tensor],
    model: GPT,
    batch: Batch,
    config: Training,
    dtype: torch.dtype,
    micro_batch_tokens: int | None,
) -> tuple[float, float]:
    """Leave the clipped gradient of the batch's mean loss in the parameters; returns that loss and the norm before.

    Micro-batches add up sums over the whole batch's count, so their size changes nothing but rounding.
    """
    device, whole = model.device, batch.weight
    if micro_batch_tokens is None and device.type == "cuda":
        micro_batch_tokens = GPU_MICRO_BATCH_TOKENS
    loss = torch.zeros((), device=device)
    for inputs, targets, weights in batch.split(micro_batch_tokens):
        with autocast(device, dtype):
            if weights is None:
                part = compiled(inputs.to(device), targets.to(device), reduction="sum") / whole
            else:  # fine-tuning counts one token in twenty: the head need not see the others
                places = (targets.flatten() != IGNORED).nonzero()[:, 0]
                losses = compiled(inputs.to(device), targets.to(device), places.to(device), reduction="none")
                part = (losses * weights.flatten()[places].to(device)).sum() / whole
        part.backward()  # type: ignore[no-untyped-call]
        loss += part.detach()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
    return loss.item(), norm.item()


def _check_finite(loss: float, norm: float, step: int, last_good: Path | None) -> None:
    for name, value in (("loss", loss), ("gradient norm", norm)):
        if not math.isfinite(value):
            kept = f"the last good checkpoint is {last_good}" if last_good else "there is no checkpoint yet"
            raise NotFinite(
                f"{name} is {value} at step {step}; the update was not made, {kept}; "
                "try a lower learning_rate or a longer warm-up"
            )


@dataclass
class Saver:
    """When to save, and what to do while the disk is full: train on, try again after 1, 2, 4 … updates."""

    checkpoints: Checkpoints
    work: Work
    owed_since: int | None = field(default=None, init=False)
    """The step whose save failed first."""
    next_try: int = field(default=0, init=False)

    def after_update(self, model: GPT, optimizers: Optimizers, now: Progress, required: bool) -> None:
        """Save when required, when due, or when a failed save is to be tried again."""
        due = required or now.step % self.work.runtime.checkpoint_every == 0
        if not due and (self.owed_since is None or now.step < self.next_try):
            return
        try:
            position = self.work.metrics.position()
            self.checkpoints.save(model, optimizers, replace(now, metrics_position=position))
        except OSError as error:
            if error.errno not in FULL_DISK:
                raise
            if self.owed_since is None:
                self.owed_since = now.step
                kept = self.checkpoints.latest()
                self.work.say(
                    f"no room for the checkpoint of step {now.step} ({error.strerror}); training goes on and tries "
                    f"again; last good one: {kept.name if kept else 'none'}; free space under {self.checkpoints.root}"
                )
            self.next_try = now.step + max(1, now.step - self.owed_since)
        else:
            if self.owed_since is not None:
                self.work.say(f"checkpoint of step {now.step} saved; there is room again")
            self.owed_since = None
