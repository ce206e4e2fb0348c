"""Batched generation: greedy, sampled, or by beam search (gptcore/model/beams.py).

Prompts of unequal length are read without padding; a prompt that several answers continue is read once; rows that have
ended leave the batch (gptcore/model/cache.py).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from operator import index
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from gptcore import durable
from gptcore.model.beams import Beams, Reason, beam_search
from gptcore.model.cache import Cache
from gptcore.model.gpt import GPT
from gptcore.model.lookup import MOST_AHEAD, ROUNDED, ROUNDED_ODDS, Lookup, Pace
from gptcore.model.passes import Passes, rounded
from gptcore.model.sampling import Sampling

CACHE_BYTES = {"cpu": 1 << 29, "cuda": 8 << 30}
"""What the cache may take; fewer rows go at once when they are long."""
READ_TOKENS = 8192
"""Tokens of prompts read in one pass."""
CROWDED = 0.75
"""Rows leave the batch once no more than this share of it lives: leaving one by one would copy the cache too often."""

WORTH_ROUNDING = 24
"""Tokens to be written from which a rounded copy of the model is made to guess them."""

Found = TypeVar("Found")


@dataclass(eq=False)
class Answer:
    """What was written to one prompt."""

    tokens: list[int] = field(default_factory=list)
    """Without the stop token."""
    reason: Reason | None = None
    """Why it ended: a stop, `max_new_tokens`, or a full context. None while it goes on."""


@dataclass(eq=False)
class _Row:
    """An answer on its way."""

    prompt: Sequence[int]
    limit: int
    draw: np.random.Generator | None
    """Its random numbers; None takes the likeliest token."""
    answer: Answer = field(default_factory=Answer)
    _drawn: list[float] = field(default_factory=list)
    _lookup: Lookup | None = None

    @property
    def lives(self) -> bool:
        return self.answer.reason is None

    def number(self, place: int) -> float:
        """That of the token so many places behind the last: each place has its own, however often it is asked for."""
        assert self.draw
        place += len(self.answer.tokens)
        while len(self._drawn) <= place:
            self._drawn.append(self.draw.random())
        return self._drawn[place]

    def guess(self, count: int) -> list[int]:
        """So many tokens that may follow, or none."""
        if self._lookup is None:
            self._lookup = Lookup(self.prompt)
        self._lookup.add(self.answer.tokens[self._lookup.length - len(self.prompt) :])
        return self._lookup.guess(count)


Listener = Callable[[Answer, int], None]
"""Told an answer and the token it has just got."""


def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int | Sequence[int],
    stop: Collection[int] = (),
    sampling: Sampling = Sampling(),  # noqa: B008 -- frozen
    *,
    samples: int = 1,
    beams: Beams | None = None,
    seed: int = 0,
    batch_rows: int = 64,
    until: Callable[[list[int]], bool] | None = None,
    listen: Listener | None = None,
) -> list[list[Answer]]:
    """`samples` answers to every prompt, in the prompts' order.

    An answer ends at a stop token, when `until` says so of its tokens, at `max_new_tokens` (one number, or one a
    prompt), or where prompt and answer fill the context; its `reason` tells which. Its random numbers depend on the
    seed, its own prompt and its place among equal ones, never on its neighbours. With beams, `samples` of the best.

    ValueError for an empty prompt, one that leaves no room in the context, tokens out of range, an impossible setting.
    """
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    prompts = [[index(token) for token in prompt] for prompt in prompts]
    _check(model, prompts, limits, samples, seed)
    if beams is not None:
        beams.check(sampling, samples, model.config.vocab_size)
        found = _in_mode(
            model, lambda: [beam_search(model, p, n, stop, beams) for p, n in zip(prompts, limits, strict=True)]
        )
        return [[Answer(tokens, reason) for tokens, reason in best[:samples]] for best in found]
    draws = _generators(prompts, index(seed), samples) if sampling.temperature is not None else None
    rows = [
        [_Row(prompt, limit, None if draws is None else draws[place * samples + i]) for i in range(samples)]
        for place, (prompt, limit) in enumerate(zip(prompts, limits, strict=True))
    ]
    waiting = sorted((group for group in rows if group[0].limit > 0), key=lambda group: len(group[0].prompt))
    for group in rows:
        for row in group if group[0].limit < 1 else ():
            row.answer.reason = "length"

    def answer_all() -> None:
        while waiting:
            count = _groups_that_fit(model, waiting[::-1], batch_rows)
            _answer(model, waiting[-count:], set(stop), sampling, until, listen)
            del waiting[-count:]  # the longest go first: what memory it takes shows at once

    _in_mode(model, answer_all)
    return [[row.answer for row in group] for group in rows]


def _check(model: GPT, prompts: Sequence[Sequence[int]], limits: Sequence[int], samples: int, seed: int) -> None:
    context, vocabulary = model.config.context, model.config.vocab_size
    problems = [f"prompt {i} has {len(p)} tokens" for i, p in enumerate(prompts) if not 1 <= len(p) < context]
    if problems:
        raise ValueError(
            f"{problems[0]} ({len(problems)} such); allowed: 1 to {context - 1} (the context less one): shorten it, or "
            "take a model of a longer context"
        )
    for i, prompt in enumerate(prompts):
        if min(prompt) < 0 or max(prompt) >= vocabulary:
            wrong = next(token for token in prompt if not 0 <= token < vocabulary)
            raise ValueError(f"prompt {i} holds token {wrong}; allowed: 0 to {vocabulary - 1}")
    if len(limits) != len(prompts):
        raise ValueError(f"{len(limits)} values of max_new_tokens for {len(prompts)} prompts")
    if samples < 1:
        raise ValueError(f"samples {samples} must be at least 1")
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise ValueError(f"seed {seed!r} must be a whole number")


def _in_mode(model: GPT, work: Callable[[], Found]) -> Found:
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return work()
    finally:
        model.train(was_training)


def _groups_that_fit(model: GPT, groups: Sequence[Sequence[_Row]], batch_rows: int) -> int:
    """How many of the groups, from the first on, the bounds allow; at least one."""
    c = model.config
    token_bytes = 2 * 4 * c.n_layer * (c.n_kv_head or c.n_head) * (c.n_embd // c.n_head)
    read = longest = room = 0
    for count, group in enumerate(groups, start=1):
        read += len(group[0].prompt)
        longest, room = max(longest, len(group[0].prompt)), max(room, group[0].limit)
        rows = count * len(group)
        size = token_bytes * (count * longest + rows * room)
        if count > 1 and (rows > batch_rows or read > READ_TOKENS or size > CACHE_BYTES[model.device.type]):
            return count - 1
    return len(groups)


def _generators(prompts: Sequence[Sequence[int]], seed: int, samples: int) -> list[np.random.Generator]:
    """One an answer, keyed by the seed, the prompt, and which of the answers to such a prompt this is."""
    seen: Counter[bytes] = Counter()
    draws = []
    for prompt in prompts:
        digest = hashlib.sha256(durable.canonical_json([seed, prompt])).digest()
        for _ in range(samples):
            key = int.from_bytes(digest[:16], "little") + seen[digest]
            draws.append(np.random.Generator(np.random.Philox(key=key % (1 << 128))))
            seen[digest] += 1
    return draws


def _answer(
    model: GPT,
    groups: list[list[_Row]],
    stop: set[int],
    sampling: Sampling,
    until: Callable[[list[int]], bool] | None,
    listen: Listener | None,
) -> None:
    """Answer the groups, all of one size. G groups of n rows, in this order wherever R = G x n stands.

    1. One pass over the prompts fills the cache. 2. Each round ends rows, guesses tokens that may follow, and picks, in
    one pass, a token a row and one more for each guess that was right. 3. Rows that have ended leave once there are
    many.
    """
    context = model.config.context
    prompts, n = [group[0].prompt for group in groups], len(groups[0])
    room = max(min(group[0].limit, context - len(group[0].prompt)) for group in groups)
    passes, ahead = Passes(model), MOST_AHEAD if sampling.repetition_penalty is None else 0
    cache = Cache(model, prompts, n, room, ahead)
    guessing = _Guessing(model, passes, sampling, cache, room) if ahead else None
    logits = model.logits(cache.read(prompts)).float().repeat_interleave(n, dim=0)[:, None]  # (R, 1, V)
    with passes.alone():
        _write(groups, logits, cache, passes, guessing, stop, sampling, until, listen)


def _write(
    groups: list[list[_Row]],
    logits: Tensor,
    cache: Cache,
    passes: Passes,
    guessing: _Guessing | None,
    stop: set[int],
    sampling: Sampling,
    until: Callable[[list[int]], bool] | None,
    listen: Listener | None,
) -> None:
    """Go on from the logits behind the prompts (R, 1, V)."""
    device, context = logits.device, passes.context
    rows = list(_flat(groups))
    seen = _seen(rows, logits) if sampling.repetition_penalty else None
    guesses: list[list[int]] = [[] for _ in rows]
    begun = False
    while True:
        if seen is not None:
            logits = sampling.penalised(logits[:, 0], seen)[:, None]
        right = _pick(sampling, logits, rows).tolist()  # (R, T)
        picked = [_with_the_next(*both) for both in zip(guesses, right, strict=True)]
        if begun:
            cache.advance([len(new) if row.lives else 0 for row, new in zip(rows, picked, strict=True)])
        for row, guessed, new in zip(rows, guesses, picked, strict=True):
            if guessed and guessing:
                guessing.learn(len(guessed), len(new) - 1)
            _take(row, new, stop, until, listen, context)
        living = sum(row.lives for row in rows)
        if not living:
            return
        last = [new[-1] for new in picked]
        if seen is not None:
            seen[torch.arange(len(rows), device=device), torch.tensor(last, device=device)] = True
        if living <= CROWDED * len(rows):
            groups, kept, places = _without_ended(groups)
            flat = (kept[:, None] * cache.copies + places).flatten()  # rows that stay
            cache.keep(kept.to(device), places.to(device))
            last, seen = [last[place] for place in flat.tolist()], None if seen is None else seen[flat.to(device)]
            rows = list(_flat(groups))
        guesses = guessing.guess(rows, last) if guessing else [[] for _ in rows]
        width = max(map(len, guesses))
        ids = torch.tensor([[token, *g, *[0] * (width - len(g))] for token, g in zip(last, guesses, strict=True)])
        logits, begun = passes(ids, cache), True


class _Guessing:
    """Tokens that may follow: looked up where the text repeats, else chosen by a rounded copy of the model."""

    def __init__(self, model: GPT, passes: Passes, sampling: Sampling, cache: Cache, room: int) -> None:
        self._sampling, self._cache = sampling, cache
        self._lookup, self._rounded = Pace(), Pace(ROUNDED, ROUNDED_ODDS)
        self._latest = self._lookup
        worth = passes.faster_rounded and len(cache.counts) <= max(ROUNDED) and room >= WORTH_ROUNDING
        self._passes = rounded(model) if worth else None

    def guess(self, rows: Sequence[_Row], last: Sequence[int]) -> list[list[int]]:
        """For each row the tokens that may follow its last; none for one that has ended."""
        left = max(row.limit - len(row.answer.tokens) for row in rows if row.lives) - 1
        self._latest = self._lookup
        if count := min(self._lookup.ahead(len(rows)), left):
            guesses = [row.guess(count) if row.lives else [] for row in rows]
            if any(guesses):
                return guesses
        if self._passes is None or not (count := min(self._rounded.ahead(len(rows)), left)):
            return [[] for _ in rows]
        self._latest = self._rounded
        found = [list(last)]
        for place in range(count):
            logits = self._passes(torch.tensor(found[-1])[:, None], self._cache)
            found.append(_pick(self._sampling, logits, rows, place)[:, 0].tolist())
            self._cache.advance()
        self._cache.advance(-count)
        return [
            list(guessed) if row.lives else [] for row, guessed in zip(rows, zip(*found[1:], strict=True), strict=True)
        ]

    def learn(self, asked: int, right: int) -> None:
        """Of a row's latest guesses so many were right before the first wrong one."""
        self._latest.learn(asked, right)


