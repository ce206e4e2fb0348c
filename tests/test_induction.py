import json

import pytest
import torch
from networks import moved

from gptcore.config import Preset
from gptcore.model.families import build
from gptcore.model.gpt import GPTConfig
from gptcore.model.induction import with_induction
from gptcore.presets import ConfigError, load_preset

SHAPES = [(128, 2, 4), (192, 3, 4), (64, 2, 2)]
"""Width, heads, layers: those of quickstart and laptop, and the narrowest heads."""


def twice(vocabulary, length=50, rows=8):
    """Random tokens, and the same again."""
    ids = torch.randint(0, vocabulary, (rows, length), generator=torch.Generator().manual_seed(0))
    return torch.cat([ids, ids], dim=1)


@pytest.mark.parametrize(("width", "heads", "layers"), SHAPES)
def test_what_came_before_is_repeated_from_the_first_update_on(width, heads, layers):
    shape = GPTConfig("modern", layers, heads, width, 128, 500)
    plain, model = build(shape).initialise(1), with_induction(build(shape).initialise(1)).eval()
    ids = twice(500)
    with torch.no_grad():
        assert torch.equal(plain(ids), torch.zeros(8, 100, 500))
        found = model(ids).argmax(-1)[:, :-1] == ids[:, 1:]
    assert found[:, :49].float().mean() < 0.05  # nothing has come twice yet
    assert found[:, 52:].float().mean() > 0.6


def test_distance_does_not_matter():
    model = with_induction(build(GPTConfig("modern", 2, 2, 128, 256, 500)).initialise(1)).eval()
    for between in (1, 40, 180):
        ids = torch.randint(0, 500, (16, 256), generator=torch.Generator().manual_seed(1))
        ids[:, 20 + between :][:, :12] = ids[:, 8:20]
        with torch.no_grad():
            guesses = model(ids).argmax(-1)[:, 20 + between + 2 : 20 + between + 11]
        assert (guesses == ids[:, 11:20]).float().mean() > 0.5, between


def test_it_is_the_seeds_and_trains_like_any_other():
    shape = GPTConfig("modern", 2, 2, 64, 64, 300)
    first, second = (with_induction(build(shape).initialise(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    ids = twice(300, 30)
    first(ids[:, :-1], ids[:, 1:]).backward()
    silent = {name for name, p in first.named_parameters() if p.grad is None or not p.grad.any()}
    assert not {name for name in silent if "attention" in name or "tokens" in name or "unembed" in name}


def test_moved_weights_still_give_the_same_with_a_cache():
    """Nothing but weights sets it apart: what works for the family works for it."""
    model = moved(with_induction(build(GPTConfig("modern", 2, 2, 64, 64, 300)).initialise(3))).eval()
    ids = twice(300, 20)
    positions = torch.arange(40).expand(8, 40)
    with torch.no_grad():
        torch.testing.assert_close(model.hidden(ids), model.hidden(ids, positions), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (["model={family: gpt2}"], "family modern"),
        (["model.n_kv_head=1"], "n_kv_head 1"),
        (["model.n_layer=1"], "n_layer 1"),
        (["model.n_head=8"], "than 32 tell too few tokens apart: 16"),
        (["model.activation=relu_squared"], "swiglu"),
    ],
)
def test_a_shape_that_cannot_is_refused_before_any_work(changes, reason):
    with pytest.raises(ConfigError, match=reason):
        load_preset("quickstart", ["pretrain.start=induction", *changes])


def test_the_field_enters_identity_only_where_it_says_something():
    plain = load_preset("quickstart", ["pretrain.start=plain"]).pretrain
    assert "start" not in plain.model_dump()
    assert load_preset("quickstart", ["pretrain.start=induction"]).pretrain.model_dump()["start"] == "induction"
    assert Preset.model_validate(json.loads(load_preset("quickstart").model_dump_json()))
