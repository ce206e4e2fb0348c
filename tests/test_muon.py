import pytest
import torch
from torch import nn

from gptcore.model.families import build
from gptcore.model.gpt import GPTConfig
from gptcore.training.muon import Muon, orthogonal

SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 32, "context": 16, "vocab_size": 50}


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 48, 16), (2, 16, 48)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    x = drawn(*shape)
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    found = orthogonal(x)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.5 and values.max() < 1.25
    inside = u.transpose(1, 2) @ found @ v.transpose(1, 2)  # diagonal where only the singular values changed
    torch.testing.assert_close(inside, torch.diag_embed(inside.diagonal(dim1=1, dim2=2)), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("turns", "least", "most"), [(3, 0.35, 1.65), (4, 0.80, 1.20), (5, 0.99, 1.01), (9, 0.999, 1.001)]
)
def test_each_turn_brings_singular_values_nearer_to_one(turns, least, most):
    spread = torch.diag(torch.logspace(-2, 0, 16))[None]  # over its norm: from 0.005 on
    values = torch.linalg.svdvals(orthogonal(spread, turns))
    assert least <= values.min() and values.max() <= most


def test_a_direction_of_zeros_stays_zero():
    assert torch.equal(orthogonal(torch.zeros(1, 4, 4)), torch.zeros(1, 4, 4))


def test_one_update_is_nesterovs_direction_made_orthogonal():
    weight, gradients = nn.Parameter(drawn(12, 4)), [drawn(12, 4), drawn(12, 4).flip(0)]
    before, optimizer = weight.detach().clone(), Muon([(weight, 1)], lr=0.1, momentum=0.9)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    average, expected = torch.zeros(12, 4), before
    for gradient in gradients:
        average = 0.9 * average + 0.1 * gradient
        update = orthogonal((0.1 * gradient + 0.9 * average)[None])[0]
        expected = expected - 0.1 * (12 / 4) ** 0.5 * update
    torch.testing.assert_close(weight.detach(), expected)


def test_matrices_that_share_a_parameter_are_made_orthogonal_each_by_itself():
    stacked = nn.Parameter(torch.zeros(12, 4))
    apart = [nn.Parameter(torch.zeros(4, 4)) for _ in range(3)]
    stacked.grad = drawn(12, 4)
    for parameter, grad in zip(apart, stacked.grad.clone().split(4), strict=True):
        parameter.grad = grad
    Muon([(stacked, 3)], lr=1.0).step()
    Muon([(parameter, 1) for parameter in apart], lr=1.0).step()
    torch.testing.assert_close(stacked.detach(), torch.cat([p.detach() for p in apart]))


@pytest.mark.parametrize("family", ["gpt2", "modern"])
def test_a_family_names_its_inner_matrices(family):
    model = build(GPTConfig(family, **SHAPE))
    named, stacks = dict(model.named_parameters()), model.stacks
    tables = {name for name, p in named.items() if p.dim() == 2} - set(stacks)
    assert tables == ({"wte.weight", "wpe.weight"} if family == "gpt2" else {"tokens.weight", "unembed.weight"})
    assert all(named[name].shape[0] % count == 0 for name, count in stacks.items())
    assert sorted(stacks.values()) == ([1] * 6 + [3] * 2 if family == "gpt2" else [1, 1, 1, 1, 2, 2, 3, 3])
