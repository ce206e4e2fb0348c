import errno
import multiprocessing
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_finetune import SKILL, write_base
from test_finetune import config as finetune_config
from test_skill_items import jsonl, skill, source
from tiny_training import (
    MODEL,
    VOCABULARY,
    history,
    learnable,
    pretrain_config,
    workspace,
    write_tokens,
)

from gptcore.config import Runtime
from gptcore.model.families import build
from gptcore.model.gpt import GPTConfig
from gptcore.model.weights import load_model
from gptcore.text.documents import SPLITS
from gptcore.text.skill_items import build_items
from gptcore.text.skill_rows import resolve_rows
from gptcore.training.batches import Batch
from gptcore.training.checkpoint import Checkpoints, Progress
from gptcore.training.checkpoint_names import MARKER, committed, latest_step
from gptcore.training.finetune import finetune
from gptcore.training.loop import Job, train
from gptcore.training.optimizer import build_optimizers
from gptcore.training.pretrain import pretrain
from gptcore.work import MetricLog, Work, read_metrics

# Without dropout, whose masks go by the pass; and of the family without biases: a key's bias shifts all scores of its
# row alike, so softmax leaves it no gradient but rounding, on which AdamW walks.
BIASLESS = MODEL.model_copy(update={"family": "modern", "dropout": 0.0})


INDUCTION = BIASLESS.model_copy(update={"n_head": 1, "dropout": 0.1})
"""Heads of 32, the narrowest that `pretrain.start` induction takes."""


def run_pretraining(root: Path, name: str, micro_batch_tokens: int | None = None, model=MODEL, **config) -> None:
    """What the killed process does."""
    work = workspace(root, name, micro_batch_tokens=micro_batch_tokens)
    pretrain(model, pretrain_config(steps=40, eval_every=10, **config), work)


def run_biasless(root: Path, name: str, micro_batch_tokens: int | None) -> None:
    """The same for results that are equal but for rounding."""
    run_pretraining(root, name, micro_batch_tokens, BIASLESS, learning_rate=1e-3)


def run_from_induction(root: Path, name: str, _: None) -> None:
    """The same from weights that two heads are laid into."""
    run_pretraining(root, name, model=INDUCTION, start="induction")


def run_finetuning(root: Path, name: str, _: None) -> None:
    """Fine-tuning on documents that stand once before all of their questions."""
    inputs, runtime = {stage: root / stage for stage in ("pretrain", "corpus")}, Runtime(threads=1, checkpoint_every=4)
    config = finetune_config(steps=24, eval_every=8, share_context=True)
    finetune(config, SKILL, Work(root / name, inputs, runtime))


def run_items(root: Path, name: str, _: None) -> None:
    """A skill's own data as items; two places of it."""
    places = [{**source(root / f"{place}.jsonl")} for place in "ab"]
    chosen = skill(data=places, apart=5)
    versions = [resolve_rows(place.source, root / name / "cache") for place in chosen.data]
    build_items(chosen, versions, Work(root / name))


def write_items(root: Path) -> None:
    """Their rows, some of them twice."""
    for place in "ab":
        draw = random.Random(place)
        rows = ({"input": " ".join(draw.choices(place + "cdefg", k=9)), "target": str(n)} for n in range(6000))
        jsonl(root / f"{place}.jsonl", list(rows))


