"""Shared scoring against one pass a row: all families, positions, trees, trunks, truncation, ties."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from networks import moved

from gptcore.evaluation import prefixes, scoring
from gptcore.evaluation.prefixes import Branch, Prefixes
from gptcore.evaluation.scoring import score
from gptcore.model.families import build
from gptcore.model.gpt import GPT, GPTConfig

CONTEXT, VOCABULARY = 48, 61
KINDS: dict[str, dict[str, Any]] = {
    "gpt1": {"family": "gpt1"},
    "gpt2": {"family": "gpt2"},
    "gpt2-rotary": {"family": "gpt2", "positions": "rotary"},
    "gpt2-sinusoidal": {"family": "gpt2", "positions": "sinusoidal"},
    "gpt3": {"family": "gpt3", "window": 5},
    "gpt3-rotary": {"family": "gpt3", "window": 1, "positions": "rotary"},
    "modern": {"family": "modern"},
    "modern-shared": {"family": "modern", "n_kv_head": 2},
    "modern-learned": {"family": "modern", "positions": "learned"},
}


def network(**shape: Any) -> GPT:
    config = GPTConfig(n_layer=3, n_head=4, n_embd=32, context=CONTEXT, vocab_size=VOCABULARY, **shape)
    return moved(build(config).initialise(2), 0.2).eval()


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> GPT:
    return network(**KINDS[request.param])


@pytest.fixture(params=["as it is", "small trees"])
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With small bounds every tree of more than a few tokens has trunks, trunks have trunks, and batches are many."""
    if request.param == "small trees":
        monkeypatch.setattr(prefixes, "TREE_TOKENS", 12)
        monkeypatch.setattr(prefixes, "TRUNK_TOKENS", 3)
        monkeypatch.setattr(scoring, "TOKENS", {"cpu": 40})
        monkeypatch.setattr(scoring, "SQUARES", {"cpu": 500})
        monkeypatch.setattr(scoring, "LOGITS", {"cpu": 7 * VOCABULARY})
    return str(request.param)


@torch.inference_mode()
def alone(model: GPT, before: list[int], after: list[int]) -> tuple[float, bool]:
    """A row by itself."""
    row = (before + after)[-(CONTEXT + 1) :]
    logits = model(torch.tensor([row[:-1]]))[0, -len(after) :]  # (T, V)
    nats = logits.double().log_softmax(-1).gather(1, torch.tensor(after)[:, None])
    return float(nats.sum()), logits.argmax(-1).tolist() == after


