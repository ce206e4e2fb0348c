"""The compiled pass over a few tokens (gptcore/model/step.py), and the threads that go through it."""

import os
import threading

import numpy as np
import pytest
import torch
from networks import moved

from gptcore.model import generate as generation
from gptcore.model import passes, step, threads
from gptcore.model.cache import Cache
from gptcore.model.families import build
from gptcore.model.generate import generate
from gptcore.model.gpt import GPTConfig
from gptcore.model.int8 import quantized
from gptcore.model.kernels import exponentials
from gptcore.model.sampling import Sampling
from gptcore.model.step import Step, fits
from gptcore.model.threads import Team, meet, take

KINDS = {
    "gpt1": {},
    "gpt1-gelu": {"activation": "gelu", "bias": False},
    "gpt2": {},
    "gpt2-rotary": {"positions": "rotary"},
    "gpt3": {"window": 5},
    "gpt3-wide": {"window": 20, "positions": "sinusoidal"},
    "modern": {},
    "modern-shared": {"n_kv_head": 1},
    "modern-relu": {"activation": "relu_squared", "n_kv_head": 2},
}


def network(kind):
    """Two heads of ten, a vocabulary of 45: no loop comes out even."""
    shape = GPTConfig(kind.split("-")[0], 2, 2, 20, 24, 45, **KINDS[kind])
    return moved(build(shape).initialise(5), 0.3).eval()