class Killed:
    """Runs of a stage in processes that are killed at random instants of the time a whole one takes."""

    def __init__(self, root: Path, run=run_pretraining) -> None:
        self.root, self.runs, self.draw = root, run, random.Random(os.urandom(8))
        self.processes = multiprocessing.get_context("forkserver")
        # Imported once, for all of them; an optimizer imports torch._dynamo when it is made.
        self.processes.set_forkserver_preload(
            ["gptcore.training.pretrain", "torch._dynamo", "pytest", "test_checkpoint"]
        )
        warm = self.start("warm")
        warm.join()
        started = time.monotonic()
        whole = self.start("whole")
        whole.join()
        self.lasts = time.monotonic() - started
        assert (warm.exitcode, whole.exitcode) == (0, 0)

    def start(self, name, micro_batch_tokens=None):
        process = self.processes.Process(target=self.runs, args=(self.root, name, micro_batch_tokens))
        process.start()
        return process

    def run(self, name, most_kills, micro_batches=(None,)):
        """Run it to its end through kills, with each of the micro-batches in turn; how many kills there were."""
        kills, tries, exitcode = 0, 0, None
        while exitcode != 0:
            process = self.start(name, micro_batches[tries % len(micro_batches)])
            tries += 1
            if kills < most_kills:
                process.join(self.draw.uniform(0.1, 0.8) * self.lasts)
                if process.is_alive():
                    process.kill()
                    kills += 1
            process.join()
            exitcode = process.exitcode
            assert exitcode in (0, -9)
        return kills

    def at_least(self, kills, micro_batches=(None,), most_a_run=5):
        """Runs until so many kills hit; their names. Where the load falls meanwhile a run may end before its kill."""
        hits = []
        while sum(hits) < kills:
            assert len(hits) < 8 + kills, hits
            hits.append(self.run(f"killed-{len(hits)}", most_a_run, micro_batches))
        return [self.root / f"killed-{number}" for number in range(len(hits))]

    def leaves_no_trace(self, directory, files=("model.safetensors", "config.json")):
        """The same results to the bit, the same metrics, each once."""
        for file in files:
            assert (directory / file).read_bytes() == (self.root / "whole" / file).read_bytes()
        assert history(directory) == history(self.root / "whole")
        assert len({(step, key) for step, key, _ in history(directory)}) == len(history(directory))


@pytest.mark.parametrize("run", [run_pretraining, run_from_induction, run_finetuning])
def test_sigkill_at_random_instants_leaves_no_trace(run, tmp_path):
    if run is run_finetuning:
        write_base(tmp_path)
    killed = Killed(tmp_path, run)
    for directory in killed.at_least(3):
        killed.leaves_no_trace(directory)


def test_sigkill_while_items_are_made_leaves_no_trace(tmp_path):
    write_items(tmp_path)
    killed = Killed(tmp_path, run_items)
    for directory in killed.at_least(3):
        killed.leaves_no_trace(directory, ("counts.json", *(f"items/{split}.jsonl" for split in SPLITS)))


def test_sigkill_and_another_micro_batch_each_time(tmp_path):
    """Not to the bit then, but to rounding; the metrics' steps are the same."""
    killed = Killed(tmp_path, run_biasless)
    another_micro_batch_each_time(killed, 3)


def another_micro_batch_each_time(killed, kills, **more):
    expected = load_model(killed.root / "whole").state_dict()
    for directory in killed.at_least(kills, micro_batches=(None, 32, 64, 96), **more):
        for name, tensor in load_model(directory).state_dict().items():
            torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=0)
        places = [[entry[:2] for entry in history(path)] for path in (directory, killed.root / "whole")]
        assert places[0] == places[1]


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_sigkill_25_times_leaves_no_trace(tmp_path):
    killed = Killed(tmp_path)
    for directory in killed.at_least(25, most_a_run=25):
        killed.leaves_no_trace(directory)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_sigkill_25_times_and_another_micro_batch_each_time(tmp_path):
    another_micro_batch_each_time(Killed(tmp_path, run_biasless), 25, most_a_run=25)


@pytest.fixture
def state():
    """A model and its optimizers after an update."""
    return updated("gpt2", "adamw")


def updated(family, optimizer):
    model, optimizers = empty_state(family, optimizer)
    model(torch.tensor([[1, 2]]), torch.tensor([[2, 3]])).backward()
    optimizers.step(1.0)
    return model, optimizers


@pytest.fixture
def said():
    return []


@pytest.fixture
def checkpoints(tmp_path, said):
    return Checkpoints(tmp_path / "checkpoints", {"data": "a"}, said.append)


def at(step):
    return Progress(step=step, tokens=step * 128, seconds=1.5, metrics_position=0)


