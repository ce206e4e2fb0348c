"""The configuration of a shape's counterpart in transformers, and back."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import shorten
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import GPT2Config, GPTNeoConfig, NanoChatConfig, OpenAIGPTConfig, PretrainedConfig, Qwen3Config

from gptcore.config import BAND, activation_of, counterpart
from gptcore.model.cpu import EPSILON
from gptcore.model.gpt import GPTConfig
from gptcore.model.modern import hidden_width
from gptcore.model.positions import ROPE_BASE
from gptcore.pretrained import shape_fields

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

    ValueError for a model type that is no counterpart, for a value that makes no sense, and for a setting that no shape
    of ours has, named.
    """
    fields = shape_fields(config)
    kind = config["model_type"]
    try:
        full = CLASSES[kind](**{k: v for k, v in config.items() if k != "model_type"})
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = shorten(f"{type(error).__name__}: {error}", 240)
        raise ValueError(f"transformers cannot read it ({reason}); mend it, or download it again") from error
    shape = GPTConfig(**fields, dropout=getattr(full, DROPOUT[kind]))
    for name, value in _expected(full, shape).items():
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

DROPOUT = {
    "openai-gpt": "resid_pdrop",
    "gpt2": "resid_pdrop",
    "gpt_neo": "resid_dropout",
    "qwen3": "attention_dropout",
    "nanochat": "attention_dropout",
}


def _expected(c: Any, shape: GPTConfig) -> dict[str, Any]:
    """What must hold of a configuration besides its shape, for ours to compute the same."""
    match c.model_type:
        case "openai-gpt":
            return {"layer_norm_epsilon": LAYER_NORM_EPSILON, "tie_word_embeddings": True, "afn": "gelu"}
        case "gpt2":
            return {
                "layer_norm_epsilon": LAYER_NORM_EPSILON,
                "tie_word_embeddings": True,
                "scale_attn_by_inverse_layer_idx": False,
                "scale_attn_weights": True,
                **({} if c.n_inner is None else {"n_inner": 4 * shape.n_embd}),
            }
        case "gpt_neo":
            return {
                "attention_layers": [("global", "local")[layer % 2] for layer in range(shape.n_layer)],
                "layer_norm_epsilon": LAYER_NORM_EPSILON,
                "tie_word_embeddings": True,
                **({} if c.intermediate_size is None else {"intermediate_size": 4 * shape.n_embd}),
            }
    qwen = c.model_type == "qwen3"
    keys = ("intermediate_size", "rms_norm_eps", "tie_word_embeddings", "rope_parameters")
    expected = {name: value for name, value in _modern(shape).items() if name in keys}
    expected |= {"hidden_act": "silu" if qwen else "relu2", "attention_bias": False}
    if hasattr(c, "head_dim"):
        expected["head_dim"] = shape.n_embd // shape.n_head
    kind = {"layer_types": ["full_attention"] * shape.n_layer} if qwen else {"final_logit_softcapping": None}
    return {**expected, **kind}
