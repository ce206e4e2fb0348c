"""The pretrain stage: a base model from token shards."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from gptcore import durable
from gptcore.config import Model, Pretrain
from gptcore.model.families import build
from gptcore.model.gpt import GPT, GPTConfig, parameter_count
from gptcore.model.induction import with_induction
from gptcore.model.weights import load_model, save_model
from gptcore.text.token_shards import TokenShards
from gptcore.training.batches import WindowBatches
from gptcore.training.checkpoint import prune
from gptcore.training.device import arithmetic, torch_dtype
from gptcore.training.fitting import sharing
from gptcore.training.heldout import evaluate_text, held_out_windows
from gptcore.training.launch import launch, several
from gptcore.training.loop import Job, train
from gptcore.training.team import team_of
from gptcore.training.watch import GapLimits
from gptcore.work import Outcome, Work

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
START = "start"
"""In `scratch`: the model that `model.init` names, as gptcore/adapters/pretrained.py leaves it."""


def pretrain(model: Model, config: Pretrain, work: Work) -> Outcome:
    """Train a model on the input `tokens`; leaves a model directory with the input `tokenizer`.

    It starts from random weights, or with `model.init` from those that stand in `scratch` under `START`, a model
    directory of ours. ValueError when a split is too small, or the device is not there; see `train` for the rest.
    """
    directory = work.inputs["tokens"]
    index = json.loads((directory / "index.json").read_bytes())
    shape = GPTConfig.of(model, index["vocab_size"])
    if several(config, work):
        return launch("pretrain", {"model": model, "config": config}, config, sharing(config, shape, work), work)
    team = team_of(work)
    shards, validation = TokenShards.open(directory, "train"), TokenShards.open(directory, "validation")
    token_bytes = np.load(directory / "token_bytes.npy", allow_pickle=False).astype(np.int64)
    batches = WindowBatches(shards, model.context, config.batch_tokens, config.seed)
    held_out = held_out_windows(validation, token_bytes, model.context, config.eval_tokens)
    with arithmetic(work.runtime) as device:
        dtype = torch_dtype(config.dtype, device)
        gpt = team.place(_first(model, shape, config, work), device)
        job = Job(
            name="pretrain",
            config=config,
            next_batch=batches,
            evaluate=lambda: evaluate_text(gpt, held_out, token_bytes, dtype),
            fingerprint={"tokens": _fingerprint(directory), **_start_fingerprint(model, work)},
            gap=GapLimits(config.gap_warning, config.gap_stop),
        )
        metrics = train(gpt, job, work)
    metrics["pretrain/parameters"] = float(parameter_count(gpt))
    return finish(gpt, work, work.inputs["tokenizer"], metrics)


def _first(model: Model, shape: GPTConfig, config: Pretrain, work: Work) -> GPT:
    """The network before its first update."""
    if model.init is None:
        drawn = build(shape).initialise(config.seed)
        return with_induction(drawn) if config.start == "induction" else drawn
    gpt = load_model(work.scratch / START)
    if gpt.config != shape:
        raise ValueError(f"the model of {model.init} is {gpt.config}, the preset and its tokens ask for {shape}")
    return gpt


def _start_fingerprint(model: Model, work: Work) -> dict[str, str]:
    if model.init is None:
        return {}
    return {"start": durable.sha256_file(work.scratch / START / "model.safetensors")}


def finish(gpt: GPT, work: Work, tokenizer: Path, metrics: dict[str, float], *results: str) -> Outcome:
    """Leave the model directory: weights, shape, tokenizer; of the checkpoints the last. Collective."""
    team = team_of(work)
    gpt = team.whole(gpt)
    if not team.writes:
        return Outcome(results=(), metrics={})
    found = [name for name in TOKENIZER_FILES if (tokenizer / name).exists()]
    for name in found:
        durable.place(tokenizer / name, work.directory / name)
    save_model(gpt, work.directory)
    prune(work.directory / "checkpoints", 1)
    return Outcome(results=("model.safetensors", "config.json", *found, *results), metrics=metrics)


def _fingerprint(tokens: Path) -> str:
    """A digest of the index and of both ends of every shard: telling other data apart without reading it all."""
    digest = hashlib.sha256((tokens / "index.json").read_bytes())
    for path in sorted(tokens.glob("*.bin")):
        with path.open("rb") as file:
            digest.update(file.read(1 << 16))
            file.seek(max(0, path.stat().st_size - (1 << 16)))
            digest.update(file.read())
    return digest.hexdigest()