def empty_state(family="gpt2", optimizer="adamw"):
    shape = GPTConfig.of(MODEL.model_copy(update={"family": family}), VOCABULARY)
    model = build(shape).initialise(2)
    return model, build_optimizers(model, pretrain_config(optimizer=optimizer))


@pytest.mark.parametrize("kinds", [("gpt2", "adamw"), ("gpt2", "muon"), ("modern", "muon")], ids="-".join)
def test_a_checkpoint_holds_model_optimizers_random_state_and_place(checkpoints, kinds):
    model, optimizers = updated(*kinds)
    torch.manual_seed(5)
    checkpoints.save(model, optimizers, at(400))
    drawn = torch.rand(3)
    again, its_optimizers = empty_state(*kinds)
    assert checkpoints.restore(again, its_optimizers) == at(400)
    assert torch.equal(torch.rand(3), drawn)
    for ours, theirs in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    tensors, restored = optimizers.tensors(model), its_optimizers.tensors(again)
    assert {name.split(":")[0] for name in tensors} == {name for name, _ in model.named_parameters()}
    assert tensors.keys() == restored.keys() and all(torch.equal(tensors[name], restored[name]) for name in tensors)
    directory = checkpoints.root / "step-000400"
    assert {p.suffix for p in directory.iterdir()} == {".safetensors", ".json"}


def test_the_last_two_are_kept(checkpoints, state):
    for step in (5, 10, 15, 20):
        checkpoints.save(*state, at(step))
    assert [p.name for p in committed(checkpoints.root)] == ["step-000020", "step-000015"]
    assert latest_step(checkpoints.root) == 20


def test_nothing_to_restore(checkpoints, state, tmp_path):
    assert checkpoints.restore(*state) is None
    assert latest_step(checkpoints.root) is None
    assert latest_step(tmp_path / "nowhere") is None


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "truncated": lambda d: os.truncate(d / "model.safetensors", 1000),
    "emptied": lambda d: os.truncate(d / "optimizer.safetensors", 0),
    "a bit flipped": lambda d: flip(d / "optimizer.safetensors"),
    "a file gone": lambda d: (d / "random.safetensors").unlink(),
    "state cut": lambda d: os.truncate(d / "state.json", 3),
    "marker torn": lambda d: os.truncate(d / MARKER, 20),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_the_one_before_serves_when_the_newest_is_damaged(checkpoints, state, said, damage):
    checkpoints.save(*state, at(5))
    checkpoints.save(*state, at(10))
    damage(checkpoints.root / "step-000010")
    assert checkpoints.restore(*empty_state()) == at(5)
    assert len(said) == 1
    assert "step-000010 is damaged" in said[0]
    checkpoints.save(*state, at(10))  # its place is free again
    assert checkpoints.restore(*empty_state()) == at(10)


