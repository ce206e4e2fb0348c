import math
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_training import (
    MODEL,
    VOCABULARY,
    close_workspaces,
    history,
    inputs,
    learnable,
    pretrain_config,
    workspace,
    write_tokens,
)

from gptcore.config import Pretrain, Runtime
from gptcore.model.families import build
from gptcore.model.gpt import GPTConfig
from gptcore.model.loss import IGNORED
from gptcore.model.weights import load_model
from gptcore.shuffle import permute
from gptcore.text.token_shards import TokenShards
from gptcore.training import device
from gptcore.training.batches import Batch, Example, ExampleBatches, WindowBatches, collate, plan
from gptcore.training.checkpoint_names import latest_step
from gptcore.training.gradient import gradient
from gptcore.training.heldout import evaluate_examples, evaluate_text, held_out_windows
from gptcore.training.loop import Job, train
from gptcore.training.optimizer import build_optimizers
from gptcore.training.pretrain import pretrain
from gptcore.training.schedule import rate_share
from gptcore.work import Interrupted


@pytest.fixture(autouse=True)
def _closed():
    yield
    close_workspaces()


@pytest.fixture
def model():
    return build(GPTConfig.of(MODEL, VOCABULARY)).initialise(1)


# The schedule


def test_the_rate_warms_up_peaks_and_decays_to_its_floor():
    config = pretrain_config(steps=100, warmup_steps=10, min_lr_ratio=0.1)
    rates = [rate_share(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10] == max(rates) == 1.0
    assert rates[99] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rate_share(55, config.model_copy(update={"schedule": "linear"})) == pytest.approx(1 - 0.9 * 45 / 89)
    assert rate_share(99, config.model_copy(update={"schedule": "constant"})) == 1.0


def test_wsd_holds_the_peak_and_then_goes_down_in_a_line():
    config = pretrain_config(steps=100, warmup_steps=10, schedule="wsd", decay_share=0.4, min_lr_ratio=0.0)
    rates = [rate_share(step, config) for step in range(100)]
    assert rates[:10] == sorted(rates[:10]) and rates[9] < 1
    assert rates[10:61] == [1.0] * 51
    assert rates[60:] == pytest.approx(np.linspace(1, 0, 40).tolist())
    whole = config.model_copy(update={"decay_share": 1.0})  # begins when the warm-up has ended
    assert [rate_share(step, whole) for step in (9, 10, 99)] == pytest.approx([10 / 11, 1.0, 0.0])


# Batches


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1000, 4097])
def test_the_shuffle_is_a_permutation_for_every_key(size):
    shuffles = {tuple(permute(np.arange(size), size, key)) for key in range(5)}
    assert all(sorted(shuffle) == list(range(size)) for shuffle in shuffles)
    assert len(shuffles) == 5 or size < 10


def test_the_shuffle_leaves_no_order_behind():
    order = permute(np.arange(10_000), 10_000, 7)
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.05
    assert np.abs(np.diff(order)).mean() == pytest.approx(10_000 / 3, rel=0.05)


def test_each_epoch_reads_every_window_once_in_an_order_of_its_own(tmp_path):
    directory = write_tokens(tmp_path / "tokens", np.arange(32 * 10 + 1) % 250, np.arange(40))
    batches = WindowBatches(TokenShards.open(directory, "train"), context=32, batch_tokens=64, seed=1)
    epochs = [torch.cat([batches(step).inputs for step in range(e * 5, e * 5 + 5)]) for e in range(3)]
    every = {tuple(window) for window in (np.arange(320) % 250).reshape(10, 32).tolist()}
    for epoch in epochs:
        assert {tuple(row) for row in epoch.tolist()} == every
    assert not torch.equal(epochs[0], epochs[1])
    batch = batches(3)
    assert torch.equal(batch.targets[:, :-1], batch.inputs[:, 1:])
    assert torch.equal(batch.inputs, batches(3).inputs)
    assert batch.weight == batch.tokens == 64


def test_a_train_split_shorter_than_a_window_is_refused(tmp_path):
    directory = write_tokens(tmp_path / "tokens", np.arange(32), np.arange(40))
    with pytest.raises(ValueError, match=r"32 tokens; a context of 32 needs at least 33"):
        WindowBatches(TokenShards.open(directory, "train"), context=32, batch_tokens=64, seed=1)


