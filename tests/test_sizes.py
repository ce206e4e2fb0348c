"""The arithmetic of sizes agrees with the networks, with GPT-3's published tables and with measured memory."""

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from flows.commands.plan_costs import ROUNDING
from gptcore import cost
from gptcore.config import POSITIONS, Model, SizeName, Training
from gptcore.model import families, gpt, loss
from gptcore.model.gpt import GPTConfig, parameter_count
from gptcore.named_sizes import GPT1, GPT2, GPT3, GPT3_TOKENS, LADDER, NAMED, PUBLISHED_AS
from gptcore.sizes import (
    FAMILIES,
    LOGITS_AT_ONCE,
    Shape,
    checkpoint_bytes,
    count,
    evaluation_bytes,
    flops_per_token,
    optimizer_bytes,
    training_memory,
)
from gptcore.training import checkpoint, gradient, heldout
from gptcore.training.optimizer import build_optimizers

SHAPES = [(1, 1, 32, 16, 300), (3, 2, 48, 64, 264), (2, 4, 128, 256, 2048), (4, 5, 320, 128, 1000)]
"""n_layer, n_head, n_embd, context, vocab_size."""


def network(family: str, sizes: tuple[int, ...]) -> gpt.GPT:
    return families.build(GPTConfig(family, *sizes)).initialise(1)


def test_every_family_has_its_arithmetic() -> None:
    assert FAMILIES.keys() == families.FAMILIES.keys()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sizes", SHAPES)
def test_counts_and_flops_are_those_of_the_network(family: str, sizes: tuple[int, ...]) -> None:
    shape, model = Shape(family, *sizes), network(family, sizes)
    found = count(shape)
    assert found.parameters == parameter_count(model)
    assert found.multiplied == model.multiplied
    assert found.head == model.head.numel()
    assert found.matrices == sum(dict(model.named_parameters())[name].numel() for name in model.stacks)
    for length in (1, shape.context):
        assert flops_per_token(shape, length) == gpt.flops_per_token(model, length)
    without = flops_per_token(shape, shape.context, head=False)
    assert flops_per_token(shape, shape.context) - without == 6 * model.head.numel()


@pytest.mark.parametrize(
    ("family", "options"),
    [
        *((family, {"bias": False}) for family in ("gpt1", "gpt2", "gpt3")),
        *((family, {"positions": kind}) for family in FAMILIES for kind in POSITIONS[family]),
        ("modern", {"n_kv_head": 2}),
        ("modern", {"activation": "relu_squared"}),
        ("modern", {"activation": "relu_squared", "n_kv_head": 1, "positions": "learned"}),
    ],
)
def test_options_are_counted(family: str, options: dict[str, Any]) -> None:
    found, model = count(Shape(family, *SHAPES[2], **options)), families.build(GPTConfig(family, *SHAPES[2], **options))
    assert (found.parameters, found.multiplied) == (parameter_count(model), model.multiplied)
    assert found.matrices == sum(dict(model.named_parameters())[name].numel() for name in model.stacks)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_optimizer_bytes_are_those_of_its_state(family: str, optimizer: str) -> None:
    sizes = SHAPES[1]
    model = network(family, sizes)
    optimizers = build_optimizers(model, Training.model_construct(optimizer=optimizer))
    ids = torch.zeros(1, 8, dtype=torch.long)
    model(ids, ids).backward()
    optimizers.step(1.0)
    state = [t for name, t in optimizers.tensors(model).items() if not name.endswith(":step")]
    assert optimizer_bytes(Shape(family, *sizes), optimizer) == sum(t.numel() * t.element_size() for t in state)


def test_what_training_says_of_itself() -> None:
    """Numbers that cost.py repeats because it imports no torch."""
    assert cost.GPU_PASS_TOKENS == gradient.GPU_PASS_TOKENS
    assert cost.CPU_PASS_NUMBERS == gradient.CPU_PASS_NUMBERS
    assert cost.LOOK_TOKENS == heldout.PASS_TOKENS
    assert LOGITS_AT_ONCE == loss.CHUNK
    assert cost.CHECKPOINTS == checkpoint.KEPT + 1


