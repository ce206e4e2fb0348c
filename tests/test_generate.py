import random

import numpy as np
import pytest
import torch

from gptcore.model import cache
from gptcore.model import generate as generation
from gptcore.model.beams import Beams
from gptcore.model.families import build
from gptcore.model.gpt import GPTConfig
from gptcore.model.lookup import Lookup, Pace
from gptcore.model.passes import Passes
from gptcore.model.sampling import Sampling

CONTEXT, VOCABULARY = 24, 40


KINDS = {
    "gpt1": {},
    "gpt2": {},
    "gpt3": {"window": 5},
    "gpt3-wide": {"window": 20, "positions": "rotary"},
    "modern": {},
    "modern-shared": {"n_kv_head": 1},
}


def generate(*args, **kwargs):
    """The tokens of the only answer to each prompt."""
    return [answer.tokens for (answer,) in generation.generate(*args, **kwargs)]


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    family = request.param.split("-")[0]
    model = build(GPTConfig(family, 2, 2, 16, CONTEXT, VOCABULARY, **KINDS[request.param])).initialise(5)
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
    monkeypatch.setattr(generation, "READ_TOKENS", 30)
    assert generate(model, prompts, 10, {3}) == expected


def test_a_sampled_row_does_not_depend_on_its_neighbours(model, prompts):
    settings = {"max_new_tokens": 8, "stop": {3}, "sampling": Sampling(1.3, top_k=20), "seed": 4}
    together = generate(model, prompts, **settings)
    assert together[::-1] == generate(model, prompts[::-1], **settings)
    assert together[:5] == [generate(model, [prompt], **settings)[0] for prompt in prompts[:5]]
    assert together != generate(model, prompts, **{**settings, "seed": 5})


def test_repeated_prompts_are_sampled_apart(model):
    answers = generate(model, [[1, 2]] * 8, 8, set(), Sampling(1.5))
    assert len({tuple(answer) for answer in answers}) > 4


def test_sampling_follows_the_softmax():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2, 0.0]])).repeat(4000, 1)
    draws = generation._generators([[i] for i in range(4000)], 0, 1)
    for sampling, expected in (
        (Sampling(1.0), [0.5, 0.3, 0.2, 0.0]),
        (Sampling(0.5), [0.25 / 0.38, 0.09 / 0.38, 0.04 / 0.38, 0.0]),
        (Sampling(1.0, top_k=2), [0.625, 0.375, 0.0, 0.0]),
        (Sampling(1.0, top_p=0.75), [0.625, 0.375, 0.0, 0.0]),
        (Sampling(1.0, top_p=0.1), [1.0, 0.0, 0.0, 0.0]),
        (Sampling(1.0, min_p=0.5), [0.625, 0.375, 0.0, 0.0]),
        (Sampling(1.0, min_p=0.7), [1.0, 0.0, 0.0, 0.0]),
    ):
        numbers = torch.tensor([draw.random() for draw in draws], dtype=torch.double)
        shares = torch.bincount(sampling.draw(logits, numbers), minlength=4) / 4000
        torch.testing.assert_close(shares, torch.tensor(expected), atol=0.03, rtol=0)


def test_settings_keep_the_tokens_that_transformers_keeps():
    from transformers import MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

    draw = torch.Generator().manual_seed(0)
    logits, ids = torch.randn(30, 50, generator=draw) * 3, torch.randint(50, (30, 6), generator=draw)
    for sampling, theirs in (
        (Sampling(1.0, top_k=7), TopKLogitsWarper(7)),
        (Sampling(1.0, top_p=0.8), TopPLogitsWarper(0.8)),
        (Sampling(1.0, min_p=0.1), MinPLogitsWarper(0.1)),
    ):
        ours = sampling._kept(logits.double())
        assert torch.equal(ours.isinf(), theirs(ids, logits.double()).isinf())
    seen = torch.zeros(30, 50, dtype=torch.bool).scatter(1, ids, True)
    torch.testing.assert_close(
        Sampling(repetition_penalty=1.7).penalised(logits, seen), RepetitionPenaltyLogitsProcessor(1.7)(ids, logits)
    )