def _seen(rows: Sequence[_Row], logits: Tensor) -> Tensor:
    """Whether a token stands in a row's prompt (R, V)."""
    seen = torch.zeros(len(rows), logits.shape[-1], dtype=torch.bool, device=logits.device)
    for place, row in enumerate(rows):
        seen[place, torch.tensor(row.prompt, device=seen.device)] = True
    return seen


def _pick(sampling: Sampling, logits: Tensor, rows: Sequence[_Row], first: int = 0) -> Tensor:
    """A token for each row and place (R, T), the first so many behind the last, from logits (R, T, V)."""
    if sampling.temperature is None:
        if logits.device.type == "cpu" and logits.dtype == torch.float32:  # torch looks at one number at a time
            return torch.from_numpy(logits.numpy().argmax(-1))
        return logits.argmax(-1)
    numbers = torch.tensor(
        [[row.number(first + place) for place in range(logits.shape[1])] for row in rows], dtype=torch.double
    )
    return sampling.draw(logits.flatten(0, 1), numbers.flatten().to(logits.device)).view(logits.shape[:2])


def _with_the_next(guesses: Sequence[int], right: Sequence[int]) -> Sequence[int]:
    """What is right up to the first wrong guess, and the token that stands in its place."""
    agreeing = next((i for i, guess in enumerate(guesses) if guess != right[i]), len(guesses))
    return right[: agreeing + 1]


