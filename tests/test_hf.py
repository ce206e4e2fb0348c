"""Every family beside its counterpart in transformers: weights there and back, logits, greedy continuations."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers

from gptcore.adapters.hf_config import hf_config, shape_of
from gptcore.adapters.hf_weights import from_hf, to_hf
from gptcore.config import ACTIVATIONS, POSITIONS, Model, counterpart, no_counterpart
from gptcore.model.families import build
from gptcore.model.generate import generate
from gptcore.model.gpt import GPT, GPTConfig

VOCABULARY, CONTEXT = 50, 40
SIZES = [(2, 4, 32), (3, 2, 48)]
"""n_layer, n_head, n_embd."""


def shapes() -> Iterator[GPTConfig]:
    """Every combination of options, the first size; the second with the families' own."""
    (n_layer, n_head, n_embd), other = SIZES
    for family in POSITIONS:
        options = {
            "activation": ACTIVATIONS[family],
            "positions": POSITIONS[family],
            "n_kv_head": (None, 2) if family == "modern" else (None,),
            "bias": (None,) if family == "modern" else (None, False),
            "window": (6,) if family == "gpt3" else (None,),
        }
        for values in itertools.product(*options.values()):
            chosen: dict[str, Any] = dict(zip(options, values, strict=True))
            yield GPTConfig(family, n_layer, n_head, n_embd, CONTEXT, VOCABULARY, **chosen)
        yield GPTConfig(family, *other, CONTEXT, VOCABULARY)


def named(shape: GPTConfig) -> str:
    values = (shape.family, shape.activation, shape.positions, shape.n_kv_head, shape.bias, shape.n_layer)
    return "-".join(str(value) for value in values if value is not None)


EVERY = list(shapes())
PUBLISHED = [shape for shape in EVERY if counterpart(shape)]


def model_of(shape: GPTConfig) -> GPT:
    """Its weights away from the zeros and ones they start at, so that each one matters."""
    model, draw = build(shape).initialise(3), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.2)
    return model.eval()


def theirs_of(shape: GPTConfig, model: GPT) -> Any:
    found = getattr(transformers, counterpart(shape) or "")(hf_config(shape, {})).eval()
    missing, unexpected = found.load_state_dict(to_hf(shape, model.state_dict()), strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected
    found.tie_weights()
    return found


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(VOCABULARY, (3, CONTEXT), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", PUBLISHED, ids=named)
def test_logits_and_continuations_are_those_of_the_counterpart(shape: GPTConfig, ids: torch.Tensor) -> None:
    ours = model_of(shape)
    theirs = theirs_of(shape, ours)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=0)
    prompt = ids[:1, :5]
    with torch.no_grad():
        continued = theirs.generate(prompt, max_new_tokens=CONTEXT - 5, do_sample=False, pad_token_id=0)[0, 5:]
    assert generate(ours, prompt.tolist(), CONTEXT)[0][0].tokens == continued.tolist()


@pytest.mark.parametrize("shape", PUBLISHED, ids=named)
def test_weights_come_back(shape: GPTConfig, ids: torch.Tensor) -> None:
    ours = model_of(shape)
    back = from_hf(shape, theirs_of(shape, ours).state_dict())
    state = ours.state_dict()
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(back[name], tensor)


@pytest.mark.parametrize("shape", PUBLISHED, ids=named)
def test_a_configuration_is_read_as_the_network_it_describes(shape: GPTConfig, ids: torch.Tensor) -> None:
    """Fixed tables and missing biases come back as learned ones and zeros, which compute the same."""
    ours, found = model_of(shape), shape_of(hf_config(shape, {}).to_dict())
    plain = shape.positions == "sinusoidal" or shape.bias is False
    own = {n: None if getattr(shape, n) == k[shape.family][0] else getattr(shape, n) for n, k in OWN.items()}
    assert plain or found == dataclasses.replace(shape, **own)
    again = build(found)
    again.load_state_dict(from_hf(found, to_hf(shape, ours.state_dict())))
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(ids), ours(ids), atol=1e-4, rtol=0)


OWN = {"activation": ACTIVATIONS, "positions": POSITIONS}