def test_top_1_is_greedy(model, prompts):
    assert generate(model, prompts, 6, set(), Sampling(0.7, top_k=1)) == generate(model, prompts, 6, set())


@pytest.mark.parametrize("rows", [3, 64])
def test_what_all_prompts_begin_with_is_read_once(model, prompts, rows, monkeypatch):
    monkeypatch.setattr(cache, "COMMON_TOKENS", 3)
    begun = [[5, 9, 1, 30, 7, 7, 2, *prompt[: CONTEXT - 8]] for prompt in prompts] + [[5, 9, 1, 30, 7, 7, 2]]
    expected = [naive(model, prompt, 10, {3, 17}) for prompt in begun]
    read, hidden = [], model.hidden
    monkeypatch.setattr(
        model, "hidden", lambda ids, *rest, **more: read.append(ids.numel()) or hidden(ids, *rest, **more)
    )
    assert generate(model, begun, 10, {3, 17}, batch_rows=rows) == expected
    if rows == 64:
        assert read[0] == 6  # the shortest prompt keeps its last token for itself
        assert read[1] == sum(map(len, begun)) - 6 * len(begun)


def test_several_answers_to_prompts_of_one_beginning(model, prompts, monkeypatch):
    sampling, begun = Sampling(1.3, top_p=0.9), [[5, 9, 1, 30, 7, *prompt[: CONTEXT - 6]] for prompt in prompts]
    expected = generation.generate(model, begun, 10, {3, 17}, sampling, samples=4, seed=2)
    monkeypatch.setattr(cache, "COMMON_TOKENS", 3)
    assert tokens(generation.generate(model, begun, 10, {3, 17}, sampling, samples=4, seed=2)) == tokens(expected)


def tokens(answers):
    return [[answer.tokens for answer in group] for group in answers]


def test_several_answers_to_a_prompt_are_those_of_the_prompt_repeated(model, prompts):
    sampling = Sampling(1.3, top_p=0.9)
    answers = generation.generate(model, prompts, 10, {3, 17}, sampling, samples=4, seed=2)
    repeated = [prompt for prompt in prompts for _ in range(4)]
    assert [a.tokens for group in answers for a in group] == generate(model, repeated, 10, {3, 17}, sampling, seed=2)


def test_repeated_tokens_are_penalised(model, prompts):
    """Heavily enough, nothing is written twice."""
    written = generate(model, prompts, 10, (), Sampling(repetition_penalty=1e6))
    plain = generate(model, prompts, 10, ())
    assert all(len({*p, *a}) == len({*p}) + len(a) for p, a in zip(prompts, written, strict=True))
    assert any(len({*p, *a}) < len({*p}) + len(a) for p, a in zip(prompts, plain, strict=True))


def test_why_an_answer_ended_is_told(model, prompts):
    heard = []
    until, listen = lambda ids: ids[-1] == 5, lambda answer, token: heard.append((answer, token))
    found = generation.generate(model, prompts, 6, {3}, until=until, listen=listen)
    for prompt, (answer,) in zip(prompts, found, strict=True):
        if answer.tokens[-1:] == [5]:
            reason = "stop"
        elif len(answer.tokens) == 6:
            reason = "length"
        else:
            reason = "context" if len(prompt) + len(answer.tokens) == CONTEXT else "stop"
        assert answer.reason == reason
        assert [token for other, token in heard if other is answer] == answer.tokens
    assert {answer.reason for (answer,) in found} >= {"length", "context"}


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("model", [kind for kind in KINDS if kind != "gpt3-wide"], indirect=True)  # has no counterpart
def test_beam_search_finds_what_transformers_finds(model, prompts, penalty):
    import transformers

    from gptcore.adapters.hf_config import hf_config
    from gptcore.adapters.hf_weights import to_hf
    from gptcore.config import counterpart

    theirs = getattr(transformers, counterpart(model.config))(hf_config(model.config, {})).eval()
    theirs.load_state_dict(to_hf(model.config, model.state_dict()), strict=False)
    theirs.tie_weights()
    for prompt in prompts[:12]:
        if len(prompt) > CONTEXT - 9:
            continue
        options = {"max_new_tokens": 8, "num_beams": 3, "num_return_sequences": 3, "length_penalty": penalty}
        mask, ends = torch.ones(1, len(prompt)), {"eos_token_id": [3, 17], "pad_token_id": 39}
        made = theirs.generate(torch.tensor([prompt]), attention_mask=mask, do_sample=False, **options, **ends)
        expected = [[t for t in row[len(prompt) :].tolist() if t not in (3, 17, 39)] for row in made]
        found = generation.generate(model, [prompt], 8, {3, 17}, samples=3, beams=Beams(3, penalty))[0]
        assert [[t for t in answer.tokens if t != 39] for answer in found] == expected


