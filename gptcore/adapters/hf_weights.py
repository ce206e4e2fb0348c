"""Our weights under the names and shapes of a class of transformers, and back.

| family | counterpart | what differs besides names |
|---|---|---|
| gpt1 | OpenAIGPTLMHeadModel | linear layers are (in, out) |
| gpt2 | GPT2LMHeadModel | linear layers are (in, out) |
| gpt3 | GPTNeoForCausalLM | scores are not divided by sqrt(D): the queries' weights are; q, k, v apart |
| modern, SwiGLU | Qwen3ForCausalLM | q, k, v apart, gate and up too |
| modern, squared ReLU | NanoChatForCausalLM | the same, and turned the other way: the halves of q and k change places |

A tied head is left out. Biases that ours lacks are zeros there; sinusoids are a table there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from gptcore.config import activation_of, positions_of
from gptcore.model.families import build
from gptcore.model.gpt import GPTConfig

State = dict[str, Tensor]

PREFIX = "transformer."
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
"""GPT-2 and GPT-1 keep these as Conv1D: (in, out), ours as Linear: (out, in)."""
GPT1_NAMES = {"wte": "tokens_embed", "wpe": "positions_embed"}
MODERN = {
    "tokens": ("model.embed_tokens",),
    "norm": ("model.norm",),
    "unembed": ("lm_head",),
    "norm_1": ("input_layernorm",),
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.q": ("self_attn.q_proj",),
    "attention.kv": ("self_attn.k_proj", "self_attn.v_proj"),
    "attention.q_norm": ("self_attn.q_norm",),
    "attention.k_norm": ("self_attn.k_norm",),
    "attention.out": ("self_attn.o_proj",),
    "norm_2": ("post_attention_layernorm",),
}
QWEN3 = {**MODERN, "mlp.gate_up": ("mlp.gate_proj", "mlp.up_proj"), "mlp.down": ("mlp.down_proj",)}
NANOCHAT = {**MODERN, "mlp.up": ("mlp.fc1",), "mlp.down": ("mlp.fc2",)}
"""What the class calls the modern family's parts; of one of ours that is several of theirs, top to bottom."""


def to_hf(shape: GPTConfig, state: Mapping[str, Tensor]) -> State:
    """Our state dict as the counterpart's."""
    return _WAYS[shape.family][0](shape, state)


def from_hf(shape: GPTConfig, state: Mapping[str, Tensor]) -> State:
    """The inverse of `to_hf`; causal masks that old files carry are left out.

    ValueError when a bias is not zero that a shape without biases cannot hold, or a table is not the sinusoids.
    """
    return _WAYS[shape.family][1](shape, state)


# gpt1 and gpt2


def _to_gpt(shape: GPTConfig, state: Mapping[str, Tensor]) -> State:
    whole = {**state, **_zero_biases(state), **_fixed_table(shape)}
    return {PREFIX + _renamed(shape, name): _turned(name, tensor) for name, tensor in whole.items()}


def _from_gpt(shape: GPTConfig, state: Mapping[str, Tensor]) -> State:
    masks = (".attn.bias", ".attn.masked_bias", "lm_head.weight")
    names = {theirs: ours for ours, theirs in GPT1_NAMES.items()} if shape.family == "gpt1" else {}
    back = {}
    for name, tensor in state.items():
        if not name.endswith(masks):
            first, _, rest = name.removeprefix(PREFIX).partition(".")
            ours = f"{names.get(first, first)}.{rest}"
            back[ours] = _turned(ours, tensor)
    return _without_what_is_implied(shape, back)


def _renamed(shape: GPTConfig, name: str) -> str:
    first, _, rest = name.partition(".")
    return f"{GPT1_NAMES.get(first, first) if shape.family == 'gpt1' else first}.{rest}"


def _turned(name: str, tensor: Tensor) -> Tensor:
    return tensor.t().contiguous() if name.endswith(TRANSPOSED) else tensor


def _zero_biases(state: Mapping[str, Tensor]) -> State:
    """Those that a state lacks and the class has."""
    weights = {n.removesuffix("weight"): t for n, t in state.items() if not n.startswith(("wte.", "wpe."))}
    return {
        f"{n}bias": torch.zeros(len(t))
        for n, t in weights.items()
        if not n.endswith("bias") and f"{n}bias" not in state
    }


def _fixed_table(shape: GPTConfig) -> State:
    """The sinusoids, which are no parameter of ours."""
    if positions_of(shape) != "sinusoidal":
        return {}
    return {"wpe.weight": build(shape).get_buffer("wpe.weight")}


