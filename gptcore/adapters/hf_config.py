"""The configuration of a shape's counterpart in transformers, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import GPT2Config, GPTNeoConfig, NanoChatConfig, OpenAIGPTConfig, PretrainedConfig, Qwen3Config

from gptcore.config import BAND, activation_of, counterpart
from gptcore.model.cpu import EPSILON
from gptcore.model.gpt import GPTConfig
from gptcore.model.modern import hidden_width
from gptcore.model.positions import ROPE_BASE

GELU = {"gelu_tanh": "gelu_new", "gelu": "gelu"}
"""Ours in GPT-2's and GPT-Neo's words."""
LAYER_NORM_EPSILON = 1e-5
"""torch's own."""
ROPE = {"rope_type": "default", "rope_theta": ROPE_BASE}


def hf_config(shape: GPTConfig, special: Mapping[str, int]) -> PretrainedConfig:
    """The counterpart's configuration. special: ids of the special tokens. ValueError for a shape without one."""
    name = counterpart(shape)
    if name is None:
        raise ValueError(f"no class of transformers computes what {shape} does")
    end = special.get("<|endoftext|>")
    common = {
        "architectures": [name],
        "vocab_size": shape.vocab_size,
        "dtype": "float32",
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": special.get("<|padding|>"),
    }
    match shape.family:
        case "gpt1":
            return OpenAIGPTConfig(afn="gelu", **_gpt(shape), **common)
        case "gpt2":
            return GPT2Config(activation_function=GELU[activation_of(shape)], **_gpt(shape), **common)
        case "gpt3":
            return GPTNeoConfig(**_neo(shape), **common)
    return (Qwen3Config if name == "Qwen3ForCausalLM" else NanoChatConfig)(**_modern(shape), **common)


def _gpt(shape: GPTConfig) -> dict[str, Any]:
    return {
        "n_positions": shape.context,
        "n_embd": shape.n_embd,
        "n_layer": shape.n_layer,
        "n_head": shape.n_head,
        "layer_norm_epsilon": LAYER_NORM_EPSILON,
        "resid_pdrop": shape.dropout,
        "embd_pdrop": shape.dropout,
        "attn_pdrop": shape.dropout,
        "tie_word_embeddings": True,
    }


def _neo(shape: GPTConfig) -> dict[str, Any]:
    pairs, single = divmod(shape.n_layer, 2)
    return {
        "attention_types": [[["global", "local"], pairs]] * bool(pairs) + [[["global"], 1]] * single,
        "window_size": shape.window or BAND,
        "activation_function": GELU[activation_of(shape)],
        "max_position_embeddings": shape.context,
        "hidden_size": shape.n_embd,
        "num_layers": shape.n_layer,
        "num_heads": shape.n_head,
        "layer_norm_epsilon": LAYER_NORM_EPSILON,
        "resid_dropout": shape.dropout,
        "embed_dropout": shape.dropout,
        "attention_dropout": shape.dropout,
        "tie_word_embeddings": True,
    }


