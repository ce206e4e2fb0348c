"""Bad numbers: the update is skipped, a series of them sends the run back, and a kill changes none of it."""

import json
import math
import os
import signal
import time
from collections import Counter
from dataclasses import replace

import pytest
import torch
from mlflow_fixtures import facts, new_tracker
from tiny_training import MODEL, VOCABULARY, history, inputs, pretrain_config, workspace

from gptcore.config import Runtime
from gptcore.model.families import build
from gptcore.model.gpt import GPTConfig
from gptcore.text.token_shards import TokenShards
from gptcore.training.batches import Batch, Example, ExampleBatches, WindowBatches
from gptcore.training.checkpoint import Checkpoints, Progress
from gptcore.training.checkpoint_names import committed
from gptcore.training.gradient import gradient
from gptcore.training.guard import Diverged, Guard, NotFinite, Skip
from gptcore.training.loop import Job, train
from gptcore.training.optimizer import build_optimizers
from gptcore.training.pretrain import pretrain
from gptcore.training.rollback import good_before, needed
from gptcore.work import Interrupted, read_metrics

KINDS = [("gpt2", "adamw"), ("modern", "muon")]


def new_model(family="gpt2"):
    return build(GPTConfig.of(MODEL.model_copy(update={"family": family}), VOCABULARY)).initialise(1)


def batches_of(root):
    return WindowBatches(TokenShards.open(inputs(root)["tokens"], "train"), 32, 128, 1)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Nothing(Batch):
    """Its loss is divided by no weight at all."""

    weight = 0.0


def nan(batch):
    return replace(batch, weights=torch.full(batch.targets.shape, math.nan))


def inf(batch):
    return Nothing(batch.inputs, batch.targets, batch.tokens)


def noise(batch):
    """Tokens that follow each other by no rule: a spike for whoever has learned one."""
    ids = torch.randint(0, VOCABULARY, (4, 33), generator=torch.Generator().manual_seed(int(batch.inputs.sum())))
    return Batch(ids[:, :-1], ids[:, 1:], 128)


FAULTS = [nan, inf, noise]


# One update


class Updates:
    """Updates one by one, without a loop around them."""

    def __init__(self, family, optimizer):
        self.config = pretrain_config(optimizer=optimizer, spike_window=16)
        self.model = new_model(family)
        self.optimizers, self.guard = build_optimizers(self.model, self.config), Guard(self.config, self.model.device)
        self.done = 0

    def update(self, batch, hurt=1.0):
        """Whether it was skipped."""
        loss, norm = gradient(self.model, self.model, batch, self.config, torch.float32, None)
        skip = self.guard.judge(self.done, loss, norm * hurt)
        self.optimizers.step(1.0, skip)
        self.done += 1
        return bool(skip)

    def state(self):
        """Weights, optimizers' state and what the next update is measured against, as they are now."""
        window = {name: self.guard.tensors()[name] for name in ("window", "made")}
        tensors = {**self.model.state_dict(), **self.optimizers.tensors(self.model), **window}
        return {name: tensor.clone() for name, tensor in tensors.items()}


@pytest.mark.parametrize("fault", [*FAULTS, "norm"], ids=["nan", "inf", "noise", "norm"])
@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_a_bad_update_leaves_no_trace_and_the_next_is_as_if_it_had_not_been(tmp_path, kinds, fault):
    batches = batches_of(tmp_path)
    hurt, well = Updates(*kinds), Updates(*kinds)
    for updates in (hurt, well):
        torch.manual_seed(1)  # dropout
        assert not any([updates.update(batches(step)) for step in range(60)])
    before = hurt.state()
    assert hurt.update(batches(60), 100.0) if fault == "norm" else hurt.update(fault(batches(60)))
    assert same(before, hurt.state()) and same(before, well.state())
    (skip,) = hurt.guard.skips(61)
    assert (skip.step, skip.finite, hurt.guard.skipped) == (61, fault not in (nan, inf), 1)
    for updates in (hurt, well):
        torch.manual_seed(2)  # the bad one used up a mask
        assert not any([updates.update(batches(step)) for step in range(60, 70)])
    assert same(hurt.state(), well.state())
    assert not same(hurt.state(), before)


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_the_very_first_update_may_be_bad(tmp_path, kinds):
    updates, batches = Updates(*kinds), batches_of(tmp_path)
    first = {name: tensor.clone() for name, tensor in updates.model.state_dict().items()}
    assert updates.update(nan(batches(0)))
    assert same(first, updates.model.state_dict())
    assert not updates.update(batches(1))
    assert all(torch.isfinite(tensor).all() for tensor in updates.state().values())