# Guessing ahead


@pytest.fixture(params=["good", "bad"])
def guesses(request, model, monkeypatch):
    """Three guesses for every row: what greedy decoding will write, now and then wrong; or nearly always wrong."""
    draw = random.Random(0)

    def guess(self, count):
        text = [*self.prompt, *self.answer.tokens]
        found = naive(model, text, count, set()) if request.param == "good" else []
        found += [draw.randrange(VOCABULARY) for _ in range(count - len(found))]
        return [draw.randrange(VOCABULARY) if draw.random() < 0.1 else token for token in found][
            : draw.choice((0, 3, 3))
        ]

    monkeypatch.setattr(generation.Pace, "ahead", lambda self, rows: 3)
    monkeypatch.setattr(generation._Row, "guess", guess)


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_guesses_change_nothing(model, guesses, prompts, rows):
    stop = {3, 17}
    expected = [naive(model, prompt, 10, stop) for prompt in prompts]
    assert generate(model, prompts, 10, stop, batch_rows=rows) == expected


@pytest.mark.parametrize("samples", [1, 4])
def test_what_is_drawn_is_the_same_with_guesses(model, guesses, prompts, samples, monkeypatch):
    settings = {"sampling": Sampling(1.3, top_k=20), "samples": samples, "seed": 3}
    guessed = generation.generate(model, prompts, 10, {3, 17}, **settings)
    monkeypatch.setattr(generation.Pace, "ahead", lambda self, rows: 0)
    plain = generation.generate(model, prompts, 10, {3, 17}, **settings)
    assert [[(a.tokens, a.reason) for a in group] for group in guessed] == [
        [(a.tokens, a.reason) for a in group] for group in plain
    ]


def test_an_answer_that_repeats_itself_takes_few_passes(monkeypatch):
    model = build(GPTConfig("gpt2", 2, 2, 16, 128, VOCABULARY)).initialise(5).eval()
    passes, call = [], Passes.__call__

    def counted(self, ids, cache):
        passes.append(ids.shape[1])
        return call(self, ids, cache)

    monkeypatch.setattr(Passes, "__call__", counted)
    monkeypatch.setattr(generation, "WORTH_ROUNDING", 1000)
    (answer,) = generate(model, [[1, 2]], 120, set())
    assert len(set(answer[-40:])) < 10 and len(answer) == 120 and len(passes) < 60


def test_a_lookup_finds_what_followed():
    lookup = Lookup([1, 2, 3, 4])
    assert lookup.guess(3) == [] and Lookup([1]).guess(3) == []
    lookup.add([1, 2])
    assert lookup.guess(2) == [3, 4] and lookup.guess(6) == [3, 4, 1, 2, 3, 4]
    lookup.add([9, 1, 2])
    assert lookup.guess(2) == [9, 1], "the latest"
    repeated = Lookup([7, 7, 7])
    assert repeated.guess(3) == [7, 7, 7]


def test_the_pace_follows_what_was_right():
    pace = Pace()
    assert pace.ahead(1) >= 1 and pace.ahead(1000) == 0
    for _ in range(40):
        pace.learn(4, 0)
    assert sorted({pace.ahead(1) for _ in range(40)}) == [0, 1], "tried again now and then"
    for _ in range(20):
        pace.learn(7, 7)
    assert pace.ahead(1) == 7
    assert Pace({1: 2.0}).ahead(1) == 0, "a guess that costs more than a pass"


