"""Our models as Hugging Face directories that `transformers` loads with no code of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, PretrainedConfig, Qwen3Config
from transformers.utils import logging

from gptcore import durable
from gptcore.model.cpu import EPSILON
from gptcore.model.gpt import GPT, GPTConfig
from gptcore.model.modern import ROPE_BASE, hidden_width
from gptcore.model.weights import load_model

TOLERANCE = 1e-4
"""Largest difference of a logit between our model and the one transformers loads."""
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
"""GPT2LMHeadModel keeps these as Conv1D: (in, out), ours as Linear: (out, in)."""
PREFIX = "transformer."
QWEN3 = {
    "tokens": ("model.embed_tokens",),
    "norm": ("model.norm",),
    "unembed": ("lm_head",),
    "norm_1": ("input_layernorm",),
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.q_norm": ("self_attn.q_norm",),
    "attention.k_norm": ("self_attn.k_norm",),
    "attention.out": ("self_attn.o_proj",),
    "norm_2": ("post_attention_layernorm",),
    "mlp.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down": ("mlp.down_proj",),
}
"""What Qwen3ForCausalLM calls the modern family's parts; of one of ours that is several of theirs, top to bottom."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def to_hf(family: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under the names and shapes of the family's class in transformers; a tied head is left out."""
    if family == "gpt2":
        return {PREFIX + name: _turned(name, tensor) for name, tensor in {**state, **_zero_biases(state)}.items()}
    theirs = {}
    for name, tensor in state.items():
        place, part = _place(name, "layers.")
        others = QWEN3[part]
        for other, piece in zip(others, tensor.chunk(len(others)), strict=True):
            theirs[f"{'model.' if place else ''}{place}{other}.weight"] = piece.contiguous()
    return theirs


def from_hf(family: str, state: Mapping[str, Tensor], bias: bool = True) -> dict[str, Tensor]:
    """The inverse of `to_hf`; a tied head and the causal masks that old files carry are left out.

    Without `bias` so are gpt2's biases; ValueError when one of them is not zero.
    """
    if family == "gpt2":
        kept = {n: t for n, t in state.items() if not n.endswith((".attn.bias", ".attn.masked_bias", "lm_head.weight"))}
        back = {name.removeprefix(PREFIX): _turned(name, tensor) for name, tensor in kept.items()}
        biases = {name for name in back if name.endswith(".bias") and not bias}
        if used := sorted(name for name in biases if back[name].any()):
            raise ValueError(f"a gpt2 model without biases cannot hold {', '.join(used[:3])}, which are not zero")
        return {name: tensor for name, tensor in back.items() if name not in biases}
    ours_of = {other: ours for ours, others in QWEN3.items() for other in others}
    ours: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        place, other = _place(name, "model.layers.")
        part = ours_of[other]
        ours.setdefault(f"{place.removeprefix('model.')}{part}.weight", {})[other] = tensor
    order = {other: place for others in QWEN3.values() for place, other in enumerate(others)}
    return {
        name: torch.cat([found[other] for other in sorted(found, key=order.__getitem__)])
        for name, found in ours.items()
    }


def _place(name: str, before: str) -> tuple[str, str]:
    """`layers.3.mlp.down.weight` in `layers.3.` and `mlp.down`; nothing comes before a part outside the layers."""
    part = name.removesuffix(".weight")
    if not name.startswith(before):
        return "", part
    layer, part = part.removeprefix(before).split(".", 1)
    return f"{before}{layer}.", part


def _zero_biases(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those that a state lacks and GPT2LMHeadModel has."""
    weights = {n.removesuffix("weight"): t for n, t in state.items() if not n.startswith(("wte.", "wpe."))}
    return {
        f"{n}bias": torch.zeros(len(t))
        for n, t in weights.items()
        if not n.endswith("bias") and f"{n}bias" not in state
    }


def _turned(name: str, tensor: Tensor) -> Tensor:
    return tensor.t().contiguous() if name.endswith(TRANSPOSED) else tensor


def hf_config(shape: GPTConfig, special: Mapping[str, int]) -> PretrainedConfig:
    """The configuration of the family's class in transformers. special: ids of the special tokens."""
    end = special.get("<|endoftext|>")
    ids = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": special.get("<|padding|>")}
    if shape.family == "modern":
        return Qwen3Config(
            architectures=["Qwen3ForCausalLM"],
            vocab_size=shape.vocab_size,
            hidden_size=shape.n_embd,
            intermediate_size=hidden_width(shape.n_embd),
            num_hidden_layers=shape.n_layer,
            num_attention_heads=shape.n_head,
            num_key_value_heads=shape.n_head,
            head_dim=shape.n_embd // shape.n_head,
            max_position_embeddings=shape.context,
            rms_norm_eps=EPSILON,
            rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE},
            attention_dropout=shape.dropout,
            tie_word_embeddings=False,
            dtype="float32",
            **ids,
        )
    return GPT2Config(
        architectures=["GPT2LMHeadModel"],
        vocab_size=shape.vocab_size,
        n_positions=shape.context,
        n_embd=shape.n_embd,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        activation_function="gelu" if shape.activation == "gelu" else "gelu_new",
        layer_norm_epsilon=1e-5,
        resid_pdrop=shape.dropout,
        embd_pdrop=shape.dropout,
        attn_pdrop=shape.dropout,
        tie_word_embeddings=True,
        dtype="float32",
        **ids,
    )


def export_hf(model_dir: Path, target: Path, card: str) -> None:
    """Write config.json, model.safetensors, the tokenizer's files and README.md, then prove that they work.

    Raises ValueError where transformers' logits differ from ours by more than 1e-4.
    """
    model = load_model(model_dir)
    special = special_tokens(model_dir)
    config = hf_config(model.config, special)
    durable.write_json(target / "config.json", config.to_diff_dict())
    durable.write_bytes(
        target / "model.safetensors", save(to_hf(model.config.family, model.state_dict()), metadata={"format": "pt"})
    )
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