def judged(values, **changes):
    """The verdicts on a row of (loss, norm)."""
    guard = Guard(pretrain_config(**changes), torch.device("cpu"))
    return [
        bool(guard.judge(step, torch.tensor(loss), torch.tensor(norm))) for step, (loss, norm) in enumerate(values)
    ], guard


def test_only_a_rise_is_a_spike():
    calm = [(3.0 + 0.1 * math.sin(step), 1.0) for step in range(64)]
    verdicts, _ = judged([*calm, (0.5, 1.0), (3.0, 1e-6), (3.0, 0.0)])
    assert not any(verdicts)
    verdicts, guard = judged([*calm, (3.9, 1.0), (3.0, 4.0)])
    assert verdicts == [False] * 64 + [True, True]
    loss, norm = guard.skips(66)
    assert str(loss).startswith("loss is 3.9 at step 65, and its limit 3.4")
    assert str(norm) == "gradient norm is 4 at step 66, and its limit 3.32"  # exp(6 * 0.2)


def test_nothing_is_a_spike_before_half_the_window_is_known():
    wild = [(3.0, 1.0)] * 63 + [(90.0, 1e9)]
    assert not any(judged(wild)[0])
    assert judged([(3.0, 1.0), *wild])[0][-1]


def test_the_noise_of_a_flat_window_is_none():
    flat = [(2.0, 1.0)] * 100
    assert not any(judged([*flat, (2.1, 3.0)])[0])


def test_a_gradient_that_is_not_clipped_is_no_spike():
    calm = [(3.0, 0.01)] * 100
    assert judged([*calm, (3.0, 1.9), (3.0, 2.1)], grad_clip=2.0)[0] == [False] * 101 + [True]


def test_a_hard_batch_of_fine_tuning_is_no_spike():
    """Losses of few answers a batch are about log-normal: mostly near 1, now and then 3 or 4."""
    random = torch.Generator().manual_seed(0)
    losses = torch.empty(2000).log_normal_(0.0, 0.4, generator=random)
    assert losses.max() > 3.5
    assert not any(judged([(loss, 1.0) for loss in losses.tolist()])[0])


def test_spikes_pass_where_they_are_not_looked_for():
    verdicts, _ = judged([(3.0, 1.0)] * 200 + [(90.0, 1e9), (math.nan, 1.0), (1.0, math.inf)], spike_z=None)
    assert verdicts == [False] * 201 + [True, True]


def test_a_higher_level_is_reached_step_by_step():
    """The window follows what it lets in; a run whose loss rises slowly is not stopped."""
    assert not any(judged([(3.0 + step / 500 + 0.02 * (-1) ** step, 1.0) for step in range(500)])[0])


# The run


class Cut(BaseException):
    """Stands for a kill."""


CONFIG = {"steps": 70, "spike_window": 16, "most_skips": 3, "eval_every": 20}


def run(root, name, bad=(), fault=nan, cut_at=(), stop_at=(), asked=None, **changes):
    """Train on batches of which some are bad; cut, or stopped by SIGTERM, when so many were asked for."""
    count, cuts, stops = 0, set(cut_at), set(stop_at)
    batches = batches_of(root)

    def next_batch(index):
        nonlocal count
        count += 1
        if asked is not None:
            asked.append(index)
        if count in cuts:
            raise Cut
        if count in stops:
            os.kill(os.getpid(), signal.SIGTERM)
        return fault(batches(index)) if index in bad else batches(index)

    work = workspace(root, name, checkpoint_every=5)
    config = pretrain_config(**{**CONFIG, **changes})
    while True:
        model = new_model()
        job = Job("pretrain", config, next_batch, lambda: {"val_loss": 1.0}, {"data": "a"})
        try:
            with work.signals():
                train(model, job, work)
        except (Cut, Interrupted):
            said, work = work.said, workspace(root, name, checkpoint_every=5)
            work.said[:0] = said
            continue
        return model.state_dict(), work