# Published tables


@pytest.mark.parametrize("family", ["gpt2", "gpt3"])
@pytest.mark.parametrize("name", GPT3)
def test_gpt3_has_the_published_parameters_and_training(name: str, family: str) -> None:
    """Brown et al. 2020: our count rounds to table D.1's, whose FLOP and petaflop/s-days are 6 N D of 300 G tokens.

    With dense blocks as with banded ones, which lack the biases of queries, keys and values.
    """
    size = GPT3[name]
    shape = Shape(family, size.n_layer, size.n_head, size.n_embd, context=2048, vocab_size=50257)
    digits = 3 if size.parameters < 1e10 else 4  # 125 to 6,660; 12,850 and 174,600
    assert float(f"{count(shape).parameters:.{digits - 1}e}") == size.parameters
    total = 6 * size.parameters * GPT3_TOKENS
    assert float(f"{total:.2e}") == size.training_flops
    assert float(f"{total / 86_400e15:.2e}") == size.petaflop_days
    assert 6 * count(shape).parameters * GPT3_TOKENS == pytest.approx(total, rel=0.005)


def test_gpt3s_printed_shapes_that_cannot_be() -> None:
    """Table 2.1 prints d_model 5,140 for 13B, and 24 heads of 128 for XL: neither gives table D.1's parameters."""
    printed = count(Shape("gpt2", 40, 40, 5140, 2048, 50257)).parameters
    assert float(f"{printed:.3e}") != GPT3["gpt3-13b"].parameters
    wider = count(Shape("gpt2", 24, 16, 2048, 2048, 50257)).parameters + 24 * 4 * 2048 * (24 * 128 - 2048)
    assert float(f"{wider:.2e}") != GPT3["gpt3-xl"].parameters


def test_gpt1_has_its_published_size() -> None:
    size = GPT1["gpt1"]
    found = count(Shape("gpt1", size.n_layer, size.n_head, size.n_embd, context=512, vocab_size=40_478)).parameters
    assert found == 116_534_784  # of the released weights
    assert found == pytest.approx(size.parameters, rel=0.005)


@pytest.mark.parametrize("name", GPT2)
def test_gpt2_has_the_released_parameters(name: str) -> None:
    size = GPT2[name]
    found = count(Shape("gpt2", size.n_layer, size.n_head, size.n_embd, context=1024, vocab_size=50257)).parameters
    assert round(found / 1e6) == size.parameters / 1e6


def test_every_size_has_its_published_parameters_as_it_was_published() -> None:
    assert PUBLISHED_AS.keys() == NAMED.keys()
    for name, (family, context, vocabulary) in PUBLISHED_AS.items():
        size = NAMED[name]
        found = count(Shape(family, size.n_layer, size.n_head, size.n_embd, context, vocabulary)).parameters
        assert found == pytest.approx(size.parameters, rel=ROUNDING)


def test_every_size_is_a_network_the_schema_allows() -> None:
    assert set(get_args(SizeName)) == {"auto", *NAMED}
    shapes = [*((s.n_layer, s.n_head, s.n_embd) for s in NAMED.values()), *LADDER]
    for n_layer, n_head, n_embd in shapes:
        for family in FAMILIES:
            assert Model(family=family, n_layer=n_layer, n_head=n_head, n_embd=n_embd)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_ladder_rises(family: str) -> None:
    rungs = [count(Shape(family, *rung, context=256, vocab_size=4096)).parameters for rung in LADDER]
    steps = [b / a for a, b in itertools.pairwise(rungs)]
    assert min(steps) > 1.3
    assert max(steps[:-1]) < 2.8, "but for the last, from 13 to 175 G parameters"