def test_a_run_goes_on_from_the_one_before_a_truncated_checkpoint(tmp_path):
    pretrain(MODEL, pretrain_config(), workspace(tmp_path, "whole"))
    config = pretrain_config()
    work = workspace(tmp_path, "damaged")

    class Cut(BaseException):
        pass

    def cut(done, *_, **__):
        if done >= 30:
            raise Cut

    work.on_progress = cut
    with pytest.raises(Cut):
        pretrain(MODEL, config, work)
    newest = committed(work.directory / "checkpoints")[0]
    os.truncate(newest / "model.safetensors", 5000)
    work = workspace(tmp_path, "damaged")
    pretrain(MODEL, config, work)
    assert any("is damaged" in line for line in work.said)
    assert history(tmp_path / "damaged") == history(tmp_path / "whole")
    assert (tmp_path / "damaged/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


def test_other_data_is_refused(tmp_path):
    pretrain(MODEL, pretrain_config(steps=6), workspace(tmp_path))
    (tmp_path / "tokens").rename(tmp_path / "before")
    write_tokens(tmp_path / "tokens", learnable(3000, 8), learnable(700, 2))
    with pytest.raises(ValueError, match=r"step-000006 was made with other tokens than this run's; remove"):
        pretrain(MODEL, pretrain_config(steps=6), workspace(tmp_path))


def test_leftovers_of_a_kill_are_swept(checkpoints, state, said):
    checkpoints.save(*state, at(5))
    (checkpoints.root / ".step-000010.part").mkdir()
    (checkpoints.root / ".step-000010.part" / "model.safetensors").write_bytes(b"half")
    half_removed = checkpoints.root / "step-000001"
    half_removed.mkdir()
    (half_removed / "state.json").write_text("{}")
    again = Checkpoints(checkpoints.root, {"data": "a"}, said.append)
    assert [p.name for p in again.root.iterdir()] == ["step-000005"]
    again.save(*state, at(10))


class Lid:
    """No file may grow past `size`: what a full disk looks like to whoever writes. EFBIG instead of ENOSPC."""

    def __init__(self):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def close(self, size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, self.before[1]))

    def open(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


@pytest.fixture
def lid():
    lid = Lid()
    yield lid
    lid.open()


def test_a_save_on_a_full_disk_leaves_the_last_good_one(checkpoints, state, lid):
    checkpoints.save(*state, at(5))
    lid.close(20_000)
    with pytest.raises(OSError) as refused:
        checkpoints.save(*state, at(10))
    lid.open()
    assert refused.value.errno == errno.EFBIG
    assert [p.name for p in checkpoints.root.iterdir()] == ["step-000005"]
    assert checkpoints.restore(*empty_state()) == at(5)


def test_training_goes_on_while_the_disk_is_full_and_saves_once_there_is_room(tmp_path, lid):
    model = build(GPTConfig.of(MODEL, VOCABULARY)).initialise(1)
    work = workspace(tmp_path, checkpoint_every=10)
    batch = torch.arange(33)[None]
    latest = {}

    def next_batch(step):
        latest[step] = latest_step(work.directory / "checkpoints")
        if step == 15:
            lid.close(20_000)
        if step == 23:
            lid.open()
        return Batch(batch[:, :-1], batch[:, 1:], 32)

    config = pretrain_config(steps=40)
    train(model, Job("pretrain", config, next_batch, lambda: {"val_loss": 1.0}, {}), work)
    assert latest[20] == latest[23] == 10  # the save of step 20 failed, and again at 21 and 22
    assert latest[24] == 24
    assert [line.split(" (")[0] for line in work.said] == [
        "no room for the checkpoint of step 20",
        "checkpoint of step 24 saved; there is room again",
    ]
    assert latest_step(work.directory / "checkpoints") == 40


def test_metrics_wait_in_memory_while_the_disk_is_full(tmp_path, lid):
    log = MetricLog(tmp_path / "metrics.jsonl")
    log.append({"loss": 1.0}, 1)
    lid.close((tmp_path / "metrics.jsonl").stat().st_size + 7)
    for step in (2, 3):
        log.append({"loss": 1.0}, step)
    assert [line["step"] for line in read_metrics(log.path)] == [1]
    with pytest.raises(OSError, match="too large"):
        log.position()
    lid.open()
    log.append({"loss": 1.0}, 4)
    assert [line["step"] for line in read_metrics(log.path)] == [1, 2, 3, 4]
    log.close()


def test_an_error_that_is_not_about_room_is_raised(tmp_path):
    model = build(GPTConfig.of(MODEL, VOCABULARY)).initialise(1)
    work = workspace(tmp_path, checkpoint_every=2)

    def next_batch(step):
        if step == 1:
            (work.directory / "checkpoints").rmdir()
        return Batch(torch.ones(1, 8, dtype=torch.long), torch.ones(1, 8, dtype=torch.long), 8)

    job = Job("pretrain", pretrain_config(), next_batch, lambda: {"val_loss": 1.0}, {})
    with pytest.raises(FileNotFoundError):
        train(model, job, work)


def test_the_latest_step_is_known_without_torch(tmp_path):
    code = "import sys; from gptcore.training.checkpoint_names import latest_step; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
