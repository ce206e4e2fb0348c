import json

import pytest
import torch
from tiny_training import (
    MODEL,
    VOCABULARY,
    close_workspaces,
    history,
    learnable,
    pretrain_config,
    workspace,
    write_tokens,
)

from gptcore.config import Finetune, Pretrain
from gptcore.model.families import build
from gptcore.model.gpt import GPTConfig
from gptcore.model.weights import load_model
from gptcore.training import loop
from gptcore.training.checkpoint_names import committed
from gptcore.training.pretrain import pretrain
from gptcore.training.watch import GAP_WINDOW, GapLimits, Watch
from gptcore.work import Interrupted

MADE, SKIPPED = torch.tensor(0.0), torch.tensor(1.0)
BY_HEART = MODEL.model_copy(update={"dropout": 0.0})


@pytest.fixture(autouse=True)
def _closed(monkeypatch):
    monkeypatch.setattr(loop, "SHOW_EVERY_S", -1.0)  # progress at every step, so that tests can stop a run at any
    yield
    close_workspaces()


@pytest.fixture
def model():
    return build(GPTConfig.of(MODEL, VOCABULARY)).initialise(1)


def watch_of(said=None, gap=None, **changes):
    return Watch(pretrain_config(**changes), gap, [].append if said is None else said.append, torch.device("cpu"))


def fill(model, value):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


# Early stopping and the best model


def stops_at(losses, patience, model):
    """The number of the evaluation that stops the run, counted from 1, or None."""
    watch = watch_of(patience=patience)
    for number, loss in enumerate(losses, 1):
        watch.judge({"val_loss": loss}, number * 20, model)
        if watch.stop:
            return number
    return None


def test_a_run_stops_after_so_many_evaluations_without_a_new_best(model):
    losses = [3.0, 2.0, 2.5, 1.9, 1.9, 2.0, 1.95, 1.0]
    assert [stops_at(losses, patience, model) for patience in (1, 2, 3, 4, None)] == [3, 6, 7, None, None]
    assert stops_at([float("nan"), float("nan")], 2, model) == 2


def test_the_best_evaluations_weights_come_back(model):
    said = []
    watch = watch_of(said, keep_best=True)
    for step, loss in ((20, 3.0), (40, 2.0), (60, 2.5)):
        fill(model, float(step))
        watch.judge({"val_loss": loss, "other": loss + 1}, step, model)
    assert watch.final(model, 60) == {"val_loss": 2.0, "other": 3.0}
    assert all((parameter == 40).all() for parameter in model.parameters())
    assert said == ["the model of step 40 is kept (val_loss 2.0000); at step 60 it was 2.5000"]


def test_the_last_model_stays_where_it_is_the_best_or_the_best_is_not_kept(model):
    for keep_best, losses in ((True, (3.0, 2.0)), (False, (2.0, 3.0))):
        said = []
        watch = watch_of(said, keep_best=keep_best)
        for step, loss in zip((20, 40), losses, strict=True):
            fill(model, float(step))
            watch.judge({"val_loss": loss}, step, model)
        assert watch.final(model, 40) == {"val_loss": losses[-1]}
        assert all((parameter == 40).all() for parameter in model.parameters())
        assert said == []


def test_fine_tuning_keeps_the_best_and_pretraining_the_last():
    assert (Finetune().keep_best, Pretrain().keep_best) == (True, False)
    assert Finetune().patience is Pretrain().patience is None


# The gap


def test_the_gap_is_validation_less_the_mean_of_the_last_losses(model):
    watch = watch_of(gap=GapLimits())
    for _ in range(30):
        watch.trained(torch.tensor(100.0), MADE)  # before the window
    for number in range(GAP_WINDOW):
        watch.trained(torch.tensor(1.0 + number % 2), MADE)
    scores = watch.judge({"val_loss": 2.0, "val_bits_per_byte": 1.0}, 20, model)
    assert scores == {"val_loss": 2.0, "val_bits_per_byte": 1.0, "generalization_gap": 0.5}
    assert watch_of().judge({"val_loss": 2.0}, 20, model) == {"val_loss": 2.0}


def test_skipped_updates_do_not_count_in_the_gap(model):
    watch = watch_of(gap=GapLimits())
    watch.trained(torch.tensor(1.0), MADE)
    for bad in (torch.inf, 100.0):
        watch.trained(torch.tensor(bad), SKIPPED)
    again = watch_of(gap=GapLimits())
    again.restore(json.loads(json.dumps(watch.state())), {})
    for one in (watch, again):
        assert one.judge({"val_loss": 1.5}, 20, model)["generalization_gap"] == 0.5
        for _ in range(GAP_WINDOW - 1):
            one.trained(torch.tensor(2.0), MADE)  # the first one leaves the window with the skipped ones
        assert one.judge({"val_loss": 1.5}, 40, model)["generalization_gap"] == -0.5


def test_a_gap_that_opens_is_said_once_until_it_closes(model):
    said = []
    watch = watch_of(said, gap=GapLimits(warning=0.5))
    watch.trained(torch.tensor(1.0), MADE)
    for step, loss in enumerate((1.4, 1.6, 1.7, 1.4, 1.8)):
        watch.judge({"val_loss": loss}, step, model)
    assert [line.split(" above")[0] for line in said] == ["step 1: val_loss is 0.600", "step 4: val_loss is 0.800"]
    assert watch.stop is None


