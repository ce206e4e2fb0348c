"""Weak scaling: several processes, each with as many rows as the one they are compared with.

The pretrain stage runs on made-up tokens, in one process and then in several, with a thread each and equal rows a
process; both by turns, so that a slow minute of the machine does not fall on one of them alone. Speed is the median
over the logged intervals after the first two. Efficiency is the speed of all, over the speed of one times their
number: 1 when nothing is lost to the exchange of gradients or to shared memory. One JSON object last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from train import write_tokens  # this folder's train.py

VOCABULARY = 4096
SETTLING = 2
"""Logged intervals in which caches and allocators fill."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=2, help="processes beside one (2)")
    parser.add_argument("--parallel", default="ddp", choices=["ddp", "fsdp"], help="how they share the model (ddp)")
    parser.add_argument("--family", default="modern", choices=["gpt2", "modern"], help="of the model (modern)")
    parser.add_argument("--layers", type=int, default=4, help="blocks (4)")
    parser.add_argument("--width", type=int, default=128, help="of the residual stream (128)")
    parser.add_argument("--context", type=int, default=256, help="tokens a row (256)")
    parser.add_argument("--rows", type=int, default=8, help="rows of a process in every update (8)")
    parser.add_argument("--steps", type=int, default=50, help="updates of a run (50)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind (3)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="gptmill-scaling-") as folder:
        print(json.dumps(measure(options, Path(folder))))
    return 0


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All speeds, and what they say."""
    draw = np.random.default_rng(1)
    ids = {split: draw.integers(0, VOCABULARY, size) for split, size in (("train", 200_000), ("validation", 20_000))}
    write_tokens(folder, ids, np.ones(VOCABULARY))
    speeds: dict[int, list[float]] = {1: [], options.devices: []}
    for turn in range(options.rounds):
        for devices in speeds:
            speed = tokens_per_second(options, devices, folder, f"{devices}-{turn}")
            speeds[devices].append(speed)
            print(f"round {turn + 1}: {devices} process(es), {speed:,.0f} tokens/s", file=sys.stderr)
    one, several = (statistics.median(found) for found in speeds.values())
    by_round = [b / a / options.devices for a, b in zip(*speeds.values(), strict=True)]
    return {
        "efficiency": round(several / one / options.devices, 3),
        "efficiency_by_round": [round(share, 3) for share in by_round],
        "tokens_per_second": {str(devices): [round(speed) for speed in found] for devices, found in speeds.items()},
        "devices": options.devices,
        "parallel": options.parallel,
        "model": {name: getattr(options, name) for name in ("family", "layers", "width", "context")},
        "rows_a_process": options.rows,
        "steps": options.steps,
    }


def tokens_per_second(options: argparse.Namespace, devices: int, folder: Path, name: str) -> float:
    """The speed of one run of the stage."""
    from gptcore.config import Model, Pretrain, Runtime
    from gptcore.training.pretrain import pretrain
    from gptcore.work import Work, read_metrics

    shape = {"n_layer": options.layers, "n_head": max(1, options.width // 64), "n_embd": options.width}
    config = Pretrain(
        steps=options.steps,
        batch_tokens=devices * options.rows * options.context,
        warmup_steps=1,
        eval_every=options.steps,
        eval_tokens=options.context,
        devices=devices,
        parallel=options.parallel,
    )
    runtime = Runtime(threads=1, checkpoint_every=options.steps)
    work = Work(folder / name, {"tokens": folder / "tokens", "tokenizer": folder / "tokenizer"}, runtime)
    pretrain(Model(family=options.family, context=options.context, **shape), config, work)
    work.metrics.close()
    logged = [line["m"] for line in read_metrics(folder / name / "metrics.jsonl")]
    speeds = [found["pretrain/tokens_per_second"] for found in logged if "pretrain/tokens_per_second" in found]
    return statistics.median(speeds[SETTLING:])


if __name__ == "__main__":
    sys.exit(main())