def progress(work):
    return json.loads((committed(work.directory / "checkpoints")[0] / "state.json").read_text())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_single_bad_batch_costs_one_update(tmp_path, fault):
    asked = []
    weights, work = run(tmp_path, "hurt", {42}, fault, asked=asked)
    assert asked == [*range(70)]
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    said = {nan: "loss is nan at step 43", inf: "loss is inf at step 43", noise: r"loss is "}[fault]
    assert [line.startswith(said) for line in work.said] == [True], work.said
    assert work.said[0].endswith("; 1 of the last 16 updates were skipped")
    logged = {(step, value) for step, key, value in history(work.directory) if key == "pretrain/skipped_updates"}
    assert logged == {(50, 1.0), (60, 1.0), (70, 1.0)}
    assert not any(math.isnan(value) for _, _, value in history(work.directory))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_series_sends_the_run_back_and_past_its_data(tmp_path, fault):
    asked = []
    weights, work = run(tmp_path, "hurt", {41, 43, 46}, fault, asked=asked)
    assert asked == [*range(50), *range(50, 80)], "the updates after 40 once more, with what comes after"
    (line,) = work.said
    assert line.endswith(
        "; 3 of the last 16 updates were skipped: back to the checkpoint of step 40, and 10 batches are passed over"
    )
    assert (progress(work)["passed_over"], progress(work)["rollbacks"]) == (10, 1)
    steps = [line["step"] for line in read_metrics(work.directory / "metrics.jsonl") if "pretrain/loss" in line["m"]]
    assert steps == [10, 20, 30, 40, 50, 60, 70]
    evaluated = [step for step, key, _ in history(work.directory) if key == "pretrain/val_loss"]
    assert evaluated == [20, 40, 60, 70]

    def told(index):  # the very run that never met the stretch
        return index if index < 40 else index + 10

    batches = batches_of(tmp_path)
    model, other = new_model(), workspace(tmp_path, "spared", checkpoint_every=5)
    spared = Job("pretrain", pretrain_config(**CONFIG), lambda i: batches(told(i)), lambda: {"val_loss": 1.0}, {})
    train(model, spared, other)
    assert same(weights, model.state_dict())


BAD = {23, 41, 43, 46, 51, 54, 58, 59}
"""A skip; a series; and one more as soon as the run is past it."""


@pytest.mark.parametrize("fault", [nan, noise])
def test_cut_or_stopped_anywhere_a_run_takes_the_same_decisions(tmp_path, fault):
    whole, unbroken = run(tmp_path, "whole", BAD, fault)
    assert progress(unbroken)["rollbacks"] == 2 and progress(unbroken)["passed_over"] > 10
    cuts = {
        "in the series": {"cut_at": [45]},
        "just after going back": {"cut_at": [51, 52]},
        "again and again": {"cut_at": range(13, 400, 13)},
        "stopped before it": {"stop_at": [39, 41]},
        "stopped in it": {"stop_at": [44, 47]},
        "stopped again and again": {"stop_at": range(11, 400, 11)},
    }
    for name, cut in cuts.items():
        weights, work = run(tmp_path, name, BAD, fault, **cut)
        assert same(weights, whole), name
        assert history(work.directory) == history(unbroken.directory), name
        assert {k: progress(work)[k] for k in ("passed_over", "rollbacks", "tokens")} == {
            k: progress(unbroken)[k] for k in ("passed_over", "rollbacks", "tokens")
        }


@pytest.mark.parametrize(("fault", "error"), [(nan, NotFinite), (noise, Diverged)])
def test_a_run_that_cannot_get_past_fails_and_says_what_to_do(tmp_path, fault, error):
    asked = []
    with pytest.raises(error) as failed:
        run(tmp_path, "hurt", range(41, 1000), fault, asked=asked, most_rollbacks=2)
    assert (failed.type is NotFinite) == (error is NotFinite)
    assert len(asked) == 50 + 10 + 10
    message = str(failed.value)
    assert "the run went back 2 times already" in message and "step-000040; try a lower learning_rate" in message
    assert ("spike_z" in message) == (error is Diverged)
    with pytest.raises(error):  # the same command meets the same
        run(tmp_path, "hurt", range(41, 1000), fault, most_rollbacks=2)


def test_without_a_checkpoint_there_is_nowhere_to_go_back_to(tmp_path):
    model = new_model()
    first = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batches = batches_of(tmp_path)
    job = Job("pretrain", pretrain_config(**CONFIG), lambda i: nan(batches(i)), lambda: {"val_loss": 1.0}, {})
    with pytest.raises(NotFinite, match=r"loss is nan at step 1; 10 of .* no checkpoint yet from before; try a lower"):
        train(model, job, workspace(tmp_path, checkpoint_every=100))
    assert same(first, model.state_dict())


def test_fine_tuning_has_batches_for_those_it_passes_over(tmp_path):
    """Two epochs and no more are planned; the run goes on into the third."""
    examples = [Example([i % 50, 7], [(i + 3) % 50, 9]) for i in range(90)]
    config = pretrain_config(**CONFIG)
    tuned = ExampleBatches(examples, 8, config.steps, config.seed)
    bad = {61, 63, 66, 67}
    job = Job("tune", config, lambda i: nan(tuned(i)) if i in bad else tuned(i), lambda: {"val_loss": 1.0}, {})
    work = workspace(tmp_path, checkpoint_every=5)
    train(new_model(), job, work)
    assert progress(work)["passed_over"] == 10 and len(tuned.plan) > config.steps