@pytest.fixture(params=[1, 3])
def teams(request, monkeypatch):
    """So many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    monkeypatch.setattr(step, "WORTH_THREADS", 0)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("prompts", [[[1, 2, 3, 4, 5, 6, 7]], [[1, 2, 3], [5] * 12, [7]]], ids=["one", "unequal"])
def test_the_logits_are_those_of_torch(kind, copies, prompts, teams):
    model, rows = network(kind), copies * len(prompts)
    draw = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        plain, compiled = Cache(model, prompts, copies, 9, 2), Cache(model, prompts, copies, 9, 2)
        assert torch.equal(plain.read(prompts), compiled.read(prompts))
        run = Step(model, torch.get_num_threads())
        for tokens, advance in (
            (1, [1] * rows),
            (3, [1 + i % 3 for i in range(rows)]),
            (2, [2] * rows),
            (1, [1] * rows),
            (3, [3] * rows),
            (1, [0] * rows),
        ):
            ids = torch.randint(0, 45, (rows, tokens), generator=draw)
            expected = model.logits(model.hidden(ids, plain.begin(tokens).clamp(max=23), plain.writing))
            torch.testing.assert_close(run(ids, compiled), expected, atol=1e-4 * float(expected.std()), rtol=0)
            plain.advance(advance), compiled.advance(advance)


@pytest.mark.parametrize("kind", ["gpt2", "modern-shared"])
def test_rounded_matrices_give_the_same_in_a_few_rows_and_in_many(kind, teams):
    model = quantized(network(kind))
    assert fits(model)
    prompts, draw = [[1, 2, 3]], torch.Generator().manual_seed(0)
    with torch.inference_mode():
        caches = [Cache(model, prompts, 1, 9, 2) for _ in range(2)]
        for cache in caches:
            cache.read(prompts)
        ids = torch.randint(0, 45, (1, 3), generator=draw)
        run = passes.Passes(model)
        few = run(ids, caches[0])
        run._few = None
        torch.testing.assert_close(few, run(ids, caches[1]), atol=1e-4 * float(few.std()), rtol=0)


@pytest.mark.parametrize("kind", ["gpt2", "modern-shared"])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0)], ids=["greedy", "drawn"])
def test_rounded_or_not_a_text_does_not_depend_on_the_batch(kind, sampling, teams):
    prompts = [[1 + i, 2 + i % 3, *range(i)] for i in range(20)]
    for model in (network(kind), quantized(network(kind))):
        together = [a.tokens for (a,) in generate(model, prompts, 20, sampling=sampling, seed=3)]
        assert together == [generate(model, [p], 20, sampling=sampling, seed=3)[0][0].tokens for p in prompts]


def test_what_the_pass_does_not_know_is_left_to_torch(teams):
    model = network("gpt2")
    expected = generate(model, [[1, 2, 3]], 9)
    assert fits(model) and passes.Passes(model).faster_rounded
    wrapped = network("gpt2")
    wrapped.h[0].mlp.c_fc = torch.nn.Sequential(wrapped.h[0].mlp.c_fc)
    wrapped.h[0].mlp.c_fc.weight = wrapped.h[0].mlp.c_fc[0].weight
    assert not fits(wrapped) and not fits(network("gpt2").bfloat16())
    assert [a.tokens for (a,) in generate(wrapped, [[1, 2, 3]], 9)] == [a.tokens for (a,) in expected]


def test_exponentials():
    x = np.concatenate([np.linspace(-80, 80, 4001), np.linspace(-1e-3, 1e-3, 100)]).astype(np.float32)
    found, powers = x.copy(), np.empty(len(x), np.int32)
    exponentials(found, powers)
    np.testing.assert_allclose(found, np.exp(x.astype(np.float64)), rtol=3e-7 * 80 / 4)
    np.testing.assert_allclose(found[-100:], np.exp(x[-100:].astype(np.float64)), rtol=2e-7)
    far = np.array([-np.inf, -1e4, 1e4], np.float32)
    exponentials(far, powers[:3])
    assert 0 <= far[0] <= 2e-38 and 0 <= far[1] <= 2e-38 and far[2] > 1e38


# Threads


def counting(meeting, thread, found, count):
    """Take pieces until none is left, and meet."""
    while (piece := take(meeting, 0)) < len(found):
        found[piece] += 1
    assert meet(meeting, count, 1)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_piece_is_taken_once(count):
    team = Team()
    for _ in range(20):
        found = [0] * 100
        team.run(count, 1, lambda meeting, thread, found=found: counting(meeting, thread, found, count))
        assert found == [1] * 100


def test_threads_leave_a_step_that_is_abandoned():
    team, left = Team(), threading.Event()

    def interrupted(meeting, thread):
        if thread == 0:
            raise KeyboardInterrupt
        assert not meet(meeting, 2, 1)
        left.set()

    with pytest.raises(KeyboardInterrupt):
        team.run(2, 1, interrupted)
    assert left.wait(10)
    found = [0] * 10
    team.run(2, 1, lambda meeting, thread: counting(meeting, thread, found, 2))
    assert found == [1] * 10


def test_a_thread_that_fails_ends_the_step():
    team = Team()

    def failing(meeting, thread):
        if thread == 1:
            raise MemoryError("no room")
        assert not meet(meeting, 2, 1)

    with pytest.raises(MemoryError, match="no room"):
        team.run(2, 1, failing)
    found = [0] * 10
    team.run(2, 1, lambda meeting, thread: counting(meeting, thread, found, 2))
    assert found == [1] * 10


def test_a_forked_process_gets_threads_of_its_own():
    found = [0] * 10
    threads.TEAM.run(2, 1, lambda meeting, thread: counting(meeting, thread, found, 2))
    child = os.fork()
    if child == 0:
        found = [0] * 10
        try:
            threads.TEAM.run(2, 1, lambda meeting, thread: counting(meeting, thread, found, 2))
        finally:
            os._exit(0 if found == [1] * 10 else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_two_callers_do_not_disturb_each_other(teams):
    model, prompts = network("modern"), [[i, i + 1] for i in range(8)]
    expected = [generate(model, [prompt], 15) for prompt in prompts]
    found = [None] * 8

    def work(first):
        for i in range(first, 8, 2):
            found[i] = generate(model, [prompts[i]], 15)

    callers = [threading.Thread(target=work, args=(first,)) for first in range(2)]
    [caller.start() for caller in callers]
    [caller.join() for caller in callers]
    assert [[a.tokens for (a,) in f] for f in found] == [[a.tokens for (a,) in e] for e in expected]


# Guesses of the rounded copy


@pytest.fixture
def asked(monkeypatch):
    """How many tokens a row each pass of the model itself took."""
    found, call = [], passes.Passes.__call__

    def counted(self, ids, cache):
        if not hasattr(self._model.last, "matrix"):
            found.append(ids.shape[1])
        return call(self, ids, cache)

    monkeypatch.setattr(passes.Passes, "__call__", counted)
    return found


@pytest.mark.parametrize("kind", ["gpt2", "gpt3", "modern-shared"])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.9, top_k=20)], ids=["greedy", "drawn"])
@pytest.mark.parametrize("samples", [1, 2])
def test_a_rounded_copy_guesses_and_changes_nothing(kind, sampling, samples, asked, monkeypatch):
    model, prompts = network(kind), [[1, 2, 3], [4, 5], [6]]
    monkeypatch.setattr(generation.Lookup, "guess", lambda self, count: [])

    def written():
        asked.clear()
        rows = (generate(model, [p], 20, sampling=sampling, samples=samples, seed=1) for p in prompts)
        return [[(a.tokens, a.reason) for a in group] for row in rows for group in row], len(asked)

    monkeypatch.setattr(generation, "WORTH_ROUNDING", 1000)
    expected, plain = written()
    monkeypatch.setattr(generation, "WORTH_ROUNDING", 0)
    found, guessed = written()
    assert found == expected and guessed < (0.8 if samples == 1 else 1) * plain


def test_the_copy_follows_the_weights():
    model = network("gpt2")
    first = passes.rounded(model)
    assert passes.rounded(model) is first
    with torch.no_grad():
        model.wte.weight.mul_(2)
    assert passes.rounded(model) is not first
    assert passes.Passes(model).faster_rounded and not passes.Passes(quantized(network("gpt2"))).faster_rounded
