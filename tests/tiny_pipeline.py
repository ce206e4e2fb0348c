"""A whole pipeline small enough for tests: real docstrings, a one-layer model, every stage, in a real subprocess."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PRESET = """\
name: tiny
corpus:
  sources: [{kind: python_docs, stdlib: false, packages: [numpy, networkx]}]
  held_out: [networkx]
  shard_bytes: 400_000
tokenizer: {vocab_size: 512, train_bytes: 300_000}
tokens: {shard_bytes: 600_000}
model: {family: modern, n_layer: 1, n_head: 2, n_embd: 32, context: 128}
pretrain: {optimizer: muon, steps: 60, batch_tokens: 1024, warmup_steps: 5, eval_every: 30, eval_tokens: 5_000}
finetune:
  summarization: {steps: 30, batch_tokens: 1024, warmup_steps: 2, max_input_tokens: 90, max_target_tokens: 30}
  qa: {optimizer: muon, steps: 30, batch_tokens: 1024, warmup_steps: 2, max_input_tokens: 110, max_target_tokens: 16}
benchmark: {items: 20, heldout_documents: 5}
runtime: {checkpoint_every: 10, threads: 1}
"""


def write_preset(folder: Path, text: str = PRESET) -> Path:
    """The tiny preset as a file."""
    path = folder / "tiny.yaml"
    path.write_text(text)
    return path


def environment(home: Path, **more: str) -> dict[str, str]:
    """A subprocess's surroundings: its own home, one thread, no server of the caller's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "GPTMILL_"))}
    return {**kept, "GPTMILL_HOME": str(home), "OMP_NUM_THREADS": "1", **more}


def gptmill(home: Path, *arguments: str | Path, timeout: float = 280, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    return subprocess.run(
        [sys.executable, "-m", "flows", *map(str, arguments)],
        env=environment(home, **more),
        cwd=home.parent,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON object on the last line of stdout of a command that ended well."""
    assert done.returncode == 0, done.stderr[-3000:]
    values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return values
