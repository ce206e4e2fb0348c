"""What only a GPU can show; `make test-gpu` runs it."""

import hashlib
import os
import signal

import pytest
from tiny_training import MODEL, close_workspaces, history, pretrain_config, workspace

from gptcore.training.pretrain import pretrain
from gptcore.work import Interrupted

pytestmark = pytest.mark.gpu
CONFIGS = [("gpt2", "adamw"), ("modern", "muon")]


@pytest.fixture(autouse=True)
def _closed():
    yield
    close_workspaces()


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