def _flat(groups: Sequence[Sequence[_Row]]) -> Iterator[_Row]:
    return (row for group in groups for row in group)


def _take(
    row: _Row,
    tokens: Sequence[int],
    stop: set[int],
    until: Callable[[list[int]], bool] | None,
    listen: Listener | None,
    context: int,
) -> None:
    """Add tokens while the row lives, and end it where that is due."""
    answer = row.answer
    for token in tokens:
        if not row.lives:
            return
        if token in stop:
            answer.reason = "stop"
            return
        answer.tokens.append(token)
        if until is not None and until(answer.tokens):
            answer.reason = "stop"
        elif len(answer.tokens) == row.limit:
            answer.reason = "length"
        elif len(row.prompt) + len(answer.tokens) == context:
            answer.reason = "context"
        if listen:
            listen(answer, token)


def _without_ended(groups: list[list[_Row]]) -> tuple[list[list[_Row]], Tensor, Tensor]:
    """The groups where any row lives, each of as many rows as the fullest has living ones; where those stood.

    (G',) places of groups and (G', n') of rows in them. In a less full group ended rows fill up.
    """
    kept = [place for place, group in enumerate(groups) if any(row.lives for row in group)]
    most = max(sum(row.lives for row in groups[place]) for place in kept)
    places = [sorted(range(len(groups[g])), key=lambda i: not groups[g][i].lives)[:most] for g in kept]
    left = [[groups[g][i] for i in chosen] for g, chosen in zip(kept, places, strict=True)]
    return left, torch.tensor(kept), torch.tensor(places)
