import dataclasses
import json
import math

import pytest
import torch
import torch.nn.functional as F
from networks import moved
from safetensors.torch import load_file, save_file

from gptcore import config
from gptcore.model import cpu, loss
from gptcore.model.attention import causal
from gptcore.model.families import build
from gptcore.model.gpt import GPTConfig, flops_per_token, parameter_count
from gptcore.model.weights import load_model, save_model

SHAPE = GPTConfig("gpt2", n_layer=2, n_head=4, n_embd=32, context=16, vocab_size=50)


KINDS = {
    "gpt1": {},
    "gpt2": {},
    "gpt2-rotary": {"positions": "rotary"},
    "gpt3": {"window": 5},
    "gpt3-sinusoidal": {"window": 9, "positions": "sinusoidal"},
    "modern": {},
    "modern-grouped": {"n_kv_head": 2},
    "modern-nanochat": {"activation": "relu_squared"},
    "modern-learned": {"positions": "learned"},
}


@pytest.fixture(params=KINDS)
def model(request):
    family = request.param.split("-")[0]
    return moved(build(dataclasses.replace(SHAPE, family=family, **KINDS[request.param])).initialise(3)).eval()


@pytest.fixture
def ids():
    return torch.randint(0, 50, (3, 16), generator=torch.Generator().manual_seed(0))


def test_gpt2_small_has_its_published_size_and_the_palm_count_of_operations():
    model = build(GPTConfig.of(config.Model(n_layer=12, n_head=12, n_embd=768, context=1024), 50257))
    assert parameter_count(model) == 124_439_808
    assert flops_per_token(model, 1024) == 6 * (124_439_808 - 1024 * 768) + 12 * 12 * 768 * 1024


def test_the_modern_family_knows_distances_and_no_places(ids):
    model = moved(build(dataclasses.replace(SHAPE, family="modern")).initialise(3)).eval()
    positions = torch.arange(16).expand(3, 16)
    with torch.no_grad():
        torch.testing.assert_close(model.hidden(ids), model.hidden(ids, positions))
        torch.testing.assert_close(model.hidden(ids[:, :8]), model.hidden(ids[:, :8], positions[:, 8:]))
        assert not torch.allclose(model.hidden(ids), model.hidden(ids, positions // 2), atol=1e-3)


def test_the_modern_family_begins_with_equal_odds(ids):
    model = build(dataclasses.replace(SHAPE, family="modern")).initialise(3)
    assert torch.equal(model(ids), torch.zeros(3, 16, 50))
    tensors = build(GPTConfig("modern", 2, 2, 128, 64, 1000)).initialise(1).state_dict()
    assert tensors["tokens.weight"].std().item() == pytest.approx(1, rel=0.02)
    assert tensors["layers.1.mlp.gate_up.weight"].std().item() == pytest.approx(128**-0.5, rel=0.02)
    assert tensors["layers.1.mlp.gate_up.weight"].shape == (2 * 352, 128)


def test_a_token_sees_only_what_came_before(model, ids):
    changed = ids.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % 50
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 9:], after[:, 9:])


def test_initial_weights_follow_gpt2():
    tensors = build(GPTConfig("gpt2", 8, 4, 128, 64, 1000)).initialise(1).state_dict()
    std = 0.02 * math.sqrt(768 / tensors["wte.weight"].shape[1])
    assert tensors["wte.weight"].std().item() == pytest.approx(std, rel=0.02)
    assert tensors["h.3.mlp.c_fc.weight"].std().item() == pytest.approx(std, rel=0.02)
    assert tensors["h.3.mlp.c_proj.weight"].std().item() == pytest.approx(std / math.sqrt(16), rel=0.02)
    assert tensors["wpe.weight"].square().mean().sqrt().item() == pytest.approx(std, rel=0.02)
    assert all((t == 0).all() for n, t in tensors.items() if n.endswith("bias"))
    assert all((t == 1).all() for n, t in tensors.items() if ".ln_" in n and n.endswith("weight"))


def test_initial_weights_are_the_seeds():
    def first(seed):
        return build(SHAPE).initialise(seed).state_dict()["h.0.attn.c_attn.weight"]

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


@pytest.mark.parametrize("chunk", [1, 170, 1 << 20])
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_its_gradients_are_those_of_the_targets_that_count(model, ids, monkeypatch, chunk, weighted):
    """Whatever the number of logits at a time: a row, three rows, all."""
    monkeypatch.setitem(loss.CHUNK, "cpu", chunk)
    targets = ids.roll(-1, 1)
    targets[:, :5] = loss.IGNORED
    places = (targets.flatten() != loss.IGNORED).nonzero()[:, 0]
    weights = torch.rand(len(places), generator=torch.Generator().manual_seed(0)) if weighted else torch.ones(33)

    def gradients():
        found = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        return found

    nats = F.cross_entropy(model(ids)[:, 5:].reshape(-1, 50), targets[:, 5:].reshape(-1), reduction="none")
    torch.testing.assert_close(model(ids, targets, places, reduction="none"), nats)
    expected = (nats * weights).sum() / 7
    expected.backward()
    plain = gradients()
    forms = [(places, weights), *(() if weighted else [(None, None), (places, None)])]
    for where, factors in forms:
        ours = model(ids, targets, where, factors) / 7
        torch.testing.assert_close(ours, expected)
        ours.backward()
        torch.testing.assert_close(gradients(), plain, atol=1e-5, rtol=1e-5)