def _without_what_is_implied(shape: GPTConfig, state: State) -> State:
    """Ours, without zero biases and sinusoids where the shape has none; ValueError where they are something else."""
    wanted, table = build(shape).state_dict(), _fixed_table(shape)
    for name in sorted(state.keys() - wanted.keys()):
        if name in table and not torch.allclose(state[name], table[name], atol=1e-6):  # machines round otherwise
            raise ValueError(f"a model of sinusoidal positions cannot hold {name}, which is another table")
        if name not in table and name.endswith("bias") and state[name].any():
            raise ValueError(f"a {shape.family} model without biases cannot hold {name}, which is not zero")
    return {
        name: tensor for name, tensor in state.items() if name in wanted or not name.endswith(("bias", "wpe.weight"))
    }


# gpt3

NEO = {"attn.c_proj": "attn.attention.out_proj"}
NEO_PARTS = tuple(f"attn.attention.{name}_proj.weight" for name in "qkv")


def _to_neo(shape: GPTConfig, state: Mapping[str, Tensor]) -> State:
    whole = {**state, **_zero_biases(state), **_fixed_table(shape)}
    theirs = {}
    for name, tensor in whole.items():
        place, part = _layer(name, "h.")
        if part == "attn.c_attn.weight":
            q, k, v = tensor.chunk(3)
            for other, piece in zip(NEO_PARTS, (q * _score_factor(shape), k, v), strict=True):
                theirs[f"{PREFIX}{place}{other}"] = piece.contiguous()
        elif part != "attn.c_attn.bias":  # neither has one
            stem, _, end = part.rpartition(".")
            theirs[f"{PREFIX}{place}{NEO.get(stem, stem)}.{end}"] = tensor
    return theirs


def _from_neo(shape: GPTConfig, state: Mapping[str, Tensor]) -> State:
    back, names = {}, {theirs: ours for ours, theirs in NEO.items()}
    for name, tensor in state.items():
        place, part = _layer(name.removeprefix(PREFIX), "h.")
        if part == NEO_PARTS[0]:
            q, k, v = (state[name.replace(part, other)] for other in NEO_PARTS)
            back[f"{place}attn.c_attn.weight"] = torch.cat([q / _score_factor(shape), k, v])
        elif part not in NEO_PARTS and not part.endswith((".attention.bias", ".masked_bias", "lm_head.weight")):
            stem, _, end = part.rpartition(".")
            back[f"{place}{names.get(stem, stem)}.{end}"] = tensor
    return _without_what_is_implied(shape, back)


def _score_factor(shape: GPTConfig) -> float:
    return 1 / math.sqrt(shape.n_embd // shape.n_head)


# modern


def _to_modern(shape: GPTConfig, state: Mapping[str, Tensor]) -> State:
    names, theirs = _modern_names(shape), {}
    for name, tensor in state.items():
        place, part = _layer(name.removesuffix(".weight"), "layers.")
        for other, piece in zip(names[part], tensor.chunk(len(names[part])), strict=True):
            theirs[f"{'model.' if place else ''}{place}{other}.weight"] = _halves(shape, other, piece).contiguous()
    return theirs


def _from_modern(shape: GPTConfig, state: Mapping[str, Tensor]) -> State:
    ours = {}
    for part, others in _modern_names(shape).items():
        inner = "." in part or part in ("norm_1", "norm_2")
        for place in [f"layers.{layer}." for layer in range(shape.n_layer)] if inner else [""]:
            found = [f"{'model.' if place else ''}{place}{other}.weight" for other in others]
            pieces = [_halves(shape, other, state[name]) for other, name in zip(others, found, strict=True)]
            ours[f"{place}{part}.weight"] = torch.cat(pieces)
    return ours


def _modern_names(shape: GPTConfig) -> dict[str, tuple[str, ...]]:
    """The parts that this shape has."""
    swiglu = activation_of(shape) == "swiglu"
    absent = {"attention.qkv"} if shape.n_kv_head else {"attention.q", "attention.kv"}
    if not swiglu:
        absent |= {"norm", "norm_1", "norm_2", "attention.q_norm", "attention.k_norm"}
    return {part: others for part, others in (QWEN3 if swiglu else NANOCHAT).items() if part not in absent}


def _halves(shape: GPTConfig, name: str, tensor: Tensor) -> Tensor:
    """nanochat turns by the opposite angle, which is ours with the halves of every query and key exchanged."""
    if activation_of(shape) == "swiglu" or not name.endswith(("q_proj", "k_proj")):
        return tensor
    return tensor.view(-1, 2, shape.n_embd // shape.n_head // 2, tensor.shape[1]).flip(1).reshape(tensor.shape)


def _layer(name: str, before: str) -> tuple[str, str]:
    """`layers.3.mlp.down` in `layers.3.` and `mlp.down`; nothing comes before a part outside the layers."""
    if not name.startswith(before):
        return "", name
    number, part = name.removeprefix(before).split(".", 1)
    return f"{before}{number}.", part


_WAYS: dict[str, tuple[Callable[[GPTConfig, Mapping[str, Tensor]], State], ...]] = {
    "gpt1": (_to_gpt, _from_gpt),
    "gpt2": (_to_gpt, _from_gpt),
    "gpt3": (_to_neo, _from_neo),
    "modern": (_to_modern, _from_modern),
}