def test_one_beam_is_greedy(model, prompts):
    assert generate(model, prompts, 8, {3}, beams=Beams(1)) == generate(model, prompts, 8, {3})


@pytest.mark.parametrize(
    ("prompts", "settings", "message"),
    [
        ([[1], []], {}, "prompt 1 has 0 tokens"),
        (
            [[1] * CONTEXT],
            {},
            rf"prompt 0 has {CONTEXT} tokens .*allowed: 1 to {CONTEXT - 1} .*: shorten it, or take a model",
        ),
        ([[1], [2, VOCABULARY]], {}, f"prompt 1 holds token {VOCABULARY}; allowed: 0 to {VOCABULARY - 1}"),
        ([[-1]], {}, "prompt 0 holds token -1"),
        ([[1]], {"samples": 0}, "samples 0 must be at least 1"),
        ([[1]], {"beams": Beams(2), "samples": 3}, "^num_beams 2 gives at most as many answers, not 3"),
        (
            [[1]],
            {"beams": Beams(2), "sampling": Sampling(1.0, top_k=2)},
            "^num_beams takes no temperature and no top_k; leave out one or the other$",
        ),
        ([[1]], {"beams": Beams(2), "sampling": Sampling(repetition_penalty=2.0)}, "takes no repetition_penalty"),
        ([[1]], {"beams": Beams(VOCABULARY + 1)}, f"num_beams {VOCABULARY + 1} is more than the vocabulary of"),
        ([[1]], {"seed": True}, "seed True must be a whole number"),
        ([[1]], {"seed": 1.0}, "seed 1.0 must be a whole number"),
        ([[1]], {"seed": "1"}, "seed '1' must be a whole number"),
        ([[1]], {"max_new_tokens": [1, 2]}, "2 values of max_new_tokens for 1 prompts"),
    ],
)
def test_impossible_calls_are_refused(model, prompts, settings, message):
    with pytest.raises(ValueError, match=message):
        generate(model, prompts, **{"max_new_tokens": 3, "stop": set(), **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature 0.0 must be a positive number; leave it out for the likeliest"),
        ({"temperature": -1.0}, "temperature -1.0"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"temperature": 1.0, "top_k": 0}, "top_k 0 must be at least 1"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p 0.0 must be above 0 and at most 1"),
        ({"temperature": 1.0, "top_p": 1.1}, "top_p 1.1"),
        ({"temperature": 1.0, "min_p": 2.0}, "min_p 2.0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty 0.0 must be a positive number"),
        ({"top_p": 0.9}, "top_p without a temperature: nothing is drawn"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "num_beams 0 must be at least 1"),
        *(
            ({"width": 2, "length_penalty": steep}, f"length_penalty {steep} must be between -10 and 10")
            for steep in (1000.0, -1000.0, float("nan"), float("inf"))
        ),
    ],
)
def test_impossible_beams_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Beams(**settings)


def test_the_steepest_penalties_still_give_answers():
    model = build(GPTConfig("gpt2", 1, 1, 8, 512, VOCABULARY)).initialise(5).eval()
    for penalty in (-10.0, 10.0):
        (answers,) = generation.generate(model, [[1]], 511, {3}, samples=2, beams=Beams(2, penalty))
        assert len(answers) == 2


def test_ids_of_numpy_and_torch_are_numbers(model):
    settings = {"max_new_tokens": 5, "sampling": Sampling(1.0)}
    expected = generate(model, [[1, 2]], seed=7, **settings)
    assert generate(model, np.array([[1, 2]]), seed=np.int64(7), **settings) == expected
    assert generate(model, torch.tensor([[1, 2]]), seed=7, **settings) == expected


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
    assert len(answer) == 40 and sum(computed) <= 8 * (200 + 2 * 39), "a guess beside each token"
