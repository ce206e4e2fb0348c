"""Several processes train what one trains: real ones, under torchrun, speaking gloo over loopback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from teams import STILL, losses, processes_of
from test_finetune import SKILL, write_base
from test_finetune import config as finetune_config
from tiny_training import MODEL, pretrain_config, workspace, write_tokens

from gptcore.config import EXECUTION_OF_TRAINING, Preset, Runtime, Training
from gptcore.model.gpt import GPTConfig
from gptcore.model.loss import IGNORED
from gptcore.presets import ConfigError, load_preset
from gptcore.stages import stages
from gptcore.training.batches import Batch, Example, lay
from gptcore.training.finetune import finetune
from gptcore.training.fitting import fitting
from gptcore.training.pretrain import pretrain
from gptcore.work import Work

pytestmark = pytest.mark.timeout(600)  # a launch imports torch three times, which takes long on a busy machine


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    config = pretrain_config(steps=50, eval_every=10)
    one, two = workspace(tmp_path, "one"), workspace(tmp_path, "two", micro_batch_tokens=32)
    shown = []
    two.on_progress = lambda done, total, unit, **values: shown.append((done, total, unit, values))
    pretrain(STILL, config, one)
    outcome = pretrain(STILL, config.model_copy(update={"devices": 2}), two)
    alone, together = losses(one.directory), losses(two.directory)
    assert len(alone) == 10 and together == pytest.approx(alone, abs=1e-5)
    assert outcome.results == ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
    assert all((two.directory / name).is_file() for name in outcome.results)
    assert outcome.notes == {"devices": 2, "parallel": "ddp"}
    assert outcome.metrics["pretrain/tokens"] == 50 * 128 and shown[-1][:3] == (50, 50, "step")
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize("how", [{}, {"packing": True, "method": "lora"}], ids=["padded", "packed-lora"])
def test_two_processes_fine_tune_what_one_fine_tunes(tmp_path: Path, how: dict[str, Any]) -> None:
    """Batches of unequal answers, padded or packed, and of odd numbers of rows: shares are uneven."""
    base = write_base(tmp_path / "base")

    def tuned(name: str, devices: int) -> dict[tuple[int, str], float]:
        runtime = Runtime(device="cpu", threads=1)
        work = Work(tmp_path / name, {"pretrain": base / "pretrain", "corpus": base / "corpus"}, runtime)
        finetune(finetune_config(steps=30, eval_every=10, devices=devices, **how), SKILL, work)
        work.metrics.close()
        return losses(work.directory)

    assert tuned("two", 2) == pytest.approx(tuned("one", 1), abs=1e-5)
    assert (tmp_path / "two/skill.json").read_bytes() == (tmp_path / "one/skill.json").read_bytes()


# What is refused, and what auto takes


@pytest.mark.parametrize(
    ("shape", "memory", "expected"),
    [
        (GPTConfig("gpt2", 12, 12, 768, 1024, 50257), 24e9, "ddp"),
        (GPTConfig("gpt2", 48, 25, 1600, 1024, 50257), 24e9, "fsdp"),  # 1.5 B parameters: 25 GB
        (GPTConfig("gpt2", 96, 96, 12288, 2048, 50257), 80e9, "fsdp"),  # GPT-3: a block's 1.8 B parameters pass
        (GPTConfig("gpt2", 96, 96, 12288, 2048, 50257), 24e9, "tensor"),
    ],
)
def test_auto_is_the_simplest_that_fits(shape: GPTConfig, memory: float, expected: str) -> None:
    assert fitting(shape, "adamw", memory) == expected


def test_an_adapter_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    work = Work(tmp_path / "run", {"pretrain": base / "pretrain", "corpus": base / "corpus"}, Runtime(device="cpu"))
    with pytest.raises(
        ValueError, match=r"finetune\.qa: method lora with parallel fsdp.* take parallel ddp, or method"
    ):
        finetune(finetune_config(method="lora", devices=2, parallel="fsdp"), SKILL, work)
    work.metrics.close()


def test_heads_that_cannot_be_shared_are_refused(tmp_path: Path) -> None:
    work = workspace(tmp_path)
    with pytest.raises(ValueError, match="devices 3 does not divide n_head 2; take"):
        pretrain(MODEL, pretrain_config(devices=3, parallel="tensor"), work)
    grouped = MODEL.model_copy(update={"family": "modern", "n_head": 4, "n_kv_head": 1})
    with pytest.raises(ValueError, match="devices 2 does not divide n_kv_head 1; take"):
        pretrain(grouped, pretrain_config(devices=2, parallel="tensor"), work)
    work.runtime = Runtime(nodes=2, rendezvous="localhost:1")
    with pytest.raises(ValueError, match=r"not runtime\.nodes 2"):
        pretrain(MODEL, pretrain_config(devices=2, parallel="tensor"), work)


def test_what_a_worker_refuses_is_refused_here(tmp_path: Path) -> None:
    work = workspace(tmp_path)
    write_tokens(tmp_path / "other", torch.arange(64).numpy(), torch.tensor([1, 299]).numpy())
    work.inputs = {**work.inputs, "tokens": tmp_path / "other"}
    with pytest.raises(ValueError, match=r"raise corpus\.validation_share"):
        pretrain(MODEL, pretrain_config(devices=2), work)
    assert processes_of(tmp_path) == []


# The share of a process


@pytest.mark.parametrize("of", [2, 3])
def test_the_shares_of_a_packed_batch_keep_their_examples_apart(of: int) -> None:
    rows = [[Example([1, 2], [3]), Example([4], [5, 6])], [Example([7, 8], [9])]]
    shares = [lay(rows).share(number, of) for number in range(of)]
    positions = torch.cat([share.positions for share in shares if share.positions is not None])
    assert positions[:2].tolist() == [[0, 1, 0, 1], [0, 1, 2, 3]]
    assert positions[2:].tolist() == [[0, 1, 2, 3]] * (of - 2), "empty rows hold one example that counts nothing"


@pytest.mark.parametrize("of", [1, 2, 3, 4])
def test_the_shares_of_a_batch_are_its_rows_and_of_one_size(of: int) -> None:
    ids = torch.arange(1, 16).view(5, 3)
    weights = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    batch = Batch(ids, ids + 1, 15, weights)
    shares = [batch.share(number, of) for number in range(of)]
    assert len({share.inputs.shape for share in shares}) == 1
    counted = torch.cat([share.targets for share in shares]) != IGNORED
    assert torch.equal(torch.cat([share.inputs for share in shares])[counted], ids.flatten())
    assert sum(share.weight for share in shares) == pytest.approx(batch.weight, rel=1e-6)


def test_how_a_model_is_shared_enters_no_key() -> None:
    assert set(Training.model_fields) > EXECUTION_OF_TRAINING
    one = load_preset("quickstart")
    two = load_preset("quickstart", ["pretrain.devices=2", "pretrain.parallel=fsdp", "finetune.qa.devices=2"])
    for name, stage in stages(one).items():
        assert stage.identity(one) == stage.identity(two), name


def test_rows_that_cannot_be_shared_evenly_are_refused() -> None:
    message = (
        r"pretrain\.devices 3 on runtime\.nodes 1 cannot share the 4 rows of a batch \(batch_tokens 1024 / context"
    )
    with pytest.raises(ConfigError, match=message):
        load_preset("quickstart", ["pretrain.devices=3"])
    assert isinstance(load_preset("quickstart", ["pretrain.devices=4"]), Preset)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("runtime={nodes: 2, rendezvous: 'a:1', node_rank: 2}", "node_rank 2 must be below nodes 2"),
        ("runtime={nodes: 2}", "nodes 2 need a rendezvous"),
        ("runtime={rendezvous: nowhere}", "rendezvous"),
    ],
)
def test_machines_that_could_not_meet_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_preset("quickstart", [override])
