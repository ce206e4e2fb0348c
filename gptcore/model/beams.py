"""Beam search: the likeliest answers that a bounded search finds.

n beams, V = vocab_size. The bookkeeping is that of transformers' `generate`, so that both find the same answers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from gptcore.model.cache import Cache
from gptcore.model.passes import Passes

if TYPE_CHECKING:
    from gptcore.model.gpt import GPT
    from gptcore.model.sampling import Sampling

Reason = Literal["stop", "length", "context"]
"""Why an answer ended."""
STEEPEST = 10.0
"""Of a length penalty, up or down: already there nothing but the length decides."""


@dataclass(frozen=True)
class Beams:
    """Settings of a beam search. ValueError for an impossible one."""

    width: int
    """n: answers followed at once."""
    length_penalty: float = 1.0
    """An answer's score is its log-probability over its length to this power: above 0 favours long answers."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"num_beams {self.width} must be at least 1")
        if not -STEEPEST <= self.length_penalty <= STEEPEST:
            raise ValueError(f"length_penalty {self.length_penalty} must be between {-STEEPEST:g} and {STEEPEST:g}")

    def check(self, sampling: Sampling, answers: int, vocabulary: int) -> None:
        """ValueError for settings of sampling, more answers than beams, and more beams than tokens."""
        if given := [name for name, value in vars(sampling).items() if value is not None]:
            raise ValueError(f"num_beams takes no {' and no '.join(given)}; leave out one or the other")
        if answers > self.width:
            raise ValueError(f"num_beams {self.width} gives at most as many answers, not {answers}; raise num_beams")
        if self.width > vocabulary:
            raise ValueError(f"num_beams {self.width} is more than the vocabulary of {vocabulary} tokens; lower it")


def beam_search(
    model: GPT, prompt: Sequence[int], max_new_tokens: int, stop: Collection[int], beams: Beams
) -> list[tuple[list[int], Reason]]:
    """The answers found, best first, without their stop tokens, and why each ended.

    1. Of the n x V continuations enough of the likeliest are looked at for n to go on. 2. Those of the first n that
    stop are finished. 3. It ends when n are finished, and the best that goes on scores no better.
    """
    room = min(max_new_tokens, model.config.context - len(prompt))
    if room < 1:
        return [([], "length")] * beams.width
    out_of_room: Reason = "length" if room == max_new_tokens else "context"
    passes = Passes(model)
    cache = Cache(model, [prompt], beams.width, room)
    logits = model.logits(cache.read([prompt])).float().expand(beams.width, -1)  # (n, V)
    with passes.alone():
        return _search(logits, cache, passes, room, stop, beams, out_of_room)


def _search(
    logits: Tensor,
    cache: Cache,
    passes: Passes,
    room: int,
    stop: Collection[int],
    beams: Beams,
    out_of_room: Reason,
) -> list[tuple[list[int], Reason]]:
    """Go on from the logits behind the prompt (n, V)."""
    n, device = beams.width, logits.device
    totals = torch.tensor([0.0] + [-torch.inf] * (n - 1), device=device)  # (n,): at first all beams are one
    written: list[list[int]] = [[] for _ in range(n)]
    finished: list[tuple[float, list[int], Reason]] = []
    for length in range(1, room + 1):
        scores = totals[:, None] + logits.log_softmax(-1)  # (n, V)
        best = scores.flatten().topk(min(n * max(2, 1 + len(stop)), scores.numel()))
        parents, tokens = best.indices // scores.shape[1], best.indices % scores.shape[1]
        going: list[int] = []
        for rank, (total, parent, token) in enumerate(
            zip(best.values.tolist(), parents.tolist(), tokens.tolist(), strict=True)
        ):
            if total == -torch.inf:
                continue
            score = total / length**beams.length_penalty
            if token in stop:
                if rank < n:
                    finished.append((score, written[parent], "stop"))
            elif length == room:
                if rank < n:
                    finished.append((score, [*written[parent], token], out_of_room))
            elif len(going) < n:
                going.append(rank)
        finished = sorted(finished, key=lambda found: -found[0])[:n]
        if not going:
            break
        chosen = torch.tensor(going, device=device)
        totals = best.values[chosen]
        if len(finished) == n and finished[-1][0] >= float(totals[0]) / length**beams.length_penalty:
            break
        written = [[*written[parents[rank]], int(tokens[rank])] for rank in going]
        cache.keep(torch.zeros(1, dtype=torch.long, device=device), parents[chosen][None])
        logits = passes(tokens[chosen][:, None], cache)[:, 0]
        cache.advance()
    return [(tokens, reason) for _, tokens, reason in finished]
