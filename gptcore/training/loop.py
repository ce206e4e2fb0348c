"""The one training loop: pretraining and fine-tuning differ only in their batches and their evaluation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from gptcore.config import Training
from gptcore.model.gpt import GPT, flops_per_token
from gptcore.training.batches import Batch
from gptcore.training.checkpoint import Progress
from gptcore.training.device import peak_flops, torch_dtype
from gptcore.training.guard import Guard
from gptcore.training.memory import Passes
from gptcore.training.optimizer import build_optimizers
from gptcore.training.rollback import go_back
from gptcore.training.saver import Saver
from gptcore.training.schedule import rate_share
from gptcore.training.team import team_of
from gptcore.training.watch import GapLimits, Watch
from gptcore.work import Work

LOG_EVERY = 10
"""Updates between logged training metrics; then too the host looks at what was skipped, so that no other waits."""
SHOW_EVERY_S = 0.1
"""Seconds between two moves of the progress bar."""


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
    gap: GapLimits | None = None
    """How far validation may fall behind training; None where their losses are not alike."""


def train(model: GPT, job: Job, work: Work) -> dict[str, float]:
    """Run the job to its last step, from the newest checkpoint where there is one; returns the final metrics.

    It ends sooner where `Watch` says so, and with `keep_best` the model is then that of the best evaluation.

    The order around an update makes a resume exact: 1. update; 2. log it; 3. save, with the metric log's position;
    4. evaluate. A run resumed from a checkpoint evaluates first, if its step is due, since 4 came after 3.

    A bad update is skipped, and after many the run goes back and passes over the data: gptcore/training/guard.py.
    Raises Diverged, with the weights untouched by the bad updates; TooLarge; Interrupted at a step boundary, after a
    save.
    """
    config, total = job.config, job.config.steps
    dtype = torch_dtype(config.dtype, model.device)
    team = team_of(work)
    peak = (peak_flops(model.device, dtype) or 0.0) * team.size
    optimizers = build_optimizers(model, config)
    forward = team.forward(model)
    compiled: Callable[..., torch.Tensor] = torch.compile(forward) if work.runtime.compile else forward
    guard = Guard(config, model.device)
    passes = Passes(job.name, work.runtime.micro_batch_tokens, work, team)
    saver = Saver(team.checkpoints(work.directory / "checkpoints", job.fingerprint, work.say), work)

    torch.manual_seed(team.seed(config.seed))  # dropout; its state is in the checkpoint
    begin = Progress(step=0, tokens=0, seconds=0.0, metrics_position=0)
    now = saver.checkpoints.restore(model, optimizers, guard) or begin
    passes.begin_with(now.micro_batch_tokens)
    watch = Watch(config, job.gap, work.say, model.device)
    watch.restore(now.watched, now.best)
    work.metrics.rewind(now.metrics_position)
    if now.step:
        work.say(f"resuming at step {now.step} of {total}")
    logged, shown, seen = now, 0.0, {"loss": math.nan, "grad_norm": math.nan}
    model.train()
    with work.deferred_interrupts():
        while True:
            if now.step == total or (now.step and now.step % config.eval_every == 0):
                scores = watch.judge(team.evaluated(job.evaluate), now.step, model)
                work.log({f"{job.name}/{name}": value for name, value in scores.items()}, now.step)
            if watch.stop:
                work.say(f"stopped at step {now.step} of {total}: {watch.stop}")
            if watch.stop or now.step == total:
                break
            started = time.perf_counter()
            batch = job.next_batch(now.step + now.passed_over)
            share = rate_share(now.step, config)
            step = now.step + 1
            loss, norm = passes.gradient(compiled, model, batch, config, dtype, step)
            skip = guard.judge(now.step, loss, norm)
            optimizers.step(share, skip)
            watch.trained(loss, skip)
            looking = step % LOG_EVERY == 0 or step == total
            if looking or saver.will_save(step) or step % config.eval_every == 0 or model.device.type == "cpu":
                seen = {"loss": loss.item(), "grad_norm": norm.item()}  # waits for a GPU, so that its time is counted
            seconds = now.seconds + time.perf_counter() - started
            now = replace(now, step=step, tokens=now.tokens + batch.tokens, seconds=seconds)
            now = replace(now, micro_batch_tokens=passes.found)

            if looking:
                skips = guard.skips(step)
                if len(skips) >= config.most_skips:
                    logged = now = go_back(model, optimizers, guard, saver.checkpoints, now, config, work)
                    watch.restore(now.watched, now.best)
                    continue
                if skips and skips[-1].step > step - LOG_EVERY:
                    work.say(f"{skips[-1]}; {len(skips)} of the last {min(step, guard.size)} updates were skipped")
                speed = (now.tokens - logged.tokens) / (now.seconds - logged.seconds)
                metrics = {name: value for name, value in seen.items() if math.isfinite(value)}
                metrics |= {"learning_rate": config.learning_rate * share}
                metrics |= {"tokens": float(now.tokens), "tokens_per_second": speed}
                if skipped := guard.skipped:
                    metrics["skipped_updates"] = float(skipped)
                if peak:
                    metrics["mfu"] = speed * flops_per_token(model, batch.inputs.shape[1]) / peak
                work.log({f"{job.name}/{name}": value for name, value in metrics.items()}, now.step)
                logged = now
            if time.monotonic() - shown > SHOW_EVERY_S or now.step == total:
                shown = time.monotonic()
                work.progress(now.step, total, "step", loss=seen["loss"], tokens_per_second=now.tokens / now.seconds)
            stopping = work.interrupted  # read once: a signal that comes during the save waits for the next update
            required = stopping or step == total
            if required or saver.will_save(step):
                now = replace(now, watched=watch.state(), best=watch.best_weights)
                saver.after_update(model, optimizers, guard, now, required)
            if stopping:
                work.stop_if_interrupted()
        work.stop_if_interrupted()
    final = watch.final(model, now.step)
    final |= {"tokens": float(now.tokens), "tokens_per_second": now.tokens / now.seconds if now.tokens else 0.0}
    if watch.keep_best and watch.best_step:
        final["best_step"] = float(watch.best_step)
    return {f"{job.name}/{name}": value for name, value in final.items()}
