"""What only a GPU can show; `make test-gpu` runs it."""

import hashlib
import os
import signal

import pytest
import torch
from tiny_training import MODEL, VOCABULARY, history, pretrain_config, workspace

from gptcore.model.families import build
from gptcore.model.gpt import GPTConfig
from gptcore.training.guard import Guard
from gptcore.training.optimizer import build_optimizers
from gptcore.training.pretrain import pretrain
from gptcore.work import Interrupted

pytestmark = pytest.mark.gpu
CONFIGS = [("gpt2", "adamw"), ("modern", "muon")]


def trained(work, family, optimizer):
    outcome = pretrain(MODEL.model_copy(update={"family": family}), pretrain_config(optimizer=optimizer), work)
    return outcome, hashlib.sha256((work.directory / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize(("family", "optimizer"), CONFIGS)
def test_the_same_bits_twice_and_after_a_stop(tmp_path, family, optimizer):
    whole = workspace(tmp_path, "whole", device="cuda")
    outcome, digest = trained(whole, family, optimizer)
    assert outcome.metrics["pretrain/val_loss"] < 4.0  # 300 tokens: 5.7 by chance
    stopped = workspace(tmp_path, "stopped", device="cuda")
    stopped.on_progress = lambda done, total, unit, **shown: os.kill(os.getpid(), signal.SIGTERM)
    with stopped.signals(), pytest.raises(Interrupted):
        trained(stopped, family, optimizer)
    again = workspace(tmp_path, "stopped", device="cuda")
    assert trained(again, family, optimizer)[1] == digest
    assert history(again.directory) == history(whole.directory)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own compiler uses it
def test_a_compiled_model_learns_the_same(tmp_path):
    plain, _ = trained(workspace(tmp_path, "plain", device="cuda"), "modern", "muon")
    compiled, _ = trained(workspace(tmp_path, "compiled", device="cuda", compile=True), "modern", "muon")
    key = "pretrain/val_loss"
    assert compiled.metrics[key] == pytest.approx(plain.metrics[key], abs=0.05)


def test_an_update_is_judged_without_waiting_for_the_gpu(tmp_path):
    config = pretrain_config(optimizer="muon")
    model = build(GPTConfig.of(MODEL.model_copy(update={"family": "modern"}), VOCABULARY)).initialise(1).to("cuda")
    optimizers, guard = build_optimizers(model, config), Guard(config, model.device)

    def update(step, share):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, share)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers.step(1.0, guard.judge(step, norm * 0 + 2, norm))

    update(0, 1.0)
    before = [parameter.clone() for parameter in model.parameters()]
    torch.cuda.set_sync_debug_mode("error")
    try:
        update(1, float("nan"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), before, strict=True))
    assert guard.skipped == 1
