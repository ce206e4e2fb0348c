"""Log-likelihoods of continuations, each shared token and each scored position computed once.

1. Different rows are sorted, and common beginnings found (gptcore/evaluation/prefixes.py). 2. Trees of like size fill
batches by a budget of tokens; each node sees its ancestors alone (gptcore/model/tree.py). 3. The head is applied only
where a continuation is scored, once for all continuations that go on from there: four letters are read from one row.
N nodes of a batch, M scored ones, V = vocab_size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from gptcore.evaluation.prefixes import Prefixes, Stem, batches
from gptcore.model.gpt import GPT
from gptcore.model.softmax_sums import under_softmax
from gptcore.model.tree import Tree, TreeAttention, Trunk

TOKENS = {"cpu": 1 << 11, "cuda": 1 << 15}
"""Of a batch."""
SQUARES = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Numbers of an attention mask: 16 MiB and 256 MiB in float32."""
LOGITS = {"cpu": 1 << 24, "cuda": 1 << 28}
"""Logits computed at once: 64 MiB and 1 GiB in float32."""

Pair = tuple[Sequence[int], Sequence[int]]
"""A context's tokens and its continuation's."""


def score(
    model: GPT, pairs: Sequence[Pair], on_progress: Callable[[int, int], None] = lambda done, total: None
) -> list[tuple[float, bool]]:
    """(nats, whether greedy decoding would give it) of each continuation's tokens after its context's.

    A row longer than the model's context and one more loses its beginning. An empty continuation costs nothing.
    Raises ValueError for a continuation longer than the context, and for one with nothing before it.
    """
    context = model.config.context
    longest = max((len(after) for _, after in pairs), default=0)
    if longest > context:
        raise ValueError(
            f"a continuation of {longest} tokens exceeds the model's context of {context}: shorten it, or take a model "
            "of a longer context"
        )
    if any(after and not before for before, after in pairs):
        raise ValueError("a continuation needs a token before it: give the end-of-text token as an empty context")
    return _Scoring(model, pairs, on_progress).results()


