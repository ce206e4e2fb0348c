"""Generation beside transformers: tokens a second on two cores, the same greedy tokens from the same weights.

A network of 30 M parameters with made-up weights is exported, and transformers reads the directory. Both continue the
same prompts by turns, so that a slow minute of the machine does not fall on one of them alone:

1. batch1: one prompt of 128 tokens and 128 new ones. 2. batch16: prompts of 16 to 256 tokens, 128 new ones each.
3. shared_prompt: eight samples of one prompt of 512 tokens, 128 new ones each. 4. bandwidth_share: the bytes of weights
that a new token needs, over those that the machine reads from memory in the same time; measured on batch1 without its
prompt. stolen_share is the part of the processors' time that other machines on the same hardware took.

A ratio is transformers' median time over ours, over the rounds. The greedy tokens of 1 and 2 are compared
(greedy_equal); transformers pads prompts of unequal length on the left, as it must. One JSON object last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

NEW_TOKENS = 128
SHAPES = {
    "gpt2": {"n_head": 8, "n_embd": 512, "vocab_size": 8192},
    "modern": {"n_head": 8, "n_embd": 512, "vocab_size": 4096},
}
"""Of 30 M parameters in eight layers."""
CONTEXT = 1024
Tokens = list[list[int]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="gpt2", choices=sorted(SHAPES), help="of the network (gpt2)")
    parser.add_argument("--layers", type=int, default=8, help="of the network (8)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (5)")
    parser.add_argument("--threads", type=int, default=2, help="of both (2)")
    parser.add_argument("--new-tokens", type=int, default=NEW_TOKENS, help="to every prompt (128)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(json.dumps(measure(options)))
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All cases, one after the other."""
    from gptcore.model.generate import generate
    from gptcore.model.gpt import parameter_count
    from gptcore.model.sampling import Sampling

    ours = network(options.family, options.layers)
    theirs = exported(ours)
    draw, new = np.random.default_rng(1), options.new_tokens
    before = processor_ticks()

    def prompts(*lengths: int) -> Tokens:
        return [draw.integers(0, ours.config.vocab_size, length).tolist() for length in lengths]

    def greedy(given: Tokens) -> Tokens:
        return [answer.tokens for (answer,) in generate(ours, given, new)]

    def sampled(given: Tokens) -> Tokens:
        return [answer.tokens for answer in generate(ours, given, new, (), Sampling(1.0), samples=8)[0]]

    def transformers(given: Tokens, **more: Any) -> Tokens:
        width = max(map(len, given))
        ids = torch.tensor([[0] * (width - len(p)) + p for p in given])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in given])
        made = theirs.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=new,
            pad_token_id=0,
            eos_token_id=None,
            **{"do_sample": False, **more},
        )
        return [row[width:].tolist() for row in made]

    eight = {"do_sample": True, "temperature": 1.0, "top_k": 0, "num_return_sequences": 8}
    cases: dict[str, tuple[Tokens, Callable[[Tokens], Tokens], Callable[[Tokens], Tokens]]] = {
        "batch1": (prompts(128), greedy, transformers),
        "batch16": (prompts(*np.linspace(16, 256, 16).astype(int).tolist()), greedy, transformers),
        "shared_prompt": (prompts(512), sampled, lambda given: transformers(given, **eight)),
    }
    found: dict[str, Any] = {"family": options.family, "parameters": parameter_count(ours), "threads": options.threads}
    equal = True
    for name, (given, we, they) in cases.items():
        if (made := we(given)) and name != "shared_prompt":
            equal &= made == they(given)
        else:
            they(given)
        times = in_turns(partial(we, given), partial(they, given), options.rounds)
        ratios = [b / a for a, b in zip(*times, strict=True)]
        rows = 8 if name == "shared_prompt" else len(given)
        found |= {
            f"{name}_ratio": round(statistics.median(times[1]) / statistics.median(times[0]), 3),
            f"{name}_ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
            f"{name}_s": {"ours": rounded(times[0]), "transformers": rounded(times[1])},
            f"{name}_tokens_per_s": round(rows * new / statistics.median(times[0]), 1),
        }
        print(f"{name}: {found[f'{name}_ratio']} x transformers", file=sys.stderr)
    found |= bandwidth(ours, cases["batch1"][0], new, options.rounds)
    stolen, ticks = processor_ticks() - before
    return {**found, "stolen_share": round(stolen / ticks, 3) if ticks else None, "greedy_equal": equal}


def network(family: str, layers: int = 8) -> Any:
    """Made-up weights, large enough that the likeliest token is no near tie."""
    from gptcore.model.families import build
    from gptcore.model.gpt import GPTConfig

    model = build(GPTConfig(family, layers, context=CONTEXT, **SHAPES[family])).initialise(0)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.add_(torch.randn(parameter.shape, generator=draw) * parameter.shape[-1] ** -0.5)
    return model.eval()


def exported(model: Any) -> Any:
    """What transformers reads from the exported directory."""
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from gptcore.adapters.hf_config import hf_config
    from gptcore.adapters.hf_weights import to_hf

    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="gptmill-generate-") as folder:
        hf_config(model.config, {}).save_pretrained(folder)
        save_file(
            to_hf(model.config, model.state_dict()), Path(folder) / "model.safetensors", metadata={"format": "pt"}
        )
        return AutoModelForCausalLM.from_pretrained(folder).eval()


def in_turns(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each round."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for side, work in zip(times, (ours, theirs), strict=True):
            began = time.perf_counter()
            work()
            side.append(time.perf_counter() - began)
    return times


def bandwidth(model: Any, prompt: Tokens, new: int, rounds: int) -> dict[str, Any]:
    """Of weights a token, by turns with reading as many bytes and nothing else."""
    from gptcore.model.generate import generate

    needed = 4 * model.multiplied
    block = torch.ones(needed // 4)

    def write() -> None:
        generate(model, prompt, new)

    def read_prompt() -> None:
        generate(model, prompt, 1)

    def read_memory() -> None:
        for _ in range(new):
            block.sum()

    writing, reading = in_turns(write, read_memory, rounds)
    starting, _ = in_turns(read_prompt, read_memory, rounds)
    token_s = (statistics.median(writing) - statistics.median(starting)) / (new - 1)
    memory = needed * new / statistics.median(reading)
    return {
        "bandwidth_share": round(needed / token_s / memory, 6),
        "weight_bytes_per_token": needed,
        "token_ms": round(1000 * token_s, 3),
        "first_token_ms": round(1000 * statistics.median(starting), 3),
        "memory_gb_per_s": round(memory / 1e9, 2),
    }


def processor_ticks() -> Any:
    """Of all processors since they started: those that another machine on the same hardware took, and all; Linux."""
    try:
        numbers = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]  # proc(5): user to steal
    except OSError:
        return np.zeros(2, int)
    ticks = np.array(numbers, int)
    return np.array([ticks[-1], ticks.sum()])


def rounded(times: Sequence[float]) -> list[float]:
    """Seconds, to the millisecond."""
    return [round(t, 3) for t in times]


if __name__ == "__main__":
    sys.exit(main())