@pytest.mark.parametrize("shape", [shape for shape in EVERY if not counterpart(shape)], ids=named)
def test_what_has_no_counterpart_says_so(shape: GPTConfig) -> None:
    with pytest.raises(ValueError, match="no class of transformers"):
        hf_config(shape, {})
    model = Model(family=shape.family, activation=shape.activation, positions=shape.positions)  # type: ignore[arg-type]
    assert f"family {shape.family}" in (no_counterpart(model) or "")


def test_what_a_shape_without_biases_cannot_hold_is_named() -> None:
    shape = GPTConfig("gpt2", *SIZES[0], CONTEXT, VOCABULARY, bias=False)
    theirs = to_hf(shape, model_of(shape).state_dict())
    theirs["transformer.ln_f.bias"] = theirs["transformer.ln_f.bias"] + 1
    with pytest.raises(ValueError, match=r"without biases cannot hold ln_f\.bias"):
        from_hf(shape, theirs)
    fixed = GPTConfig("gpt2", *SIZES[0], CONTEXT, VOCABULARY, positions="sinusoidal")
    theirs = to_hf(fixed, model_of(fixed).state_dict())
    theirs["transformer.wpe.weight"] = theirs["transformer.wpe.weight"] + 1
    with pytest.raises(ValueError, match=r"sinusoidal positions cannot hold wpe\.weight"):
        from_hf(fixed, theirs)


QWEN3 = {"model_type": "qwen3", **hf_config(GPTConfig("modern", *SIZES[0], CONTEXT, VOCABULARY), {}).to_diff_dict()}


def test_a_configuration_survives_its_file() -> None:
    assert shape_of(QWEN3) == GPTConfig("modern", *SIZES[0], CONTEXT, VOCABULARY)


@pytest.mark.parametrize("activation", ["swiglu", "relu_squared"])
def test_long_contexts_are_turned_by_the_same_angles(activation: str) -> None:
    """A rate off by its last bit, at position 8,000, is an angle off by 1e-4, and logits by more than that."""
    shape = GPTConfig("modern", 2, 1, 64, 8192, VOCABULARY, activation=activation)
    ours = model_of(shape)
    ids = torch.randint(VOCABULARY, (1, 8192), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs_of(shape, ours)(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("length", [5, 6, 7, 11, 12, 13, 18, 40])
def test_a_band_ends_where_gpt_neos_does(ids: torch.Tensor, length: int) -> None:
    """Shorter and longer than the window of 6, than two of it, and multiples of it."""
    shape = GPTConfig("gpt3", *SIZES[0], CONTEXT, VOCABULARY, window=6)
    ours = model_of(shape)
    with torch.no_grad():
        found, expected = ours(ids[:, :length]), theirs_of(shape, ours)(ids[:, :length]).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "llama"}, "model_type 'llama' is not one of"),
        ({"model_type": "gpt2", "activation_function": "relu"}, "activation_function 'relu' is not one of"),
        (
            {"model_type": "gpt2", "layer_norm_epsilon": 1e-6},
            "layer_norm_epsilon 1e-06 cannot be taken over; only with",
        ),
        ({"model_type": "gpt2", "n_inner": 100}, "n_inner 100 cannot be taken over; only with 3072"),
        ({"model_type": "gpt_neo", "tie_word_embeddings": False}, "tie_word_embeddings False cannot be taken over"),
        (
            {**QWEN3, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
            "rope_parameters .*1000000.* cannot be taken over",
        ),
        ({**QWEN3, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_parameters .*yarn.* cannot be taken"),
        ({**QWEN3, "attention_bias": True}, "attention_bias True cannot be taken over; only with False"),
        ({**QWEN3, "layer_types": ["full_attention", "sliding_attention"]}, "layer_types .* cannot be taken over"),
        ({**QWEN3, "head_dim": 16}, "head_dim 16 cannot be taken over; only with 8"),
        ({"model_type": "nanochat"}, "intermediate_size 8192 cannot be taken over; only with 3072"),
    ],
)
def test_what_cannot_be_taken_over_is_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shape_of(config)