class _Scoring:
    """One call's rows and what is known of them."""

    def __init__(self, model: GPT, pairs: Sequence[Pair], on_progress: Callable[[int, int], None]) -> None:
        self._model, self._on_progress = model, on_progress
        self._kind = model.device.type
        self._after = [list(after) for _, after in pairs]
        self._nats, self._greedy = [0.0] * len(pairs), [True] * len(pairs)
        rows: dict[tuple[int, ...], list[int]] = {}
        for i, (before, after) in enumerate(pairs):
            if after:
                row = (*before[-(model.config.context + 1) :], *after)[-(model.config.context + 1) : -1]
                rows.setdefault(row, []).append(i)
        ordered = sorted(rows)
        self._pairs = [rows[row] for row in ordered]
        self._prefixes = Prefixes(ordered)
        self._left = {i: len(self._after[i]) for same in self._pairs for i in same}
        """Tokens of each pair that are not yet scored."""
        self._total = len(self._left)
        self._most_scored = sum(self._left.values())
        self._room: Tensor | None = None
        """Of the logits computed at once."""

    @torch.inference_mode()
    def results(self) -> list[tuple[float, bool]]:
        """All of them, in the pairs' order."""
        self._read(0, len(self._pairs), None)
        assert not self._left
        return list(zip(self._nats, self._greedy, strict=True))

    def _read(self, begin: int, end: int, trunk: Trunk | None) -> None:
        """What stands behind a trunk that all of these rows begin with."""
        branches, stems = self._prefixes.split(begin, end, trunk.length if trunk else 0)
        for batch in batches(branches, TOKENS[self._kind], SQUARES[self._kind]):
            wanted: list[tuple[int, int, list[int]]] = []
            trees, before = [], 0
            for branch in batch:
                tree, paths = self._prefixes.tree(branch)
                for row, path in zip(range(branch.begin, branch.end), paths, strict=True):
                    wanted += self._wanted(row, branch.base, [before + place for place in path])
                trees.append(tree)
                before += len(tree.tokens)
            self._pass(trees, trunk, wanted)
        for stem in stems:
            self._read(stem.begin, stem.end, self._stem(stem, trunk))

    def _stem(self, stem: Stem, trunk: Trunk | None) -> Trunk:
        """The trunk that goes on with a stem."""
        path = list(range(stem.top - stem.base))
        wanted = [found for row in range(stem.begin, stem.end) for found in self._wanted(row, stem.base, path)]
        return self._pass([self._prefixes.stem(stem)], trunk, wanted)

    def _wanted(self, row: int, base: int, path: Sequence[int]) -> Iterator[tuple[int, int, list[int]]]:
        """Pairs of a row that are scored at its nodes, whose places from depth `base` on are given.

        Each with the first of the continuation's tokens that is, and the places that foretell it and those after it.
        """
        length = len(self._prefixes.sequences[row])
        for pair in self._pairs[row]:
            first = length - len(self._after[pair])  # depth of the node that foretells the first token
            places = path[max(first - base, 0) :]
            if places:
                yield pair, max(base - first, 0), list(places)

    def _pass(self, trees: Sequence[Tree], trunk: Trunk | None, wanted: list[tuple[int, int, list[int]]]) -> Trunk:
        """Read trees behind a trunk and score what is wanted of them."""
        attend = TreeAttention(trees, trunk, self._model.device)
        hidden = self._model.hidden(attend.ids, attend.positions, attend)[0]  # (N, C)
        if wanted:
            nodes = [place for _, _, places in wanted for place in places]
            targets = [self._after[pair][first : first + len(places)] for pair, first, places in wanted]
            nats, right = self._head(hidden, nodes, torch.tensor([token for part in targets for token in part]))
            counts = [len(places) for _, _, places in wanted]
            parts = zip(wanted, torch.split(nats, counts), torch.split(right, counts), strict=True)
            for (pair, _, places), some_nats, some_right in parts:
                self._nats[pair] += float(some_nats.sum())
                self._greedy[pair] &= bool(some_right.all())
                self._left[pair] -= len(places)
                if not self._left[pair]:
                    del self._left[pair]
            self._on_progress(self._total - len(self._left), self._total)
        return attend.kept

    def _head(self, hidden: Tensor, nodes: list[int], targets: Tensor) -> tuple[Tensor, Tensor]:
        """Nats, in double precision, of targets (K,) behind nodes (K,), and whether they are the likeliest tokens."""
        scored, which = map(torch.from_numpy, np.unique(nodes, return_inverse=True))  # (M,), (K,)
        order = which.argsort(stable=True)
        which, targets = which[order], targets[order]
        rows = max(1, LOGITS[self._kind] // self._model.config.vocab_size)
        nats, right = torch.zeros(len(which), dtype=torch.double), torch.zeros(len(which), dtype=torch.bool)
        for begin in range(0, len(scored), rows):
            chosen = scored[begin : begin + rows].to(hidden.device)
            low, high = torch.searchsorted(which, torch.tensor([begin, begin + rows])).tolist()
            logits = self._logits(hidden[chosen])  # (m, V)
            most, sums = under_softmax(logits)
            at = (which[low:high] - begin).to(hidden.device)
            tokens = targets[low:high].to(hidden.device)
            found = logits[at, tokens]
            likeliest = found == most[at]
            equal = likeliest.nonzero()[:, 0]  # of equally likely ones the first counts, as argmax has it
            likeliest[equal] = logits[at[equal]].argmax(-1) == tokens[equal]
            nats[order[low:high]] = (found.double() - sums[at]).cpu()
            right[order[low:high]] = likeliest.cpu()
        return nats, right

    def _logits(self, hidden: Tensor) -> Tensor:
        """(m, C) -> (m, V) in float32."""
        model = self._model
        if self._kind != "cpu" or model.times_head is not None or hidden.dtype != torch.float32:
            return model.logits(hidden).float()
        if self._room is None:  # the same in every pass: fresh pages would cost as much as the softmax does
            vocabulary = model.config.vocab_size
            most = max(1, LOGITS[self._kind] // vocabulary)
            self._room = torch.empty(min(most, self._most_scored), vocabulary)
        return torch.mm(hidden, model.head.T, out=self._room[: len(hidden)])
