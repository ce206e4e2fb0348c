"""Our models as Hugging Face directories that `transformers` loads with no code of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config
from transformers.utils import logging

from gptcore import durable
from gptcore.model.gpt import GPT, GPTConfig
from gptcore.model.weights import load_model

TOLERANCE = 1e-4
"""Largest difference of a logit between our model and the one transformers loads."""
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
"""GPT2LMHeadModel keeps these as Conv1D: (in, out), ours as Linear: (out, in)."""
PREFIX = "transformer."
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def to_hf(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under GPT2LMHeadModel's names and shapes; the tied head is left out."""
    return {PREFIX + name: _turned(name, tensor) for name, tensor in state.items()}


def from_hf(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_hf`; a tied head and the causal masks that old files carry are left out."""
    ours = {}
    for full, tensor in state.items():
        name = full.removeprefix(PREFIX)
        if name == "lm_head.weight" or name.endswith((".attn.bias", ".attn.masked_bias")):
            continue
        ours[name] = _turned(name, tensor)
    return ours


def _turned(name: str, tensor: Tensor) -> Tensor:
    return tensor.t().contiguous() if name.endswith(TRANSPOSED) else tensor


def hf_config(shape: GPTConfig, special: Mapping[str, int]) -> GPT2Config:
    """The configuration of GPT2LMHeadModel. special: ids of the special tokens."""
    end = special.get("<|endoftext|>")
    return GPT2Config(
        architectures=["GPT2LMHeadModel"],
        vocab_size=shape.vocab_size,
        n_positions=shape.context,
        n_embd=shape.n_embd,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        activation_function="gelu_new",
        layer_norm_epsilon=1e-5,
        resid_pdrop=shape.dropout,
        embd_pdrop=shape.dropout,
        attn_pdrop=shape.dropout,
        tie_word_embeddings=True,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=special.get("<|padding|>"),
        dtype="float32",
    )


def export_hf(model_dir: Path, target: Path, card: str) -> None:
    """Write config.json, model.safetensors, the tokenizer's files and README.md, then prove that they work.

    Raises ValueError where transformers' logits differ from ours by more than 1e-4.
    """
    model = load_model(model_dir)
    special = special_tokens(model_dir)
    config = hf_config(model.config, special)
    durable.write_json(target / "config.json", config.to_diff_dict())
    durable.write_bytes(target / "model.safetensors", save(to_hf(model.state_dict()), metadata={"format": "pt"}))
    generation = {"eos_token_id": config.eos_token_id, "pad_token_id": config.pad_token_id, "do_sample": False}
    durable.write_json(target / "generation_config.json", generation)
    for name in TOKENIZER_FILES:
        if (model_dir / name).exists():
            durable.place(model_dir / name, target / name)
    durable.write_bytes(target / "README.md", card.encode())
    difference = largest_difference(model, target)
    if not difference <= TOLERANCE:
        raise ValueError(
            f"{target}: logits of transformers differ from ours by {difference:.2e}, more than {TOLERANCE:.0e}; "
            "the export is wrong and is not published"
        )


def largest_difference(model: GPT, hf_dir: Path) -> float:
    """Largest absolute difference of a logit, on two rows of random tokens of full context length."""
    logging.disable_progress_bar()
    other = AutoModelForCausalLM.from_pretrained(hf_dir).eval()
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (2, model.config.context), generator=draw)
    with torch.no_grad():
        return float((model.eval()(ids) - other(ids).logits).abs().max())


def special_tokens(model_dir: Path) -> dict[str, int]:
    """Ids of the special tokens in a directory's tokenizer.json."""
    added = json.loads((model_dir / "tokenizer.json").read_bytes())["added_tokens"]
    return {token["content"]: token["id"] for token in added}