def test_ignored_targets_cost_nothing_each(model, ids):
    targets = ids.clone()
    targets[0] = loss.IGNORED
    nats = model(ids, targets, reduction="none")
    assert torch.equal(nats[:16], torch.zeros(16)) and (nats[16:] > 0).all()


@pytest.mark.parametrize("kept", [0, 1 << 20])
def test_the_block_written_out_is_the_plain_one(ids, monkeypatch, kept):
    monkeypatch.setattr(cpu, "KEPT_UP_TO", kept)
    model = moved(build(dataclasses.replace(SHAPE, family="modern")).initialise(3))
    applied = []
    written_out = cpu.ModernBlock.apply
    monkeypatch.setattr(cpu.ModernBlock, "apply", lambda *inputs: applied.append(1) or written_out(*inputs))

    def nats_and_gradients():
        model.zero_grad()
        nats = model(ids, ids.roll(-1, 1))
        nats.backward()
        return nats.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}

    ours = nats_and_gradients()
    assert len(applied) == SHAPE.n_layer
    monkeypatch.setattr(cpu, "helps", lambda *_: False)
    theirs = nats_and_gradients()
    assert len(applied) == SHAPE.n_layer
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_the_block_written_out_stays_out_of_the_way(ids, monkeypatch):
    """Of dropout, of attention of another kind, of layers that are more than linear, of passes without gradients."""
    model = moved(build(dataclasses.replace(SHAPE, family="modern", dropout=0.5)).initialise(3))
    monkeypatch.setattr(cpu.ModernBlock, "apply", lambda *_: pytest.fail("used"))
    model(ids)
    model.eval()
    with torch.no_grad():
        model(ids)
    model.hidden(ids, attend=lambda layer, q, k, v, band: v)
    model.hidden(ids, positions=torch.arange(16).expand(3, 16))
    with torch.autocast("cpu", torch.bfloat16):
        model(ids)
    for layer in model.layers:
        layer.mlp.down = torch.nn.Sequential(layer.mlp.down)
    model(ids)


def test_biases_can_be_left_out(ids):
    bare = build(dataclasses.replace(SHAPE, bias=False)).initialise(3)
    assert not [name for name, _ in bare.named_parameters() if name.endswith("bias")]
    torch.testing.assert_close(bare(ids), build(SHAPE).initialise(3)(ids))  # whose biases begin at zero
    with pytest.raises(ValueError, match="the modern family has none"):
        dataclasses.replace(SHAPE, family="modern", bias=True)
    with pytest.raises(ValueError, match="the modern family has none"):
        config.Model(family="modern", bias=True)


def test_gelu_is_exact_or_in_its_tanh_form(ids):
    exact, tanh, own = (
        moved(build(dataclasses.replace(SHAPE, activation=name)).initialise(3)) for name in ("gelu", "gelu_tanh", None)
    )
    assert torch.equal(own(ids), tanh(ids))
    torch.testing.assert_close(exact(ids), tanh(ids), atol=0.05, rtol=0.05)
    assert not torch.equal(exact(ids), tanh(ids))
    for family, activation in (("modern", "gelu"), ("gpt2", "swiglu")):
        with pytest.raises(ValueError, match=f"activation '{activation}' is not one of the {family} family's"):
            dataclasses.replace(SHAPE, family=family, activation=activation)
        with pytest.raises(ValueError, match=f"activation '{activation}' is not one of the {family} family's"):
            config.Model(family=family, activation=activation)


def test_a_layer_of_gpt3_looks_back_no_further_than_its_band(ids):
    """Two layers: the second sees 5 tokens of what the first, which sees all, has made; alone it sees 5 in all."""
    model = moved(build(dataclasses.replace(SHAPE, family="gpt3", window=5)).initialise(3)).eval()
    assert [model.config.band(layer) for layer in range(4)] == [None, 5, None, 5]
    assert [GPTConfig("gpt3", 2, 1, 8, 512, 9).band(layer) for layer in (0, 1)] == [None, 256]
    model.h = model.h[1:]
    changed = ids.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 50
    before, after = model(ids), model(changed)
    same = torch.isclose(before, after, atol=1e-5).all(-1).all(0)
    assert same.tolist() == [True] * 3 + [False] * 5 + [True] * 8


