"""The small real things that training tests run on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from gptcore.config import Model, Pretrain, Runtime
from gptcore.work import Work, read_metrics

VOCABULARY = 300
MODEL = Model(n_layer=2, n_head=2, n_embd=32, context=32, dropout=0.1)


def pretrain_config(**changes: Any) -> Pretrain:
    """Sixty updates of four windows."""
    defaults = {"steps": 60, "batch_tokens": 128, "learning_rate": 3e-3, "warmup_steps": 5, "eval_every": 20}
    return Pretrain(**{**defaults, "eval_tokens": 512, **changes})


def write_tokens(directory: Path, train: np.ndarray, validation: np.ndarray) -> Path:
    """A finished `tokens` stage: ids below 256 stand for a byte each, the others for none."""
    directory.mkdir(parents=True)
    splits = {}
    for name, ids in (("train", train), ("validation", validation)):
        ids.astype("<u2").tofile(directory / f"{name}-00000.bin")
        size = int((ids < 256).sum())
        shard = {"file": f"{name}-00000.bin", "tokens": len(ids), "bytes": size, "documents": 1}
        splits[name] = {"shards": [shard], "tokens": len(ids), "bytes": size, "documents": 1}
    np.save(directory / "token_bytes.npy", (np.arange(VOCABULARY) < 256).astype(np.int32))
    index = {"dtype": "uint16", "vocab_size": VOCABULARY, "splits": splits}
    (directory / "index.json").write_text(json.dumps(index))
    return directory


def learnable(length: int, seed: int) -> np.ndarray:
    """Ids that follow each other by rule nine times out of ten: a model can do better than chance."""
    random = np.random.default_rng(seed)
    ids = np.zeros(length, dtype=np.int64)
    for place in range(1, length):
        follows = random.random() < 0.9
        ids[place] = (ids[place - 1] * 7 + 3) % 61 if follows else random.integers(0, 64)
    return ids


def inputs(root: Path) -> dict[str, Path]:
    """Finished `tokens` and `tokenizer` stages under `root`; made once."""
    if not (root / "tokens").exists():
        write_tokens(root / "tokens", learnable(3000, 1), learnable(700, 2))
        (root / "tokenizer").mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (root / "tokenizer" / name).write_text("{}\n")
    return {"tokens": root / "tokens", "tokenizer": root / "tokenizer"}


class Heard(Work):
    """A workspace that keeps what the stage says."""

    said: list[str]


def workspace(root: Path, name: str = "run", **runtime: Any) -> Heard:
    """A stage's workspace; what it says is kept in `.said`."""
    said: list[str] = []
    settings = {"device": "cpu", "threads": 1, "checkpoint_every": 7, **runtime}
    work = Heard(root / name, inputs(root), Runtime(**settings), on_say=said.append)
    work.said = said
    _open.append(work)
    return work


_open: list[Work] = []


def close_workspaces() -> None:
    """At the end of a test, its metric logs are closed."""
    while _open:
        _open.pop().metrics.close()


def history(directory: Path) -> list[tuple[int, str, float]]:
    """(step, key, value) of everything logged, in order, without timings."""
    lines = read_metrics(directory / "metrics.jsonl")
    return [(line["step"], k, v) for line in lines for k, v in line["m"].items() if "per_second" not in k]