@pytest.mark.parametrize(
    ("family", "optimizer", "batch_tokens", "learning_rate"),
    [("gpt2", "adamw", 32, 1e-2), ("gpt2", "adamw", 128, 3e-3), ("modern", "muon", 1024, 3e-3)],
)
def test_an_ordinary_run_skips_nothing(tmp_path, family, optimizer, batch_tokens, learning_rate):
    """From one noisy row an update to quickstart's 1,024 tokens."""
    work = workspace(tmp_path, checkpoint_every=1000)
    config = pretrain_config(
        steps=200, optimizer=optimizer, batch_tokens=batch_tokens, learning_rate=learning_rate, eval_every=1000
    )
    pretrain(MODEL.model_copy(update={"family": family}), config, work)
    assert not any("skipped" in line for line in work.said)
    assert not any("skipped" in key for _, key, _ in history(work.directory))


def test_mlflow_gets_each_step_once_though_the_log_was_rewound(tmp_path):
    tracker = new_tracker(tmp_path / "home")
    sending = tracker.open_stage(tracker.open_parent("p", "n", {}, {}), facts(), interval=0.02)
    batches, asked = batches_of(tmp_path), []

    def next_batch(index):
        asked.append(index)
        if index == 49:  # what will be forgotten is sent by then
            deadline = time.monotonic() + 20
            while 40 not in sent("pretrain/loss") and time.monotonic() < deadline:
                time.sleep(0.02)
            assert 40 in sent("pretrain/loss")
        return nan(batches(index)) if index in (36, 41, 43, 46) else batches(index)

    def sent(key):
        return [metric.step for metric in tracker.client.get_metric_history(sending.run_id, key)]

    work = workspace(tmp_path, checkpoint_every=15)
    sending.follow(work.directory / "metrics.jsonl")
    train(new_model(), Job("pretrain", pretrain_config(**CONFIG), next_batch, lambda: {"val_loss": 1.0}, {}), work)
    assert max(asked) > 70
    assert sending.finish("FINISHED")
    logged = Counter((step, key) for step, key, _ in history(work.directory))
    assert set(logged.values()) == {1}
    for key in ("pretrain/loss", "pretrain/val_loss"):
        assert sent(key) == [step for step, name in logged if name == key]


# Which checkpoints stay


def skip(step):
    return Skip(step, math.nan, 1.0, math.inf, math.inf)


def test_the_schedules_checkpoints_come_before_those_of_a_signal():
    every = Runtime(checkpoint_every=10, milestone_every=25)
    assert good_before(38, [10, 25, 30, 33], every) == 30
    assert good_before(26, [10, 20, 25], every) == 25
    assert good_before(30, [10, 20, 30], every) == 20, "the one of the skipped update is not from before"
    assert good_before(38, [33], every) == 33, "better than none"
    assert good_before(7, [10, 20], every) is None


def test_a_checkpoint_to_go_back_to_outlives_newer_ones(tmp_path):
    """Every skip that still counts keeps the one before it; so does the next, which nobody knows yet."""
    every = Runtime(checkpoint_every=10)
    assert needed([10, 20, 30, 31, 32], [skip(15), skip(28)], every) == {10, 20, 30}
    checkpoints, model = Checkpoints(tmp_path, {}, print), new_model()
    optimizers, guard = build_optimizers(model, pretrain_config()), Guard(pretrain_config(), torch.device("cpu"))
    for step in (10, 20, 30, 31, 32):
        kept = needed({*checkpoints.steps(), step}, [skip(15)] if step > 15 else [], every)
        checkpoints.save(model, optimizers, Progress(step, 0, 0.0, 0), guard, needed=kept)
    assert checkpoints.steps() == [32, 31, 30, 10]
    checkpoints.drop_after(10)
    assert checkpoints.steps() == [10]


def test_milestones_are_kept_for_good(tmp_path):
    work = workspace(tmp_path, checkpoint_every=10, milestone_every=16)
    pretrain(MODEL, pretrain_config(steps=60), work)
    assert [path.name for path in committed(work.directory / "checkpoints")] == [
        "step-000060",
        "step-000048",
        "step-000032",
        "step-000016",
    ]
    plain = workspace(tmp_path, "plain", checkpoint_every=10)
    pretrain(MODEL, pretrain_config(steps=60), plain)
    assert (work.directory / "model.safetensors").read_bytes() == (plain.directory / "model.safetensors").read_bytes()
    assert len(committed(plain.directory / "checkpoints")) == 1