@pytest.mark.parametrize("length", [4, 5, 6, 10, 11, 15, 23])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_in_chunks_is_attention_under_a_mask(length, kv_heads):
    draw = torch.Generator().manual_seed(length)
    q, k, v = (
        torch.randn(2, heads, length, 8, generator=draw, requires_grad=True) for heads in (4, kv_heads, kv_heads)
    )
    back = torch.arange(length)[:, None] - torch.arange(length)
    every = [x.repeat_interleave(4 // kv_heads, dim=1) for x in (k, v)]
    plain = F.scaled_dot_product_attention(q, *every, attn_mask=(back >= 0) & (back < 5))
    ours = causal(q, k, v, band=5)
    torch.testing.assert_close(ours, plain)
    for found, expected in zip(*(torch.autograd.grad(y.square().sum(), (q, k, v)) for y in (ours, plain)), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"family": "gpt2", "window": 4}, "window 4: only the gpt3 family"),
        ({"family": "gpt1", "n_kv_head": 2}, "n_kv_head 2: only the modern family"),
        ({"family": "modern", "n_kv_head": 3}, r"n_kv_head 3 does not divide n_head 4; numbers that do: \[1, 2, 4\]"),
        ({"family": "modern", "positions": "absolute"}, "positions 'absolute' is not one of the modern family's"),
        ({"positions": "rotary", "n_embd": 36}, "n_embd 36 over n_head 4 is odd, and rotary positions turn pairs"),
        ({"family": "gpt3", "window": 0}, "window 0 is not a positive whole number"),
    ],
)
def test_a_combination_that_no_network_has_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SHAPE, **wrong)


def test_a_sequence_over_the_context_is_refused(model):
    with pytest.raises(ValueError, match=r"17 tokens exceeds.*16"):
        model(torch.zeros(1, 17, dtype=torch.long))


def test_saved_weights_come_back(model, ids, tmp_path):
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(loaded(ids), model(ids))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_saved_bytes_are_the_same_each_time(model, tmp_path):
    save_model(model, tmp_path / "a")
    save_model(load_model(tmp_path / "a"), tmp_path / "b")
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


@pytest.mark.parametrize("kept", [0, 5, 100, -7])
def test_truncated_weights_are_refused(model, tmp_path, kept):
    save_model(model, tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="truncated or not safetensors"):
        load_model(tmp_path)


def _edit_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_weights_of_another_shape_are_refused(tmp_path):
    save_model(build(SHAPE).initialise(3), tmp_path)
    _edit_config(tmp_path, vocab_size=51)
    with pytest.raises(ValueError, match=r"wte\.weight is \(50, 32\), config\.json says \(51, 32\)"):
        load_model(tmp_path)
    _edit_config(tmp_path, vocab_size=50, n_layer=3)
    with pytest.raises(ValueError, match=r"h\.2\.ln_1\.weight is missing"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, r"unknown keys \['colour'\]"),
        ({"n_head": 5}, "n_head 5 does not divide n_embd 32"),
        ({"n_layer": "2"}, "n_layer '2' is not a positive whole number"),
        ({"family": "gpt9"}, "family 'gpt9' is not one of"),
        ({"family": ["gpt9"]}, r"family \['gpt9'\] is not one of"),
        ({"dropout": "a"}, r"dropout 'a' is not a number in \[0, 1\)"),
        ({"dropout": None}, "dropout None is not a number"),
        ({"dropout": True}, "dropout True is not a number"),
        ({"bias": "no"}, "bias 'no' is neither true nor false"),
        ({"bias": 1}, "bias 1 is neither true nor false"),
        ({"activation": ["gelu"]}, r"activation \['gelu'\] is not one of"),
        ({"positions": {}}, r"positions \{\} is not one of"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(model, tmp_path, change, message):
    save_model(model, tmp_path)
    _edit_config(tmp_path, **change)
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path)


def test_a_config_with_a_key_missing_or_broken_is_refused(model, tmp_path):
    save_model(model, tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"missing keys.*n_layer"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text('{"n_layer": ')
    with pytest.raises(ValueError, match="is not JSON"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda tensor: tensor.long(), "is of torch.int64, and weights are floating-point numbers"),
        (lambda tensor: tensor.index_fill(0, torch.tensor([1]), torch.nan), "holds values that are not finite"),
        (lambda tensor: tensor.index_fill(0, torch.tensor([1]), -torch.inf), "holds values that are not finite"),
    ],
)
def test_tensors_that_are_no_weights_are_refused(model, tmp_path, spoil, message):
    save_model(model, tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[-1]
    save_file({**tensors, name: spoil(tensors[name])}, path)
    with pytest.raises(ValueError, match=rf"model\.safetensors: {name} {message}"):
        load_model(tmp_path)


def test_pickled_weights_are_never_opened(model, tmp_path):
    save_model(model, tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"only pickled weights \(pytorch_model\.bin\)"):
        load_model(tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_model(tmp_path)
