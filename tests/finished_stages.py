"""Finished stages of a tiny pipeline as a publication finds them; only the tokenizer is really trained."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gptcore.config import Finetune, Pretrain, Tokenizer
from gptcore.durable import place, sha256_json, write_json
from gptcore.model.families import build
from gptcore.model.gpt import GPTConfig
from gptcore.model.weights import save_model
from gptcore.presets import load_skill
from gptcore.store import MANIFEST, FileRecord, Manifest
from gptcore.text.documents import Document, write
from gptcore.text.tokenizer import TextTokenizer, train_tokenizer
from gptcore.work import Work

SOURCES: list[dict[str, Any]] = [
    {"kind": "python_docs", "stdlib": True, "packages": ["numpy", "networkx"]},
    {"kind": "files", "paths": ["/secret/place/poems.txt"], "text_field": "text"},
]
FIELDS = {"context": "axis : int\n    The axis.", "question": "What type is axis?"}
TEXT = "Return the sum of an array. axis : int, the axis along which the sum is taken. " * 20
HELD = {"train": 0, "validation": 0, "test": 12}


def counts(train: int) -> dict[str, dict[str, int]]:
    return {
        "documents": {"train": train, "validation": 2, "test": 0},
        "bytes": {"train": 100 * train, "validation": 200, "test": 0},
    }


def data_card() -> dict[str, Any]:
    """Of SOURCES, networkx held out."""
    packages = {
        "python": {"version": "3.11.7", "licence": "PSF-2.0", "held_out": False, **counts(300)},
        "numpy": {
            "version": importlib.metadata.version("numpy"),
            "licence": "BSD-3-Clause",
            "held_out": False,
            **counts(200),
        },
        "networkx": {"version": "3.6.1", "licence": None, "held_out": True, "documents": HELD, "bytes": HELD},
    }
    return {
        "documents": {"train": 507, "validation": 6, "test": 12},
        "bytes": {"train": 50_700, "validation": 600, "test": 12},
        "dropped": {"duplicates": 5, "too_short": 0},
        "packages": packages,
        "sources": [
            {"kind": "python_docs", "version": {"kind": "python_docs"}, **counts(500)},
            {"kind": "files", "version": {"kind": "files", "files": []}, **counts(7)},
        ],
    }


def write_manifest(
    directory: Path, stage: str, config: dict[str, Any], metrics: dict[str, float], **identity: Any
) -> None:
    """A stage's MANIFEST.json; `identity`: more parts of its key."""
    values = {f"{stage}/{name}": value for name, value in metrics.items()}
    parts = {"stage": stage, "config": config, "inputs": {}, "libraries": {"torch": "2.13.0"}, **identity}
    manifest = Manifest(
        stage=stage,
        key=sha256_json({"key": stage}),
        identity=parts,
        output_digest=sha256_json({"output": stage}),
        files={"config.json": FileRecord(1, "0" * 64, True)},
        metrics=values,
        seconds=12.0,
        attempts=1,
        finished=0.0,
        preset="tiny",
        code_digest="",
        git={"commit": "abcdef0123456789", "dirty": True},
        execution={"resolved_device": "cpu"},
        mlflow_run_id=None,
        mlflow_parent_run_id=None,
    )
    write_json(directory / MANIFEST, asdict(manifest))


def write_manifests(root: Path, skill: str, sources: list[dict[str, Any]] | None = None) -> dict[str, Path]:
    """Those that a card reads; paths by stage, `corpus` with its data card."""
    training = {"dtype": "float32"}
    stages: dict[str, tuple[dict[str, Any], dict[str, float]]] = {
        "corpus": ({"sources": sources or SOURCES}, {}),
        "tokenizer": ({}, {}),
        "tokens": ({}, {"train": 20_000.0, "bytes_per_token": 2.5}),
        "pretrain": (
            {**Pretrain(optimizer="muon").model_dump(mode="json"), **training},
            {"parameters": 30_000.0, "tokens": 60_000.0, "val_loss": 3.2109},
        ),
        f"finetune-{skill}": (
            {**Finetune().model_dump(mode="json"), **training},
            {"items": 40.0, "tokens": 900.0, "best_step": 30.0, "val_loss": 2.0},
        ),
        "benchmark-base": ({}, {}),
        f"benchmark-{skill}": ({}, {}),
    }
    for stage, (config, metrics) in stages.items():
        write_manifest(root / stage, stage, config, metrics)
    write_json(root / "corpus" / "data_card.json", data_card())
    return {stage: root / stage for stage in stages}


def write_scores(directory: Path, skill: str, metrics: dict[str, Any], sample: dict[str, Any]) -> None:
    """A benchmark's results."""
    tasks = {
        skill: {"n": 20, "metrics": metrics},
        "heldout": {"n": 5, "metrics": {"bits_per_byte": 1.5, "bits_per_byte_stderr": 0.02}},
    }
    write_json(directory / "scores.json", {"tasks": tasks})
    (directory / f"samples-{skill}.jsonl").write_text(json.dumps(sample) + "\n")


def train_tiny_tokenizer(root: Path) -> Path:
    """A finished `tokenizer` stage below `root`."""
    (root / "corpus" / "documents").mkdir(parents=True)
    document = Document("a", "files", "a", None, None, TEXT)
    (root / "corpus" / "documents" / "train-00000.jsonl").write_bytes(write(document))
    work = Work(root / "tokenizer", {"corpus": root / "corpus"})
    train_tokenizer(Tokenizer(vocab_size=280), work)
    work.metrics.close()
    return root / "tokenizer"


def write_model(
    directory: Path, tokenizer: Path, skill: str, seed: int = 0, family: str = "gpt2", **shape: Any
) -> None:
    """A finished `finetune-<skill>` stage with weights that give varied answers."""
    vocabulary = TextTokenizer.load(tokenizer).vocab_size
    model = build(GPTConfig(family, 2, 2, 32, 64, vocabulary, **shape)).initialise(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)) * 0.2)
    save_model(model, directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        place(tokenizer / name, directory / name)
    limits = {"max_input_tokens": 48, "max_target_tokens": 8}
    write_json(directory / "skill.json", {**load_skill(skill).model_dump(mode="json"), **limits})