def test_a_gap_over_its_limit_ends_the_run(model):
    watch = watch_of(gap=GapLimits(stop=0.7))
    watch.trained(torch.tensor(1.0), MADE)
    watch.judge({"val_loss": 1.6}, 20, model)
    assert watch.stop is None
    watch.judge({"val_loss": 1.8}, 40, model)
    assert watch.stop == "val_loss is 0.800 above the training loss (gap_stop 0.7)"


def test_the_state_goes_through_json(model):
    watch = watch_of(gap=GapLimits(warning=0.1), patience=3, keep_best=True)
    watch.trained(torch.tensor(0.1 + 0.2), MADE)
    for step, loss in ((20, 1 / 3), (40, 0.9)):
        watch.judge({"val_loss": loss}, step, model)
    said = []
    again = watch_of(said, gap=GapLimits(warning=0.1), patience=3, keep_best=True)
    again.restore(json.loads(json.dumps(watch.state())), watch.best_weights)
    assert again.state() == watch.state()
    assert again.judge({"val_loss": 0.8}, 60, model) == watch.judge({"val_loss": 0.8}, 60, model)
    assert said == [], "the gap was open already"
    for one in (watch, again):
        one.judge({"val_loss": 0.8}, 80, model)
        assert one.stop == "no val_loss below that of step 20 in 3 evaluations"


# In a run


def run(root, name, on_progress=None, **changes):
    """Pretraining on 400 tokens, which the model soon knows by heart: validation is best at step 40."""
    if not (root / "tokens").exists():
        write_tokens(root / "tokens", learnable(400, 1), learnable(700, 2))
        (root / "tokenizer").mkdir()
        (root / "tokenizer/tokenizer.json").write_text("{}\n")
    work = workspace(root, name)
    if on_progress:
        work.on_progress = lambda done, *_, **__: on_progress(work, done)
    settings = {"steps": 200, "learning_rate": 1e-2, "patience": 2, "keep_best": True, **changes}
    return work, pretrain(BY_HEART, pretrain_config(**settings), work)


def test_a_run_that_learns_by_heart_stops_and_leaves_its_best_model(tmp_path):
    work, outcome = run(tmp_path, "run")
    losses = {step: value for step, key, value in history(work.directory) if key == "pretrain/val_loss"}
    assert list(losses) == [20, 40, 60, 80]
    assert min(losses, key=losses.__getitem__) == 40
    assert outcome.metrics["pretrain/val_loss"] == losses[40]
    assert outcome.metrics["pretrain/best_step"] == 40
    assert outcome.metrics["pretrain/tokens"] == 80 * 128
    assert [line.split(":")[0] for line in work.said] == [
        "step 60",  # the gap
        "stopped at step 80 of 200",
        "the model of step 40 is kept (val_loss " + f"{losses[40]:.4f}); at step 80 it was {losses[80]:.4f}",
    ]
    gaps = {step: value for step, key, value in history(work.directory) if key == "pretrain/generalization_gap"}
    assert list(gaps) == [20, 40, 60, 80] and gaps[80] > gaps[60] > 0.5 > gaps[40]
    _, short = run(tmp_path, "short", steps=200, patience=None, gap_stop=0.5, keep_best=False)
    assert short.metrics["pretrain/tokens"] == 60 * 128
    ours, theirs = load_model(work.directory), load_model(tmp_path / "short")
    assert not torch.equal(ours.head, theirs.head)


class Killed(BaseException):
    """Comes before the save, like SIGKILL: nothing after the last checkpoint is kept."""


@pytest.mark.parametrize("instants", [(22,), (39, 40), (41, 57, 62, 79), (40, 80)], ids=str)
def test_a_stopped_and_resumed_run_ends_with_the_same_model_and_history(tmp_path, instants):
    """Killed and interrupted in turn: before the best evaluation, right after it, and where the run would stop."""
    whole, expected = run(tmp_path, "whole")
    for number, instant in enumerate(instants):

        def stop(work, done, number=number, instant=instant):
            if done == instant:
                if number % 2:
                    work._pending = 15
                else:
                    raise Killed

        with pytest.raises((Killed, Interrupted)):
            run(tmp_path, "stopped", stop)
    work, outcome = run(tmp_path, "stopped")
    assert any(line.startswith("resuming at step") for line in work.said)
    assert (work.directory / "model.safetensors").read_bytes() == (whole.directory / "model.safetensors").read_bytes()
    assert history(work.directory) == history(whole.directory)
    timeless = [{k: v for k, v in o.metrics.items() if "per_second" not in k} for o in (outcome, expected)]
    assert timeless[0] == timeless[1]


def test_the_best_weights_are_part_of_a_checkpoint_and_verified_with_it(tmp_path):
    def stop(work, done):
        if done == 58:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path, "stopped", stop)
    newest, before = committed(tmp_path / "stopped/checkpoints")
    assert (newest.name, before.name) == ("step-000056", "step-000049")
    assert (newest / "best.safetensors").stat().st_size > 36_000 * 4
    data = bytearray((newest / "best.safetensors").read_bytes())
    data[-1] ^= 1
    (newest / "best.safetensors").write_bytes(data)
    work, _ = run(tmp_path, "stopped")
    assert any(f"{newest.name} is damaged (digest of best.safetensors)" in line for line in work.said)
    assert "resuming at step 49 of 200" in work.said
    whole, _ = run(tmp_path, "whole")
    assert (work.directory / "model.safetensors").read_bytes() == (whole.directory / "model.safetensors").read_bytes()