def test_the_plan_takes_each_example_once_an_epoch_and_wastes_little_on_padding():
    lengths = np.random.default_rng(0).integers(5, 120, 2000)
    one_epoch = len(plan(lengths, 1024, 1, 3))
    assert one_epoch == 1
    batches = plan(lengths, 1024, 400, 3)
    count = next(n for n in range(len(batches)) if sum(map(len, batches[:n])) == 2000)
    assert sorted(np.concatenate(batches[:count])) == list(range(2000))
    padded = [lengths[batch].max() * len(batch) for batch in batches]
    assert max(padded) <= 1024
    assert sum(lengths[batch].sum() for batch in batches) / sum(padded) > 0.85
    assert all(np.array_equal(a, b) for a, b in zip(batches, plan(lengths, 1024, 400, 3), strict=True))
    first_epoch = [set(batch.tolist()) for batch in batches[:count]]
    assert not any(set(batch.tolist()) in first_epoch for batch in batches[count : 2 * count] if len(batch) > 1)


def test_an_example_over_the_batch_goes_alone():
    assert sorted(len(batch) for batch in plan(np.array([100, 3, 3]), 50, 2, 0)) == [1, 2]


# What is learned from what


def test_only_the_answer_is_a_target():
    batch = collate([Example([5, 6, 7], [8, 9]), Example([5], [1, 2, 3])])
    assert batch.inputs.tolist() == [[5, 6, 7, 8], [5, 1, 2, 0]]
    assert batch.targets.tolist() == [[IGNORED, IGNORED, 8, 9], [1, 2, 3, IGNORED]]
    assert batch.weights is not None
    assert torch.allclose(batch.weights.sum(1), torch.ones(2)), "every answer counts the same"
    assert (batch.weight, batch.tokens) == (pytest.approx(2), 7)


def test_the_prompts_tokens_carry_no_loss_and_padding_changes_nothing(model):
    """The loss of a padded batch is the mean of its answers' mean losses, each computed alone."""
    examples = [Example([5, 6, 7, 8, 9], [8, 9]), Example([5], [1, 2, 3]), Example([4, 4], [0])]
    model.eval()
    alone = []
    for example in examples:
        logits = model(torch.tensor([[*example.prompt, *example.target]]))[0]
        answer = logits[len(example.prompt) - 1 : -1]
        alone.append(F.cross_entropy(answer, torch.tensor(example.target), reduction="none"))
    expected = torch.cat(alone).mean().item()
    each_answer_alike = torch.stack([losses.mean() for losses in alone]).mean().item()
    assert evaluate_examples(model, examples, torch.float32)["val_loss"] == pytest.approx(expected, rel=1e-6)
    loss, _ = gradient_of(model, collate(examples))
    assert loss == pytest.approx(each_answer_alike, rel=1e-6)


def gradient_of(model, batch, micro_batch_tokens=None):
    model.zero_grad()
    found = gradient(model, model, batch, pretrain_config(grad_clip=1e9), torch.float32, micro_batch_tokens)
    return tuple(scalar.item() for scalar in found)


@pytest.mark.parametrize("masked", [False, True])
def test_micro_batches_add_up_to_the_same_gradient(model, masked):
    model.eval()
    ids = torch.randint(0, VOCABULARY, (8, 33), generator=torch.Generator().manual_seed(0))
    targets = ids[:, 1:].clone()
    if masked:  # uneven counts: a mean of means would differ
        for row in range(8):
            targets[row, : row * 4] = IGNORED
    batch = Batch(ids[:, :-1], targets, 256)
    whole_loss, whole_norm = gradient_of(model, batch)
    whole = [p.grad.clone() for p in model.parameters()]
    for micro in (32, 64, 100):
        loss, norm = gradient_of(model, batch, micro)
        assert (loss, norm) == (pytest.approx(whole_loss, abs=1e-5), pytest.approx(whole_norm, abs=1e-5))
        for ours, expected in zip(model.parameters(), whole, strict=True):
            torch.testing.assert_close(ours.grad, expected, atol=1e-5, rtol=1e-5)


def test_the_gradient_is_clipped_to_its_norm(model):
    batch = Batch(torch.ones(2, 8, dtype=torch.long), torch.ones(2, 8, dtype=torch.long), 16)
    _, norm = gradient(model, model, batch, pretrain_config(grad_clip=0.01), torch.float32, None)
    clipped = torch.sqrt(sum((p.grad**2).sum() for p in model.parameters()))
    assert norm > 0.1
    assert clipped.item() == pytest.approx(0.01, rel=1e-3)


