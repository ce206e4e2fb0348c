import pytest
import torch
import torch.nn.functional as F
from tiny_training import MODEL, VOCABULARY, pretrain_config

from gptcore.model.families import build
from gptcore.model.gpt import GPTConfig
from gptcore.model.loss import IGNORED
from gptcore.text.skills import Item, Prompt
from gptcore.training.batches import Example, collate, lay
from gptcore.training.gradient import gradient
from gptcore.training.heldout import evaluate_examples
from gptcore.training.rows import Rows, beside_their_like

ROW = Example([5, 6, 7], [8, 9], (Example([1, 2], [3, 4, 9]), Example([1], [9])))


def item(name, context, group="a"):
    return Item(name, group, "type", {"context": context, "question": name}, "int")


def prompt(head, rest):
    return Prompt([*head, *rest], len(head), 0, len(head))


def test_items_about_one_text_stand_together_where_the_first_stood():
    found = [item("1", "x"), item("2", "y"), item("3", "x"), item("4", "x", group="b"), item("5", "y")]
    assert [i.id for i in beside_their_like(found, "context")] == ["1", "3", "2", "5", "4"]


def test_a_text_is_there_once_and_a_row_ends_where_the_room_does():
    rows = Rows(11)
    texts = [([5, 6, 7], [1, 2], [8, 9]), ([5, 6, 7], [1, 3], [7, 9]), ([5, 6, 7], [1, 4], [6, 9]), ([5], [1], [9])]
    taken = [rows.add(prompt(head, rest), target) for head, rest, target in texts]
    assert rows.examples == [
        Example([5, 6, 7, 1, 2], [8, 9], (Example([1, 3], [7, 9]),)),
        Example([5, 6, 7, 1, 4], [6, 9]),  # 4 more tokens make 15, of which the last is only a target: 14 are over 11
        Example([5, 1], [9]),
    ]
    assert (taken, rows.items) == ([7, 4, 7, 3], 4)
    assert sum(taken) == sum(map(len, rows.examples))


def test_without_sharing_every_item_has_its_row():
    rows = Rows(0)
    for _ in range(2):
        rows.add(prompt([5, 6], [1]), [9])
    assert rows.examples == [Example([5, 6, 1], [9])] * 2


def test_a_text_that_comes_last_is_never_shared():
    rows = Rows(100)
    for _ in range(2):
        rows.add(prompt([5, 6, 1], []), [9])
    assert rows.examples == [Example([5, 6, 1], [9])] * 2


def test_answers_of_a_row_are_targets_of_equal_weight_and_nothing_else_is():
    batch = collate([ROW, Example([4], [2])])
    assert batch.inputs[0].tolist() == [5, 6, 7, 8, 9, 1, 2, 3, 4, 9, 1]
    no = IGNORED
    assert batch.targets[0].tolist() == [no, no, 8, 9, no, no, 3, 4, 9, no, 9]
    assert batch.weights[0].tolist() == pytest.approx([0, 0, 0.5, 0.5, 0, 0, 1 / 3, 1 / 3, 1 / 3, 0, 1])
    assert (batch.tokens, batch.positions, batch.weight) == (12, None, pytest.approx(4))


@pytest.mark.parametrize("family", ["gpt2", "modern"])
def test_a_row_s_loss_is_that_of_each_answer_behind_all_before_it(family):
    model = build(GPTConfig.of(MODEL.model_copy(update={"family": family, "dropout": 0.0}), VOCABULARY)).initialise(1)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.empty(parameter.shape).normal_(0.0, 0.1, generator=draw))
    behind, each = [], []
    for turn in ROW.turns:
        behind += turn.prompt
        logits = model(torch.tensor([behind + turn.target]))[0, len(behind) - 1 : -1]
        each.append(F.cross_entropy(logits, torch.tensor(turn.target), reduction="none"))
        behind += turn.target
    expected = torch.stack([losses.mean() for losses in each]).mean()
    plain = torch.autograd.grad(expected, list(model.parameters()))
    config = pretrain_config(grad_clip=1e9)
    for batch in (collate([ROW]), lay([[ROW, ROW]])):  # alone, and packed beside itself
        model.zero_grad()
        loss, _ = gradient(model, model, batch, config, torch.float32, None)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        for parameter, gradient_of_it in zip(model.parameters(), plain, strict=True):
            torch.testing.assert_close(parameter.grad, gradient_of_it, atol=1e-5, rtol=1e-4)
    mean = torch.cat(each).mean().item()
    assert evaluate_examples(model, [ROW], torch.float32)["val_loss"] == pytest.approx(mean, rel=1e-5)