def agree(model: GPT, pairs: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
    found = score(model, pairs)
    assert len(found) == len(pairs)
    for (before, after), (nats, greedy) in zip(pairs, found, strict=True):
        if not after:
            assert (nats, greedy) == (0.0, True)
            continue
        expected, likeliest = alone(model, before, after)
        assert nats == pytest.approx(expected, abs=2e-4)
        assert greedy == likeliest
    return found


def tokens(draw: random.Random, least: int, most: int) -> list[int]:
    return [draw.randrange(VOCABULARY) for _ in range(draw.randint(least, most))]


def random_pairs(seed: int) -> list[tuple[list[int], list[int]]]:
    """Rows grown from each other: shared beginnings of all lengths, some beyond the context, some twice."""
    draw = random.Random(seed)
    known = [tokens(draw, 1, 50) for _ in range(3)]
    pairs = []
    for _ in range(40):
        start = draw.choice(known)
        before = start[: draw.choice([len(start), draw.randint(1, len(start))])] + tokens(draw, 0, 12)
        after = tokens(draw, 0, 1) if draw.random() < 0.4 else tokens(draw, 1, 9)
        known.append(before + after)
        pairs.append((before, after))
    return pairs + draw.sample(pairs, 5)


@pytest.mark.parametrize("seed", [1, 2])
def test_random_trees(model: GPT, sizes: str, seed: int) -> None:
    pairs = random_pairs(seed)
    assert any(len(before) + len(after) > CONTEXT + 1 for before, after in pairs)
    assert len({tuple(before + after) for before, after in pairs}) < len(pairs), "some twice"
    agree(model, pairs)


def test_four_endings_of_each_context(model: GPT, sizes: str) -> None:
    draw = random.Random(5)
    contexts = [tokens(draw, 5, 20) for _ in range(6)]
    agree(model, [(before, tokens(draw, 1, 8)) for before in contexts for _ in range(4)])


def test_letters_behind_common_examples(model: GPT, sizes: str) -> None:
    draw = random.Random(6)
    examples = tokens(draw, 25, 25)
    agree(model, [(examples + question, [letter]) for question in [tokens(draw, 4, 12)] * 9 for letter in range(4)])


def test_rows_that_lose_their_beginning_share_only_what_stands_at_the_same_place(model: GPT, sizes: str) -> None:
    """Endings of unequal length behind a long context: each row is cut elsewhere, though all begin alike."""
    draw = random.Random(7)
    before = tokens(draw, 60, 60)
    agree(model, [(before, tokens(draw, n, n)) for n in (1, 1, 3, 3, CONTEXT)] + [(before[:40], tokens(draw, 3, 3))])


def test_one_ending_is_the_beginning_of_another(model: GPT, sizes: str) -> None:
    draw = random.Random(8)
    before, after = tokens(draw, 9, 9), tokens(draw, 20, 20)
    agree(model, [(before, after[:n]) for n in range(21)] + [(before + after[:n], after[n:]) for n in range(20)])


def test_greedy_tokens_are_recognised(model: GPT, sizes: str) -> None:
    draw = random.Random(9)
    pairs = []
    for _ in range(5):
        before, after = tokens(draw, 4, 9), list[int]()
        for _ in range(4):
            with torch.inference_mode():
                after.append(int(model(torch.tensor([before + after]))[0, -1].argmax()))
        pairs += [(before, after), (before, [*after[:-1], (after[-1] + 1) % VOCABULARY])]
    assert [greedy for _, greedy in agree(model, pairs)] == [True, False] * 5


def test_of_equally_likely_tokens_the_first_is_greedy() -> None:
    model = build(GPTConfig("modern", 1, 2, 16, CONTEXT, VOCABULARY)).initialise(1).eval()  # its head starts at 0
    assert [greedy for _, greedy in score(model, [([5], [n]) for n in range(3)])] == [True, False, False]


def test_twice_the_same_and_whatever_the_neighbours(model: GPT) -> None:
    pairs = random_pairs(3)
    found = score(model, pairs)
    assert score(model, pairs) == found
    alone_too = [score(model, [pair])[0] for pair in pairs]
    assert [nats for nats, _ in alone_too] == pytest.approx([nats for nats, _ in found], abs=1e-4)
    assert [greedy for _, greedy in alone_too] == [greedy for _, greedy in found]


def test_what_is_shared_is_read_once(sizes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, read, scored = network(family="gpt2"), [], []
    hidden, logits = model.hidden, scoring._Scoring._logits

    def counted(ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        read.append(ids.numel())
        return hidden(ids, *rest)

    def counted_logits(self: Any, rows: torch.Tensor) -> torch.Tensor:
        scored.append(len(rows))
        return logits(self, rows)

    monkeypatch.setattr(model, "hidden", counted)
    monkeypatch.setattr(scoring._Scoring, "_logits", counted_logits)
    draw = random.Random(1)
    examples = tokens(draw, 20, 20)
    questions = [[i, *tokens(draw, 5, 5)] for i in range(10)]
    score(model, [(examples + question, [letter]) for question in questions for letter in range(4)])
    assert (sum(read), sum(scored)) == (20 + 10 * 6, 10)
    read.clear()
    scored.clear()
    score(model, [(question, [i, *tokens(draw, 4, 4)]) for question in questions[:3] for i in range(4)])
    assert (sum(read), sum(scored)) == (3 * (6 + 4 * 4), 3 * (1 + 4 * 4))


def test_progress_counts_pairs_once(sizes: str) -> None:
    told: list[tuple[int, int]] = []
    pairs = random_pairs(4)
    score(network(family="gpt2"), pairs, lambda *both: told.append(both))
    total = sum(bool(after) for _, after in pairs)
    assert told[-1] == (total, total) and told == sorted(told)
    assert len(told) > 3 or sizes == "as it is"


def test_nothing_to_score() -> None:
    assert score(network(family="gpt2"), []) == []
    assert score(network(family="gpt2"), [([1], [])]) == [(0.0, True)]


def test_what_cannot_be_scored_is_refused() -> None:
    model = network(family="gpt2")
    with pytest.raises(ValueError, match=f"of {CONTEXT + 1} tokens exceeds the model's context of {CONTEXT}: shorten"):
        score(model, [([1], [2] * (CONTEXT + 1))])
    with pytest.raises(ValueError, match="needs a token before it: give the end-of-text token"):
        score(model, [([], [2])])


def test_trees_of_a_range() -> None:
    """Nodes in preorder: 1 2 {3 {4, 5}, 6 7}, and what stands behind each node's last descendant."""
    known = Prefixes([(1, 2), (1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 6, 7)])
    tree, paths = known.tree(Branch(0, 4, 1, 6))
    assert (tree.tokens, tree.depths) == ([2, 3, 4, 5, 6, 7], [1, 2, 3, 3, 2, 3])
    assert tree.ends == [6, 4, 3, 4, 6, 6] and not tree.is_path
    assert paths == [[0], [0, 1, 2], [0, 1, 3], [0, 4, 5]]
    assert known.split(0, 4, 0) == ([Branch(0, 4, 0, 7)], [])
