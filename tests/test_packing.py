import numpy as np
import pytest
import torch
from tiny_training import MODEL, VOCABULARY, pretrain_config

from gptcore.model.families import build
from gptcore.model.gpt import GPTConfig
from gptcore.model.loss import IGNORED
from gptcore.model.packed import PackedAttention
from gptcore.training.batches import Example, collate, lay
from gptcore.training.gradient import gradient
from gptcore.training.packing import PackedBatches, best_fit, empty_share, plan_rows

ROWS = [
    [Example([5, 6, 7, 8], [8, 9]), Example([4], [1, 2, 3]), Example([9, 9], [30, 31, 32, 33])],
    [Example([40, 41, 42, 43, 44], [45]), Example([50], [51])],  # shorter: the row ends in padding
]


@pytest.fixture(params=["gpt2", "modern"])
def model(request):
    """A network whose every weight does something: the modern family's projections start at zero."""
    shape = GPTConfig.of(MODEL.model_copy(update={"family": request.param, "dropout": 0.0}), VOCABULARY)
    network = build(shape).initialise(1)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.empty(parameter.shape).normal_(0.0, 0.1, generator=draw))
    return network


def gradient_of(model, batch, micro_batch_tokens=None):
    """(loss, gradient by name) of a batch's mean loss."""
    model.zero_grad()
    loss, _ = gradient(model, model, batch, pretrain_config(grad_clip=1e9), torch.float32, micro_batch_tokens)
    return loss.item(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


# The network


def test_a_packed_batch_has_the_loss_and_the_gradient_of_its_examples_alone(model):
    packed_loss, packed = gradient_of(model, lay(ROWS))
    alone = [gradient_of(model, collate([example])) for row in ROWS for example in row]
    assert packed_loss == pytest.approx(sum(loss for loss, _ in alone) / len(alone), abs=1e-6)
    for name, ours in packed.items():
        torch.testing.assert_close(ours, torch.stack([g[name] for _, g in alone]).mean(0), atol=1e-6, rtol=1e-5)


def test_rows_in_passes_of_their_own_change_nothing_but_rounding(model):
    whole_loss, whole = gradient_of(model, lay(ROWS))
    loss, parts = gradient_of(model, lay(ROWS), micro_batch_tokens=12)
    assert loss == pytest.approx(whole_loss, abs=1e-6)
    for name, ours in parts.items():
        torch.testing.assert_close(ours, whole[name], atol=1e-6, rtol=1e-5)


def logits_of(model, batch):
    model.eval()
    with torch.inference_mode():
        return model(batch.inputs, positions=batch.positions, attend=PackedAttention.of(batch.positions))


def test_an_example_does_not_see_its_neighbours(model):
    before = logits_of(model, lay(ROWS))
    other = Example([200], [201, 202, 203])
    changed = logits_of(model, lay([[ROWS[0][0], other, ROWS[0][2]], ROWS[1]]))
    first, second = slice(0, 5), slice(5, 8)
    torch.testing.assert_close(changed[0, first], before[0, first], atol=1e-6, rtol=0)
    torch.testing.assert_close(changed[0, 8:], before[0, 8:], atol=1e-6, rtol=0)
    torch.testing.assert_close(changed[1], before[1], atol=1e-6, rtol=0)
    assert (changed[0, second] - before[0, second]).abs().amax() > 0.1
    leaking = model(lay(ROWS).inputs)  # what plain causal attention gives
    assert (leaking[0, 8:] - before[0, 8:]).abs().amax() > 0.1


def test_attention_is_dropped_in_packed_rows_too(model):
    positions = lay(ROWS).positions
    q, k, v = torch.randn(3, 2, 2, positions.shape[1], 16, generator=torch.Generator().manual_seed(0))
    kept, dropped = (PackedAttention.of(positions, dropout=p)(0, q, k, v, None) for p in (0.0, 0.5))
    assert not torch.allclose(kept, dropped)
    assert torch.allclose(kept[0, :, 0], v[0, :, 0]), "the first token of an example sees itself alone"
    assert torch.allclose(kept[0, :, 5], v[0, :, 5])


# The rows


def test_examples_follow_each_other_and_count_from_zero():
    batch = lay(ROWS)
    assert batch.inputs.tolist() == [[5, 6, 7, 8, 8, 4, 1, 2, 9, 9, 30, 31, 32], [*range(40, 45), 50, *[0] * 7]]
    assert batch.positions.tolist() == [[*range(5), *range(3), *range(5)], [*range(5), *range(8)]]
    x = IGNORED
    assert batch.targets.tolist() == [[x, x, x, 8, 9, 1, 2, 3, x, 30, 31, 32, 33], [x, x, x, x, 45, 51, *[x] * 7]]
    assert (batch.weight, batch.tokens) == (pytest.approx(5), 19)
    assert torch.allclose(batch.weights.sum(1), torch.tensor([3.0, 2.0])), "every answer counts the same"


def test_each_goes_where_it_leaves_the_least_room():
    lengths = np.array([6, 5, 4, 3, 2])
    assert best_fit(np.arange(5), lengths, 10) == [[0, 2], [1, 3, 4]]
    assert best_fit(np.array([4, 1, 0]), lengths, 8) == [[4, 1], [0]]
    assert best_fit(np.array([4, 1, 3]), lengths, 8) == [[4, 1], [3]]


def test_the_plan_takes_each_example_once_an_epoch_and_leaves_hardly_a_gap():
    lengths = np.random.default_rng(0).integers(40, 101, 2000)
    plan = plan_rows(lengths, 256, 4, 400, 3)
    assert len(plan) == 400
    count = next(n for n in range(len(plan)) if sum(len(row) for batch in plan[:n] for row in batch) == 2000)
    assert sorted(i for batch in plan[:count] for row in batch for i in row) == list(range(2000))
    used = [lengths[row].sum() for batch in plan[:count] for row in batch]
    assert max(used) <= 256
    assert sum(used) / (256 * len(used)) > 0.97
    assert plan == plan_rows(lengths, 256, 4, 400, 3)
    rows = [
        {tuple(sorted(row)) for batch in epoch for row in batch} for epoch in (plan[:count], plan[count : 2 * count])
    ]
    assert len(rows[0] & rows[1]) < 10, "every epoch packs anew"
    assert plan[:100] != plan_rows(lengths, 256, 4, 100, 4)


def test_a_batch_holds_at_most_its_tokens_and_a_row_at_most_the_context():
    examples = [Example([i], [i] * (3 + i % 9)) for i in range(50)]
    batches = PackedBatches(examples, context=24, batch_tokens=50, steps=5, seed=0)
    assert {tuple(batches(step).inputs.shape) for step in range(4)} == {(2, 24)}
    assert torch.equal(batches(3).inputs, batches(3).inputs)
    small = PackedBatches(examples, context=24, batch_tokens=5, steps=5, seed=0)
    assert all(small(step).inputs.shape[0] == 1 and small(step).inputs.shape[1] <= 11 for step in range(5))


def test_no_example_and_no_token_of_an_answer_is_lost():
    """What does not fit into a batch is in a later one of the same epoch, whole."""
    draw = np.random.default_rng(4)
    examples = [Example([1000 + i] * int(draw.integers(1, 20)), [i] * int(draw.integers(1, 30))) for i in range(500)]
    batches = PackedBatches(examples, context=64, batch_tokens=200, steps=300, seed=2)
    learned = np.zeros(500, dtype=np.int64)
    prompts = np.zeros(500, dtype=np.int64)
    read = step = 0
    while sum(len(row) for batch in batches.plan[:step] for row in batch) < 500:
        batch = batches(step)
        targets = batch.targets[batch.targets != IGNORED].numpy()
        learned += np.bincount(targets, minlength=500)
        inputs = batch.inputs.numpy()
        prompts += np.bincount(inputs[inputs >= 1000] - 1000, minlength=500)
        read, step = read + batch.tokens, step + 1
    assert learned.tolist() == [len(example.target) for example in examples]
    assert prompts.tolist() == [len(example.prompt) for example in examples]
    assert read == sum(len(example) - 1 for example in examples)


def test_the_empty_places_are_counted_as_they_are_laid():
    assert empty_share([[[0, 1], [2]], [[3]]], np.array([3, 4, 5, 2])) == pytest.approx(2 / 16)
    draw = np.random.default_rng(5)
    examples = [Example([1] * int(draw.integers(20, 60)), [2] * int(draw.integers(20, 42))) for _ in range(1000)]
    batches = PackedBatches(examples, context=256, batch_tokens=1024, steps=60, seed=1)
    places = sum(batches(step).inputs.numel() for step in range(60))
    assert batches.empty == pytest.approx(1 - sum(batches(step).tokens for step in range(60)) / places)
    assert batches.empty < 0.04


def test_there_are_batches_past_the_steps_for_a_run_that_passed_over_some():
    examples = [Example([i], [i] * (3 + i % 9)) for i in range(50)]
    short, long = (PackedBatches(examples, context=24, batch_tokens=50, steps=steps, seed=0) for steps in (5, 100))
    for step in (4, 5, 6, 40):
        assert torch.equal(short(step).inputs, long(step).inputs)