def _modern(shape: GPTConfig) -> dict[str, Any]:
    swiglu = activation_of(shape) == "swiglu"
    own = {"head_dim": shape.n_embd // shape.n_head} if swiglu else {"final_logit_softcapping": None}
    return {
        "hidden_size": shape.n_embd,
        "intermediate_size": hidden_width(shape.n_embd) if swiglu else 4 * shape.n_embd,
        "num_hidden_layers": shape.n_layer,
        "num_attention_heads": shape.n_head,
        "num_key_value_heads": shape.n_kv_head or shape.n_head,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": EPSILON,
        "rope_parameters": dict(ROPE),
        "attention_dropout": shape.dropout,
        "tie_word_embeddings": False,
        **own,
    }


def shape_of(config: Mapping[str, Any]) -> GPTConfig:
    """The shape that a config.json of transformers describes.

    ValueError for a model type that is no counterpart, and for a setting that no shape of ours has, named.
    """
    kind = config.get("model_type")
    if kind not in READERS:
        raise ValueError(f"model_type {kind!r} is not one of {sorted(READERS)}, the kinds that can be taken over")
    full = CLASSES[kind](**{k: v for k, v in config.items() if k != "model_type"})
    shape, expected = READERS[kind](full)
    for name, value in expected.items():
        if (found := getattr(full, name)) != value:
            raise ValueError(f"{kind} with {name} {found!r} cannot be taken over; only with {value!r}")
    return shape


CLASSES = {
    "openai-gpt": OpenAIGPTConfig,
    "gpt2": GPT2Config,
    "gpt_neo": GPTNeoConfig,
    "qwen3": Qwen3Config,
    "nanochat": NanoChatConfig,
}

Read = tuple[GPTConfig, dict[str, Any]]
"""A shape, and what must hold besides."""


def _read_gpt(c: Any) -> Read:
    family = "gpt1" if c.model_type == "openai-gpt" else "gpt2"
    shape = GPTConfig(family, c.n_layer, c.n_head, c.n_embd, c.n_positions, c.vocab_size, dropout=c.resid_pdrop)
    expected: dict[str, Any] = {"layer_norm_epsilon": LAYER_NORM_EPSILON, "tie_word_embeddings": True}
    if family == "gpt1":
        return shape, {**expected, "afn": "gelu"}
    shape = GPTConfig(**{**vars(shape), "activation": _gelu(c)})
    if c.n_inner is not None:
        expected["n_inner"] = 4 * shape.n_embd
    return shape, {**expected, "scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True}


def _gelu(c: Any) -> str | None:
    """Ours; None for the family's own, and whatever `expected` will not find equal."""
    ours = {"gelu_new": None, "gelu": "gelu", "gelu_pytorch_tanh": None}
    if c.activation_function not in ours:
        raise ValueError(f"activation_function {c.activation_function!r} is not one of {sorted(ours)}")
    return ours[c.activation_function]


def _read_neo(c: Any) -> Read:
    shape = GPTConfig(
        "gpt3",
        n_layer=c.num_layers,
        n_head=c.num_heads,
        n_embd=c.hidden_size,
        context=c.max_position_embeddings,
        vocab_size=c.vocab_size,
        dropout=float(c.resid_dropout),
        activation=_gelu(c),
        window=None if c.window_size == BAND else c.window_size,
    )
    layers = [("global", "local")[layer % 2] for layer in range(shape.n_layer)]
    expected: dict[str, Any] = {
        "attention_layers": layers,
        "layer_norm_epsilon": LAYER_NORM_EPSILON,
        "tie_word_embeddings": True,
    }
    if c.intermediate_size is not None:
        expected["intermediate_size"] = 4 * shape.n_embd
    return shape, expected


def _read_modern(c: Any) -> Read:
    qwen = c.model_type == "qwen3"
    shape = GPTConfig(
        "modern",
        n_layer=c.num_hidden_layers,
        n_head=c.num_attention_heads,
        n_embd=c.hidden_size,
        context=c.max_position_embeddings,
        vocab_size=c.vocab_size,
        dropout=float(c.attention_dropout),
        activation=None if qwen else "relu_squared",
        n_kv_head=None if c.num_key_value_heads in (None, c.num_attention_heads) else c.num_key_value_heads,
    )
    keys = ("intermediate_size", "rms_norm_eps", "tie_word_embeddings", "rope_parameters")
    expected = {name: value for name, value in _modern(shape).items() if name in keys}
    expected |= {"hidden_act": "silu" if qwen else "relu2", "attention_bias": False}
    if hasattr(c, "head_dim"):
        expected["head_dim"] = shape.n_embd // shape.n_head
    if qwen:
        expected["layer_types"] = ["full_attention"] * shape.n_layer
    else:
        expected["final_logit_softcapping"] = None
    return shape, expected


READERS = {
    "openai-gpt": _read_gpt,
    "gpt2": _read_gpt,
    "gpt_neo": _read_neo,
    "qwen3": _read_modern,
    "nanochat": _read_modern,
}
