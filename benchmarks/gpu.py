"""GPT-2 124M on one GPU beside nanoGPT: model-FLOPs utilisation and tokens a second; one JSON object last.

Context 1,024, bfloat16, compiled, the same micro-batch for both, random tokens. Ours is the pretrain stage; the peer's
own train.py runs unchanged, from its checkout. Each is a process of its own, in turns. Utilisation counts
6 N + 12 L C T FLOP a token (Chowdhery et al. 2022, appendix B) against the device's dense bfloat16 peak. Refuses to run
without a GPU.
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

from train import Bench, Scale, rounded, say, write_tokens  # this folder's train.py

VOCABULARY = 50_304
"""nanoGPT pads GPT-2's 50,257 to a multiple of 64."""
ROWS = 32
"""Sequences of a pass."""
PASSES = 4
"""In an update."""
SETTLED = 20
"""Updates that are not timed: compilation, and a GPU that warms up."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, metavar="DIR", help="a checkout of nanoGPT; without it ours alone")
    parser.add_argument("--turns", type=int, default=3, help="times that each side is measured (%(default)s)")
    parser.add_argument("--updates", type=int, default=60, help="of a turn (%(default)s)")
    options = parser.parse_args(arguments)
    if options.updates <= SETTLED:
        parser.error(f"--updates {options.updates}: the first {SETTLED} are not timed")
    import torch

    from gptcore.sizes import Shape, flops_per_token
    from gptcore.speed import peak_bfloat16

    if not torch.cuda.is_available():
        parser.error("torch can use no GPU here, and this measures one")
    name = torch.cuda.get_device_name()
    peak = peak_bfloat16(name)
    scale = Scale(
        n_layer=12, n_head=12, n_embd=768, context=1024, batch=ROWS, iterations=options.updates, rates=(6e-4,), seeds=1,
        timed=options.updates, ours={},
    )  # fmt: skip
    shape = Shape("gpt2", scale.n_layer, scale.n_head, scale.n_embd, scale.context, VOCABULARY, bias=False)
    token = flops_per_token(shape, scale.context)
    with tempfile.TemporaryDirectory(prefix="gptmill-gpu-") as folder:
        root = Path(folder)
        bench = Bench("gpu", scale, prepare(root / "data"), options.peer and options.peer.absolute(), root, idle=0.0)
        rates: dict[str, list[float]] = {"ours": [], "peer": []}
        for turn in range(options.turns):
            rates["ours"].append(ours(bench))
            if options.peer:
                rates["peer"].append(peers(bench))
            say(
                f"turn {turn + 1} of {options.turns}: "
                + ", ".join(f"{k} {v[-1]:,.0f}/s" for k, v in rates.items() if v)
            )
    found: dict[str, Any] = {"device": name, "tokens_per_second": {k: rounded(v, 0) for k, v in rates.items()}}
    speed = statistics.median(rates["ours"])
    found["mfu"] = round(speed * token / peak, 4) if peak else None
    ratios = [a / b for a, b in zip(rates["ours"], rates["peer"], strict=False)]
    found["throughput_ratio"] = round(statistics.median(ratios), 3) if ratios else None
    print(json.dumps(found))
    return 0


def prepare(folder: Path) -> Path:
    """Random tokens, for both sides."""
    import numpy as np

    draw = np.random.default_rng(1)
    ids = {
        split: draw.integers(0, VOCABULARY, size) for split, size in (("train", 20_000_000), ("validation", 200_000))
    }
    return write_tokens(folder, ids, np.ones(VOCABULARY))


def ours(bench: Bench) -> float:
    """Tokens a second of the pretrain stage."""
    scale, tokens = bench.scale, PASSES * ROWS * bench.scale.context
    model = {"family": "gpt2", "bias": False, "activation": "gelu"}
    model |= {name: getattr(scale, name) for name in ("n_layer", "n_head", "n_embd", "context")}
    pretrain = {"steps": scale.timed, "batch_tokens": tokens, "warmup_steps": 5, "learning_rate": 6e-4}
    runtime = {"device": "cuda", "compile": True, "micro_batch_tokens": ROWS * scale.context}
    done = bench.run_ours(
        {"model": model, "pretrain": pretrain, "eval_every": 10**6, "eval_tokens": 65_536, "runtime": runtime}
    )
    return tokens / statistics.median(done["seconds"][SETTLED:])


def peers(bench: Bench) -> float:
    """Tokens a second of nanoGPT."""
    options = {
        "device": "cuda", "compile": True, "dtype": "bfloat16", "gradient_accumulation_steps": PASSES, "bias": False,
    }  # fmt: skip
    updates = bench.scale.timed
    seconds, _ = bench.run_peer(6e-4, updates, updates, options)
    return PASSES * ROWS * bench.scale.context / statistics.median(seconds[SETTLED:])


if __name__ == "__main__":
    sys.exit(main())