def test_weight_decay_is_for_matrices_only(model):
    (adamw,) = build_optimizers(model, pretrain_config(weight_decay=0.3)).parts
    groups = adamw.param_groups
    assert [g["weight_decay"] for g in groups] == [0.3, 0.0]
    assert [{p.dim() for p in g["params"]} for g in groups] == [{2}, {1}]


# Held-out text


def test_bits_per_byte_count_bytes_of_text_only(model, tmp_path):
    ids = np.array([10, 20, 299, 30, 40, 50, 299, 60, 70], dtype=np.int64)  # 299: end of text, no bytes
    directory = write_tokens(tmp_path / "tokens", ids, ids)
    token_bytes = np.ones(VOCABULARY, dtype=np.int64)
    token_bytes[[30, 299]] = [4, 0]
    held_out = held_out_windows(TokenShards.open(directory, "validation"), token_bytes, 32, 1000)
    scores = evaluate_text(model, held_out, token_bytes, torch.float32)
    model.eval()
    nats = F.cross_entropy(model(torch.tensor(ids[None, :-1]))[0], torch.tensor(ids[1:]), reduction="none").detach()
    text = torch.tensor(ids[1:]) != 299
    assert scores["val_loss"] == pytest.approx(nats.mean().item(), rel=1e-5)
    assert scores["val_bits_per_byte"] == pytest.approx(nats[text].sum().item() / math.log(2) / (5 + 4), rel=1e-5)


def test_an_evaluation_reads_no_more_than_it_may_spread_over_the_split(tmp_path):
    directory = write_tokens(tmp_path / "tokens", np.arange(64), np.arange(32 * 20 + 1) % 250)
    seen = []
    shards = TokenShards.open(directory, "validation")

    class Watched:
        total = shards.total

        def window(self, start, length):
            seen.append(start // 32)
            return shards.window(start, length)

    held_out_windows(Watched(), np.ones(VOCABULARY, dtype=np.int64), 32, 32 * 5)
    assert seen == [0, 4, 8, 12, 16]


@pytest.mark.parametrize("ids", [[1], [1, 299]])
def test_a_validation_split_without_text_is_refused_before_any_step(tmp_path, ids):
    work = workspace(tmp_path)
    write_tokens(tmp_path / "other", np.arange(64), np.array(ids))
    work.inputs = {**work.inputs, "tokens": tmp_path / "other"}
    with pytest.raises(ValueError, match=r"raise corpus\.validation_share"):
        pretrain(MODEL, pretrain_config(), work)
    assert history(work.directory) == []


# The device


def test_the_peak_of_a_device_is_known_or_null(monkeypatch):
    gpu = torch.device("cuda")
    for name, peak in [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("Some new thing", None),
    ]:
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert device.peak_flops(gpu, torch.bfloat16) == peak
    assert device.peak_flops(torch.device("cpu"), torch.float32) is None
    assert device.peak_flops(gpu, torch.float32) is None


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"runtime\.device is cuda"):
        device.choose_device(Runtime(device="cuda"))
    assert device.choose_device(Runtime(device="auto")).type == "cpu"


def test_auto_is_float32_on_a_cpu_and_bfloat16_on_a_gpu():
    assert device.torch_dtype("auto", torch.device("cpu")) == torch.float32
    assert device.torch_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert device.torch_dtype("float32", torch.device("cuda")) == torch.float32


# The stage


def test_pretraining_learns_and_leaves_a_model_directory(tmp_path):
    work = workspace(tmp_path)
    shown = []
    work.on_progress = lambda done, total, unit, **values: shown.append((done, total, unit, values))
    outcome = pretrain(MODEL, pretrain_config(steps=150), work)
    assert outcome.results == ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
    assert all((work.directory / name).is_file() for name in outcome.results)
    assert outcome.metrics["pretrain/val_bits_per_byte"] < 4.5  # uniform over 300 ids: 8.2
    assert outcome.metrics["pretrain/tokens"] == 150 * 128
    assert outcome.metrics["pretrain/tokens_per_second"] > 0
    assert load_model(work.directory).config.n_layer == 2
    assert [p.name for p in (work.directory / "checkpoints").iterdir()] == ["step-000150"]

    logged = history(work.directory)
    assert [s for s, key, _ in logged if key == "pretrain/loss"] == list(range(10, 151, 10))
    assert [s for s, key, _ in logged if key == "pretrain/val_bits_per_byte"] == [20, 40, 60, 80, 100, 120, 140, 150]
    assert len({(s, key) for s, key, _ in logged}) == len(logged)
    last = {key: value for step, key, value in logged if step == 150}
    assert last["pretrain/val_bits_per_byte"] == outcome.metrics["pretrain/val_bits_per_byte"]
    assert not any("mfu" in key for _, key, _ in logged)  # a CPU's peak is not known
    assert shown[-1][:3] == (150, 150, "step")
    assert shown[-1][3]["loss"] == pytest.approx([v for _, key, v in logged if key == "pretrain/loss"][-1])


