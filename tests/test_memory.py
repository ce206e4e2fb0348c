"""Memory that does not suffice: real limits, in processes of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_training import MODEL, VOCABULARY, history, inputs, pretrain_config, workspace

from gptcore.model.families import build
from gptcore.model.gpt import GPTConfig
from gptcore.model.weights import load_model
from gptcore.text.token_shards import TokenShards
from gptcore.training.batches import WindowBatches
from gptcore.training.launch import _error
from gptcore.training.loop import Job, train
from gptcore.training.memory import Passes, TooLarge, is_out_of_memory
from gptcore.training.team import Team

PROCESS = """
import json, re, resource, sys
from pathlib import Path
import torch, torch._dynamo
from tiny_training import MODEL, pretrain_config, workspace
from gptcore.training.pretrain import pretrain

def size(name):
    return int(re.search(rf"^{name}:\\s+(\\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)[1]) * 1024

root, name, micro, rows, more = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
# No dropout, and the family without biases: a key's bias has no gradient but rounding, on which AdamW walks.
shape = MODEL.model_copy(update={"family": "modern", "dropout": 0.0})
work = workspace(root, name, micro_batch_tokens=micro or None)
before = size("VmSize")
if more:
    resource.setrlimit(resource.RLIMIT_AS, (before + more, resource.RLIM_INFINITY))
problem = None
try:
    pretrain(shape, pretrain_config(steps=4, warmup_steps=1, batch_tokens=rows * 32, eval_every=100), work)
except RuntimeError as error:
    problem = f"{type(error).__name__}: {error}"
print(json.dumps({"problem": problem, "said": work.said, "peak": size("VmPeak") - before}))
"""
ROWS = 1024


def trained(root, name, micro=0, rows=ROWS, more=0):
    """A run of its own process, under a limit of `more` bytes where it is not 0; what it says of itself."""
    command = [sys.executable, "-c", PROCESS, root, name, micro, rows, more]
    done = subprocess.run(
        [str(word) for word in command], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_micro_batch_halves_where_memory_is_limited_and_the_weights_are_the_same(tmp_path):
    inputs(tmp_path)
    small = trained(tmp_path, "small", micro=ROWS // 2 * 32)
    assert (small["problem"], small["said"]) == (None, [])
    limited = trained(tmp_path, "limited", micro=ROWS * 32, more=round(1.25 * small["peak"]))
    assert limited["problem"] is None
    assert limited["said"] == [f"out of memory with {ROWS * 32} tokens in a pass; going on with {ROWS * 16}"]
    logged = [value for _, key, value in history(tmp_path / "limited") if key == "pretrain/micro_batch_tokens"]
    assert logged == [ROWS * 16.0]
    ours, expected = (load_model(tmp_path / name).state_dict() for name in ("limited", "small"))
    for name, tensor in expected.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-5, rtol=0)


# Below, a model that asks the allocator for more than there is when it is given too many rows.


def narrow(rows, after=0):
    """A model that takes so many rows at once, from its call `after` on."""
    model = build(GPTConfig.of(MODEL, VOCABULARY)).initialise(1)
    forward, calls = model.forward, 0

    def limited(ids, *arguments, **more):
        nonlocal calls
        calls += 1
        losses = forward(ids, *arguments, **more)
        if len(ids) > rows and calls > after:
            torch.empty(1 << 50)
        return losses

    model.forward = limited
    return model


def batches_of(root):
    return WindowBatches(TokenShards.open(inputs(root)["tokens"], "train"), 32, 7 * 32, 1)


def gradients(model, passes, batch):
    torch.manual_seed(3)
    loss, _ = passes.gradient(model, model, batch, pretrain_config(), torch.float32, 1)
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    return {**found, "loss": loss, "next random number": torch.rand(1)}


def test_the_allocators_own_words_are_known():
    with pytest.raises(RuntimeError) as refused:
        torch.empty(1 << 50)
    assert is_out_of_memory(refused.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory")) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not fit")) and not is_out_of_memory(ValueError())


def test_the_second_try_knows_nothing_of_the_first(tmp_path):
    """Dropout's masks and the gradients are those of a run that began with the smaller passes."""
    batch = batches_of(tmp_path)(0)
    work = workspace(tmp_path)
    tried = Passes("pretrain", 4 * 32, work)
    found = gradients(narrow(2, after=1), tried, batch)  # its first pass of four rows fits, the second fails
    expected = gradients(narrow(7), Passes("pretrain", 2 * 32, work), batch)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert tried.found == 64
    assert work.said == ["out of memory with 128 tokens in a pass; going on with 64"]


@pytest.mark.parametrize("asked", [None, 10_000, 96])
def test_one_row_at_a_time_is_the_last_resort(tmp_path, asked):
    work = workspace(tmp_path)
    passes = Passes("pretrain", asked, work)
    passes.gradient(narrow(1), narrow(1), batches_of(tmp_path)(0), pretrain_config(), torch.float32, 5)
    assert passes.found == 32
    assert [value for _, _, value in history(work.directory)] == ([64, 32] if asked == 96 else [128, 64, 32])
    with pytest.raises(
        TooLarge, match=r"one sequence of 32 tokens does not fit the memory of the cpu.*shorter context"
    ):
        passes.gradient(narrow(0), narrow(0), batches_of(tmp_path)(0), pretrain_config(), torch.float32, 5)


def test_one_of_several_processes_does_not_try_again(tmp_path):
    """The others are in the middle of the same update: it ends with what to set."""
    team = Team()
    team.rank, team.size = 1, 2
    work = workspace(tmp_path)
    passes = Passes("pretrain", 4 * 32, work, team)
    message = r"out of memory in process 1 with 128 tokens in a pass.* set runtime\.micro_batch_tokens below 128"
    with pytest.raises(TooLarge, match=message):
        passes.gradient(narrow(2), narrow(2), batches_of(tmp_path)(0), pretrain_config(), torch.float32, 5)
    assert passes.found is None and work.said == []
    assert isinstance(_error({"error": "TooLarge", "message": "so", "trace": ""}), TooLarge)


def test_another_error_is_not_tried_again(tmp_path):
    def broken(*_, **__):
        raise RuntimeError("something else")

    passes = Passes("pretrain", None, workspace(tmp_path))
    with pytest.raises(RuntimeError, match="something else"):
        passes.gradient(broken, narrow(7), batches_of(tmp_path)(0), pretrain_config(), torch.float32, 1)
    assert passes.found is None


def test_a_resume_begins_with_the_size_that_was_found(tmp_path):
    """Else its passes, and so its rounding and masks, would be others than those of an unbroken run."""
    batches = batches_of(tmp_path)

    class Cut(BaseException):
        pass

    def run(name, cut_at=None):
        def next_batch(step):
            if step == cut_at:
                raise Cut
            return batches(step)

        # Memory is short in the tenth update alone: what a resume after it does not meet.
        model, work = build(GPTConfig.of(MODEL, VOCABULARY)).initialise(1), workspace(tmp_path, name)
        model.forward = short_in_one(model.forward, work)
        config = pretrain_config(steps=30, eval_every=1000, batch_tokens=7 * 32)
        train(model, Job("pretrain", config, next_batch, lambda: {"val_loss": 1.0}, {}), work)
        return model.state_dict(), work

    def short_in_one(forward, work):
        calls = 0

        def limited(ids, *arguments, **more):
            nonlocal calls
            calls += 1
            if calls == 10 and not work.said:
                torch.empty(1 << 50)
            return forward(ids, *arguments, **more)

        return limited

    whole, unbroken = run("whole")
    assert unbroken.said == ["out of memory with 224 tokens in a pass; going on with 128"]
    with pytest.raises(Cut):
        run("cut", cut_at=18)
    resumed, work = run("cut")
    assert work.said == ["resuming at step 14 of 30"]
    assert all(torch.equal(tensor, whole[name]) for name, tensor in resumed.items())
    assert history(work.directory) == history(unbroken.directory)
