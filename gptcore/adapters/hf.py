"""Our models as Hugging Face directories that `transformers` loads with no code of ours."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from gptcore import durable
from gptcore.adapters.hf_config import hf_config
from gptcore.adapters.hf_weights import to_hf
from gptcore.model.gpt import GPT
from gptcore.model.weights import load_model

TOLERANCE = 1e-4
"""Largest difference of a logit between our model and the one transformers loads."""
ORDINARY = 50.0
"""Where a position's largest logit is beyond this, the tolerance grows with it: at 100, as GPT-2's are, float32's own
rounding comes to 1e-4."""
POSITIONS, AT_ONCE = 1024, 128
"""Compared in each of two rows, and in one step: all logits of a long context would take gigabytes."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def export_hf(model_dir: Path, target: Path) -> None:
    """Write config.json, model.safetensors and the tokenizer's files, then prove that they work.

    Raises ValueError where transformers' logits differ from ours by more than 1e-4, as `largest_difference` counts.
    """
    model = load_model(model_dir)
    special = special_tokens(model_dir)
    config = hf_config(model.config, special)
    durable.write_json(target / "config.json", config.to_diff_dict())
    durable.write_bytes(
        target / "model.safetensors", save(to_hf(model.config, model.state_dict()), metadata={"format": "pt"})
    )
    ids = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    generation = {**ids, "do_sample": False}
    durable.write_json(target / "generation_config.json", generation)
    for name in TOKENIZER_FILES:
        if (model_dir / name).exists():
            durable.place(model_dir / name, target / name)
    difference = largest_difference(model, target)
    if not difference <= TOLERANCE:
        raise ValueError(
            f"{target}: logits of transformers differ from ours by {difference:.2e} (beyond {ORDINARY:g} in proportion "
            f"to them), more than {TOLERANCE:.0e}; the export is wrong and is not published"
        )


def largest_difference(model: GPT, hf_dir: Path) -> float:
    """Largest absolute difference of a logit, on two rows of random tokens of full context length.

    Where a position's largest logit is beyond ORDINARY, in proportion to it.
    """
    logging.disable_progress_bar()
    other = AutoModelForCausalLM.from_pretrained(hf_dir).eval()
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (2, model.config.context), generator=draw)
    places, found = compared(model.config.context), []
    with torch.no_grad():
        for row in ids:
            hidden = model.eval().hidden(row[None])[0, places]
            theirs = other(row[None], logits_to_keep=places, use_cache=False).logits[0]
            for start in range(0, len(places), AT_ONCE):
                some = slice(start, start + AT_ONCE)
                ours = model.logits(hidden[some])  # (AT_ONCE, V)
                beyond = (ours.abs().amax(-1) / ORDINARY).clamp(min=1)
                found.append(((ours - theirs[some]).abs().amax(-1) / beyond).max())
    return float(torch.stack(found).max())


def compared(context: int) -> torch.Tensor:
    """Positions, evenly spread from the first to the last."""
    return torch.linspace(0, context - 1, min(context, POSITIONS), dtype=torch.double).round().long()


def special_tokens(model_dir: Path) -> dict[str, int]:
    """Ids of the special tokens in a directory's tokenizer.json."""
    added = json.loads((model_dir / "tokenizer.json").read_bytes())["added_tokens"]
    return {token["content"]: token["id"] for token in added}