def test_the_page_prints_gpt3s_table() -> None:
    page = (Path(__file__).parent.parent / "docs" / "sizes.md").read_text(encoding="utf-8")
    for name, s in GPT3.items():
        counted = count(Shape("gpt2", s.n_layer, s.n_head, s.n_embd, context=2048, vocab_size=50257)).parameters
        cells = (f"`{name}`", s.n_layer, f"{s.n_embd:,}", s.n_head, s.n_embd // s.n_head, f"{s.batch_tokens:,}")
        cells += (f"{s.learning_rate:.1e}", f"{s.parameters / 1e6:,.0f}", f"{counted / 1e6:,.1f}")
        cells += (f"{s.training_flops:.2e}", f"{s.petaflop_days:,g}")
        assert f"| {' | '.join(map(str, cells))} |\n" in page


# Memory

MEASURE = """
import json, sys, torch
from gptcore.config import Training
from gptcore.model.families import build
from gptcore.model.gpt import GPTConfig
from gptcore.training.batches import Batch
from gptcore.training.gradient import gradient
from gptcore.training.optimizer import build_optimizers

torch.set_num_threads(1)
family, optimizer, sizes, tokens = json.loads(sys.argv[1])
config = Training.model_construct(optimizer=optimizer)

def resident(field):
    line = next(line for line in open("/proc/self/status") if line.startswith(field))
    return 1024 * int(line.split()[1])

def updates(sizes, tokens, count):
    model = build(GPTConfig(family, *sizes)).initialise(1)
    optimizers = build_optimizers(model, config)
    context, vocabulary = sizes[3:]
    for _ in range(count):
        ids = torch.randint(0, vocabulary, (tokens // context, context))
        gradient(model, model, Batch(ids, ids, tokens), config, torch.float32, None)
        optimizers.step(1.0)

updates((1, 1, 32, 32, 64), 64, 1)
before = resident("VmRSS")
updates(sizes, tokens, 2)
print(resident("VmHWM") - before)
"""


@pytest.mark.parametrize(
    ("family", "optimizer", "sizes", "tokens"),
    [
        ("gpt2", "adamw", (4, 4, 256, 256, 4096), 2048),
        ("gpt2", "muon", (4, 6, 384, 128, 2048), 1024),
        ("modern", "adamw", (6, 4, 256, 128, 2048), 1024),
    ],
)
def test_memory_is_estimated_within_three_tenths(
    family: str, optimizer: str, sizes: tuple[int, ...], tokens: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps([family, optimizer, sizes, tokens])],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    measured = int(done.stdout)
    estimate = training_memory(Shape(family, *sizes), optimizer, tokens, "float32").total
    assert estimate == pytest.approx(measured, rel=0.3), f"{estimate / measured:.2f} of {measured / 1e6:,.0f} MB"


def test_memory_grows_with_what_it_depends_on() -> None:
    shape = Shape("modern", 4, 2, 128, 256, 2048)
    memory = training_memory(shape, "adamw", 1024, "float32")
    twice = training_memory(shape, "adamw", 2048, "float32")
    assert twice.activations == pytest.approx(2 * memory.activations, abs=1)
    assert twice.logits == memory.logits < training_memory(shape, "adamw", 1 << 20, "float32", "cuda").logits
    assert twice.weights == memory.weights == 4 * count(shape).parameters
    muon = training_memory(shape, "muon", 1024, "float32")
    assert muon.optimizer < memory.optimizer
    half = training_memory(shape, "adamw", 1024, "bfloat16")
    assert memory.activations / 2 < half.activations < memory.activations
    assert half.weights > memory.weights, "autocast keeps the weights a second time"
    assert checkpoint_bytes(shape, "adamw") == 3 * 4 * count(shape).parameters
    assert evaluation_bytes(shape, "adamw", 4096) > checkpoint_bytes(shape, "adamw")
    assert math.isclose(memory.total, 16 * count(shape).parameters + memory.activations + memory.logits)
