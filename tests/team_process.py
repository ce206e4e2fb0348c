"""Run by torchrun: many runs of the pretrain stage in one team after the other, since starting a team costs most.

`python tests/team_process.py ROOT CASES`: CASES is JSON, a list of keyword arguments for `run`.
"""

from __future__ import annotations

import json
import math
import resource
import signal
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from tiny_training import MODEL, VOCABULARY, inputs, pretrain_config

from gptcore.config import Runtime
from gptcore.training import loop
from gptcore.training import pretrain as stage
from gptcore.training.batches import Batch, WindowBatches
from gptcore.training.heldout import evaluate_text
from gptcore.training.pretrain import pretrain
from gptcore.training.team import Member
from gptcore.training.teams import team_like
from gptcore.work import Interrupted


@contextmanager
def trouble_with(hurt: Collection[int] = (), told: Sequence[float] = ()) -> Iterator[None]:
    """Inside, these batches are bad, the first of them by nan, and evaluations tell these validation losses.

    In the others only the second half counts, and asks for a token that is never right: of two processes only the last
    one computes a loss.
    """

    class Hurt(WindowBatches):
        def __call__(self, step: int) -> Batch:
            batch = super().__call__(step)
            if step not in hurt:
                return batch
            if step == min(hurt):
                return replace(batch, weights=torch.full(batch.targets.shape, math.nan))
            weights = torch.ones(batch.targets.shape)
            weights[: len(weights) // 2] = 0.0
            return replace(batch, targets=torch.full_like(batch.targets, VOCABULARY - 1), weights=weights)

    losses = iter(told)

    def tell(*args: Any) -> dict[str, float]:
        scores = evaluate_text(*args)
        return {**scores, "val_loss": next(losses)} if told else scores

    with mock.patch.object(stage, "WindowBatches", Hurt), mock.patch.object(stage, "evaluate_text", tell):
        yield


def run(
    root: Path,
    name: str,
    parallel: str,
    model: dict[str, Any],
    config: dict[str, Any],
    stop_at: int | None = None,
    full_disk: tuple[int, int] | None = None,
    micro_batch_tokens: int | None = None,
    trouble: dict[str, Any] | None = None,
) -> None:
    """Pretrain, with `trouble` as `trouble_with` takes it.

    `stop_at` a step the last process receives a signal; from one step to another its disk is full.
    """
    runtime = Runtime(device="cpu", threads=1, checkpoint_every=7, micro_batch_tokens=micro_batch_tokens)
    team = team_like(parallel)
    said: list[str] = []
    work = Member(root / name, inputs(root), runtime, team=team, on_say=said.append)

    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def disturb(done: float, *_: object, **__: object) -> None:
        if team.rank != team.size - 1:
            return
        if done == stop_at:
            work.receive(signal.SIGTERM)
        if full_disk and done in full_disk:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000 if done == full_disk[0] else before[1], before[1]))

    work.on_progress = disturb
    loop.SHOW_EVERY_S = 0.0  # every step
    try:
        with trouble_with(**(trouble or {})):
            pretrain(MODEL.model_copy(update={"dropout": 0.0, **model}), pretrain_config(**config), work)
    except Interrupted as interrupted:
        assert stop_at is not None and interrupted.signum == signal.SIGTERM
    else:
        assert stop_at is None
    work.metrics.close()
    if team.writes:
        with (root / name / "said").open("a") as file:
            file.writelines(f"{line}\n" for line in said)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    for case in json.loads(sys.argv[2]):
        run(Path(sys.argv[1]), **case)
    dist.destroy_process_group()