def test_the_seed_decides_everything(tmp_path):
    def weights(name, seed):
        work = workspace(tmp_path, name)
        pretrain(MODEL, pretrain_config(steps=12, seed=seed), work)
        return (work.directory / "model.safetensors").read_bytes()

    assert weights("a", 1) == weights("b", 1) != weights("c", 2)


def test_the_micro_batch_changes_nothing_but_rounding(tmp_path):
    still = MODEL.model_copy(update={"dropout": 0.0})
    for name, micro in (("whole", None), ("micro", 32)):
        work = workspace(tmp_path, name, micro_batch_tokens=micro)
        pretrain(still, pretrain_config(steps=20), work)
    whole, micro = (load_model(tmp_path / name).state_dict() for name in ("whole", "micro"))
    for name, tensor in whole.items():
        other = micro[name]
        if name.endswith("c_attn.bias"):
            # A key's bias shifts all its row's scores alike, so softmax leaves it no gradient: AdamW walks on rounding.
            tensor, other = (torch.cat([t.chunk(3)[0], t.chunk(3)[2]]) for t in (tensor, other))
        torch.testing.assert_close(other, tensor, atol=1e-5, rtol=1e-4)


def job_of(model, root, **changes):
    """A run of 40 updates without evaluation."""
    config = Pretrain(steps=40, batch_tokens=64, warmup_steps=2, eval_every=1000)
    batches = WindowBatches(TokenShards.open(inputs(root)["tokens"], "train"), 32, 64, 1)
    job = Job("pretrain", config, batches, lambda: {"val_loss": 1.0}, {"tokens": "x"})
    return replace(job, **changes)


def test_sigterm_saves_a_checkpoint_and_the_run_goes_on_from_it(model, tmp_path):
    def run(name, interrupt_at):
        fresh = build(model.config).initialise(1)
        work = workspace(tmp_path, name, checkpoint_every=1000)
        job = job_of(fresh, tmp_path)

        def next_batch(step):
            if step == interrupt_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return job.next_batch(step)

        with work.signals():
            train(fresh, replace(job, next_batch=next_batch), work)
        return fresh.state_dict()

    with pytest.raises(Interrupted) as stopped:
        run("stopped", 17)
    assert stopped.value.signum == signal.SIGTERM
    assert latest_step(tmp_path / "stopped/checkpoints") == 18
    resumed, whole = run("stopped", None), run("whole", None)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in resumed.items())
    assert history(tmp_path / "stopped") == history(tmp_path / "whole")


def test_a_signal_in_the_last_evaluation_still_stops_the_run(model, tmp_path):
    work = workspace(tmp_path)

    def evaluate():
        os.kill(os.getpid(), signal.SIGINT)
        return {"val_loss": 1.0}

    with work.signals(), pytest.raises(Interrupted):
        train(model, job_of(model, tmp_path, evaluate=evaluate), work)
    assert latest_step(work.directory / "checkpoints") == 40


def test_learnable_text_is_learnable():
    ids = learnable(1000, 0)
    assert 0.8 < np.mean((ids[:-1] * 7 + 3) % 61 == ids[1:]) < 0.95


def test_examples_are_collated_by_plan():
    examples = [Example([i], [i, i]) for i in range(10)]
    batches = ExampleBatches(examples, batch_tokens=9, steps=4, seed=0)
    assert batches(2).inputs.shape == (3, 2)
    longer = ExampleBatches(examples, batch_tokens=9, steps=40, seed=0)
    for step in (3, 4, 5, 39):  # past its steps too, for a run that passed over some
        assert torch.equal(batches(step).inputs, longer(step).inputs)
