"""What each step trains on: a pure function of (seed, step), so a resume costs nothing and loses nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gptcore.model.loss import IGNORED
from gptcore.shuffle import key_of, permute

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """One update's examples, on the CPU."""

    inputs: Tensor
    """Ids (B, T)."""
    targets: Tensor
    """The next ids (B, T); IGNORED where none counts."""
    tokens: int
    """Tokens read, padding not counted."""
    weights: Tensor | None = None
    """What each target's loss counts for (B, T); None where every target counts 1."""
    positions: Tensor | None = None
    """Each token's place in its own example (B, T), where a row holds several; None where it holds one."""

    @property
    def weight(self) -> float:
        """The weights of the targets that count, summed."""
        if self.weights is None:
            return float((self.targets != IGNORED).sum())
        return float(self.weights.sum())

    def rows(self, micro_batch_tokens: int | None) -> int:
        """Rows of passes as equal as can be, of at most so many tokens each, at least a row; None stands for all."""
        fit = max(1, (micro_batch_tokens or self.inputs.numel()) // self.inputs.shape[1])
        passes = -(-len(self.inputs) // fit)
        return -(-len(self.inputs) // passes)

    def split(self, micro_batch_tokens: int | None) -> Iterator[tuple[Tensor, Tensor, Tensor | None, Tensor | None]]:
        """(inputs, targets, weights, positions) of at most so many tokens each, at least one row; None: all at once."""
        rows = self.rows(micro_batch_tokens)
        for begin in range(0, len(self.inputs), rows):
            part = slice(begin, begin + rows)
            weights = None if self.weights is None else self.weights[part]
            positions = None if self.positions is None else self.positions[part]
            yield self.inputs[part], self.targets[part], weights, positions

    def share(self, number: int, of: int) -> Batch:
        """The rows of one of so many equal parts; empty rows, which count nothing, fill up what is missing.

        `tokens` stays that of the whole.
        """
        rows = -(-len(self.inputs) // of)

        def cut(tensor: Tensor, filling: Tensor) -> Tensor:
            """filling: an empty row (T,), or what every place of it holds."""
            part = tensor[number * rows : (number + 1) * rows]
            return torch.cat([part, filling.to(tensor.dtype).expand(rows - len(part), tensor.shape[1])])

        nothing, places = torch.tensor(0), torch.arange(self.inputs.shape[1])
        weights = None if self.weights is None else cut(self.weights, nothing)
        positions = None if self.positions is None else cut(self.positions, places)
        targets = cut(self.targets, torch.tensor(IGNORED))
        return Batch(cut(self.inputs, nothing), targets, self.tokens, weights, positions)


class Windows(Protocol):
    """A long row of token ids, such as `gptcore.text.token_shards.TokenShards`."""

    @property
    def total(self) -> int:
        """Tokens in all."""
        ...

    def window(self, start: int, length: int) -> npt.NDArray[np.generic]:
        """The ids from `start` on."""
        ...


@dataclass(frozen=True)
class WindowBatches:
    """Pretraining: windows of the token shards, each once an epoch, in an order keyed by (seed, epoch)."""

    shards: Windows
    context: int
    batch_tokens: int
    seed: int

    def __post_init__(self) -> None:
        if self.shards.total <= self.context:
            raise ValueError(
                f"the train split holds {self.shards.total} tokens; a context of {self.context} needs at least "
                f"{self.context + 1}: add text or lower model.context"
            )

    def __call__(self, step: int) -> Batch:
        """The batch of a step."""
        rows = max(1, self.batch_tokens // self.context)
        count = (self.shards.total - 1) // self.context  # windows; each target has its place in one of them
        epoch, index = np.divmod(np.arange(step * rows, (step + 1) * rows), count)
        ids = np.empty((rows, self.context + 1), dtype=np.int64)
        for e in np.unique(epoch):
            here = np.flatnonzero(epoch == e)
            for row, window in zip(here, permute(index[here], count, key_of(self.seed, int(e))), strict=True):
                ids[row] = self.shards.window(int(window) * self.context, self.context + 1)
        both = torch.from_numpy(ids)
        return Batch(both[:, :-1].contiguous(), both[:, 1:].contiguous(), rows * self.context)


@dataclass(frozen=True)
class Example:
    """A prompt and the answer to learn, and what may follow: further prompts and answers, each seeing all before."""

    prompt: Sequence[int]
    target: Sequence[int]
    then: tuple[Example, ...] = ()

    @property
    def turns(self) -> tuple[Example, ...]:
        """Itself, and what follows it."""
        return (self, *self.then)

    def __len__(self) -> int:
        return sum(len(turn.prompt) + len(turn.target) for turn in self.turns)


def lay(rows: Sequence[Sequence[Example]]) -> Batch:
    """Examples one after the other in their rows, padded on the right to the longest; only answers are targets.

    Every answer counts the same, however long, as it does in exact match: its tokens share a weight of 1. Causal
    attention keeps the padding out of every real token's sight.
    """
    length = max(sum(len(example) - 1 for example in row) for row in rows)
    inputs = np.zeros((len(rows), length), dtype=np.int64)
    targets = np.full((len(rows), length), IGNORED, dtype=np.int64)
    weights = np.zeros((len(rows), length), dtype=np.float32)
    positions = np.zeros((len(rows), length), dtype=np.int64)
    tokens = 0
    for row, examples in enumerate(rows):
        begin = 0
        for example in examples:
            ids: list[int] = []
            for turn in example.turns:
                ids += (*turn.prompt, *turn.target)
                end = begin + len(ids) - 1
                answer = slice(end - len(turn.target), end)
                targets[row, answer], weights[row, answer] = turn.target, 1 / len(turn.target)
            inputs[row, begin:end] = ids[:-1]
            positions[row, begin:] = np.arange(length - begin)
            tokens += end - begin
            begin = end
    shared = torch.from_numpy(positions) if any(len(row) > 1 for row in rows) else None
    return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), tokens, torch.from_numpy(weights), shared)


def collate(examples: Sequence[Example]) -> Batch:
    """One example a row."""
    return lay([[example] for example in examples])


LENGTH_JITTER = 16
"""Tokens by which an example may stand out of line in the sort by length: enough that its neighbours change each epoch,
little enough that padding stays small."""


def fill(order: Integers, lengths: Integers, batch_tokens: int) -> list[Integers]:
    """Cut `order` where a batch padded to its longest would pass `batch_tokens`; each holds one example at least."""
    cuts, begin, longest = [], 0, 0
    for place, length in enumerate(lengths[order].tolist()):
        longest = max(longest, length)
        if place > begin and longest * (place - begin + 1) > batch_tokens:
            cuts.append(place)
            begin, longest = place, length
    return np.split(order, cuts)


def plan(lengths: Integers, batch_tokens: int, steps: int, seed: int) -> list[Integers]:
    """Which examples each step takes, at most `batch_tokens` of them with padding (but always one).

    Each epoch: 1. sort by length with a jitter; 2. cut where the padded batch is full; 3. shuffle the batches.
    """
    batches: list[Integers] = []
    epoch = 0
    while len(batches) < steps:
        random = np.random.Generator(np.random.Philox(key=key_of(seed, epoch)))
        order = np.argsort(lengths + random.integers(0, LENGTH_JITTER, len(lengths)), kind="stable")
        parts = fill(order, lengths, batch_tokens)
        batches += [parts[i] for i in random.permutation(len(parts))]
        epoch += 1
    return batches[:steps]


class ExampleBatches:
    """Fine-tuning: examples of like length together, each once an epoch."""

    def __init__(self, examples: Sequence[Example], batch_tokens: int, steps: int, seed: int) -> None:
        self.examples, self._batch_tokens, self._seed = examples, batch_tokens, seed
        self._lengths: Integers = np.array([len(example) for example in examples], dtype=np.int64)
        self.plan = plan(self._lengths, batch_tokens, steps, seed)

    def __call__(self, step: int) -> Batch:
        """The batch of a step; there is one past `steps` too, for a run that passed over some."""
        if step >= len(self.plan):  # a longer plan begins with the shorter one
            self.plan = plan(self._lengths, self._batch_tokens, 2 * step, self._seed)
        return collate([self.examples[i] for i in self.plan[step]])
