import random

import pytest
import torch

from gptcore.model import generate as generation
from gptcore.model.families import build
from gptcore.model.generate import generate
from gptcore.model.gpt import GPTConfig

CONTEXT, VOCABULARY = 24, 40


@pytest.fixture(scope="module", params=["gpt2", "modern"])
def model(request):
    model = build(GPTConfig(request.param, 2, 2, 16, CONTEXT, VOCABULARY)).initialise(5)
    with torch.no_grad():  # larger weights, so that the likeliest token is no near tie
        draw = torch.Generator().manual_seed(5)
        for parameter in model.parameters():
            parameter.copy_(torch.empty(parameter.shape).normal_(generator=draw)) if parameter.dim() > 1 else None
    return model.eval()


@pytest.fixture(scope="module")
def prompts():
    draw = random.Random(0)
    return [[draw.randrange(VOCABULARY) for _ in range(draw.randint(1, CONTEXT - 1))] for _ in range(40)]


def naive(model, prompt, limit, stop):
    """One row, no cache: the whole sequence again for each token."""
    ids = list(prompt)
    while len(ids) - len(prompt) < limit and len(ids) < CONTEXT:
        with torch.no_grad():
            token = int(model(torch.tensor([ids]))[0, -1].argmax())
        if token in stop:
            break
        ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_greedy_equals_the_loop_without_a_cache(model, prompts, rows):
    stop = {3, 17}
    expected = [naive(model, prompt, 10, stop) for prompt in prompts]
    assert generate(model, prompts, 10, stop, batch_rows=rows) == expected
    assert len({len(answer) for answer in expected}) > 3  # rows do end at different times


def test_each_prompt_may_have_its_own_limit(model, prompts):
    limits = [i % 6 for i in range(len(prompts))]
    expected = [naive(model, p, limit, set()) for p, limit in zip(prompts, limits, strict=True)]
    assert generate(model, prompts, limits, set()) == expected


def test_generation_ends_where_the_context_is_full(model):
    assert [len(a) for a in generate(model, [[1] * (CONTEXT - 1), [1] * (CONTEXT - 5)], 100, set())] == [1, 5]


def test_a_bounded_cache_gives_the_same(model, prompts, monkeypatch):
    expected = generate(model, prompts, 10, {3})
    monkeypatch.setitem(generation.CACHE_BYTES, "cpu", 3 * 2 * 4 * 2 * 16 * CONTEXT)
    assert generate(model, prompts, 10, {3}) == expected


def test_a_sampled_row_does_not_depend_on_its_neighbours(model, prompts):
    settings = {"max_new_tokens": 8, "stop": {3}, "temperature": 1.3, "top_k": 20, "seed": 4}
    together = generate(model, prompts, **settings)
    assert together[::-1] == generate(model, prompts[::-1], **settings)
    assert together[:5] == [generate(model, [prompt], **settings)[0] for prompt in prompts[:5]]
    assert together != generate(model, prompts, **{**settings, "seed": 5})


def test_repeated_prompts_are_sampled_apart(model):
    answers = generate(model, [[1, 2]] * 8, 8, set(), temperature=1.5)
    assert len({tuple(answer) for answer in answers}) > 4


def test_sampling_follows_the_softmax():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2, 0.0]])).repeat(4000, 1)
    draws = generation._generators([[i] for i in range(4000)], 0)
    shares = torch.bincount(generation.pick(logits, 1.0, None, draws), minlength=4) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.2, 0.0]), atol=0.03, rtol=0)
    shares = torch.bincount(generation.pick(logits, 1.0, 2, draws), minlength=4) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.625, 0.375, 0, 0]), atol=0.03, rtol=0)


def test_top_1_is_greedy(model, prompts):
    assert generate(model, prompts, 6, set(), temperature=0.7, top_k=1) == generate(model, prompts, 6, set())


@pytest.mark.parametrize(
    ("prompts", "settings", "message"),
    [
        ([[1], []], {}, "prompt 1 has 0 tokens"),
        ([[1] * CONTEXT], {}, rf"prompt 0 has {CONTEXT} tokens .*allowed: 1 to {CONTEXT - 1}"),
        ([[1]], {"temperature": -1.0}, "temperature -1.0"),
        ([[1]], {"top_k": 0}, "top_k 0"),
        ([[1]], {"max_new_tokens": [1, 2]}, "2 values of max_new_tokens for 1 prompts"),
    ],
)
def test_impossible_calls_are_refused(model, prompts, settings, message):
    with pytest.raises(ValueError, match=message):
        generate(model, prompts, **{"max_new_tokens": 3, "stop": set(), **settings})


def test_no_prompts_give_no_answers(model):
    assert generate(model, [], 5, set()) == []


def test_the_model_stays_in_its_mode(model):
    model.train()
    generate(model, [[1]], 2, set())
    assert model.training
    model.eval()


def test_the_cache_spares_most_of_the_work(monkeypatch):
    """Each token is computed once, not again for every later one."""
    model = build(GPTConfig("gpt2", 4, 4, 64, 256, 500)).initialise(0).eval()
    computed, hidden = [], type(model).hidden

    def counted(self, ids, *more, **named):
        computed.append(ids.numel())
        return hidden(self, ids, *more, **named)

    monkeypatch.setattr(type(model), "hidden", counted)
    (answer, *_) = generate(model, [[7] * 200] * 8, 40, set())
    assert len(answer) == 40 and sum(computed) <= 8 * (200 + 39)
