"""Several examples in one row, so that hardly any place is padding."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from gptcore.shuffle import key_of
from gptcore.training.batches import Batch, Example, Integers, lay


def best_fit(order: Integers, lengths: Integers, width: int) -> list[list[int]]:
    """Rows of at most `width` tokens: each of `order` goes where it leaves the least room, else opens a row.

    lengths: by index, none above the width.
    """
    rows: list[list[int]] = []
    with_room: dict[int, list[int]] = defaultdict(list)  # which rows have so much room
    rooms: list[int] = []  # the sizes of room there are, sorted
    for index in order.tolist():
        length = int(lengths[index])
        place = bisect_left(rooms, length)
        if place == len(rooms):
            room, row = width, len(rows)
            rows.append([])
        else:
            room = rooms[place]
            row = with_room[room].pop()
            if not with_room[room]:
                del rooms[place]
        rows[row].append(index)
        room -= length
        if room:
            if not with_room[room]:
                insort(rooms, room)
            with_room[room].append(row)
    return rows


def plan_rows(lengths: Integers, width: int, rows: int, steps: int, seed: int) -> list[list[list[int]]]:
    """Which examples each step takes, in up to `rows` rows of at most `width` tokens.

    Each epoch: 1. the longest examples first, equal ones in random order; 2. best fit, which then fills the gaps with
    the short ones; 3. shuffle the rows; 4. cut them into batches.
    """
    batches: list[list[list[int]]] = []
    epoch = 0
    while len(batches) < steps:
        random = np.random.Generator(np.random.Philox(key=key_of(seed, epoch)))
        order = random.permutation(len(lengths))
        packed = best_fit(order[np.argsort(-lengths[order], kind="stable")], lengths, width)
        packed = [packed[i] for i in random.permutation(len(packed))]
        batches += [packed[begin : begin + rows] for begin in range(0, len(packed), rows)]
        epoch += 1
    return batches[:steps]


def empty_share(plan: Sequence[Sequence[Sequence[int]]], lengths: Integers) -> float:
    """Share of the places of a plan's batches that hold no token; a batch is as wide as its longest row."""
    used = [[int(lengths[row].sum()) for row in batch] for batch in plan]
    places = sum(len(batch) * max(batch) for batch in used)
    return 1 - sum(sum(batch) for batch in used) / places


class PackedBatches:
    """Fine-tuning: examples packed into rows of the context, each once an epoch.

    None is cut or left out: the rows that an epoch's last batch cannot fill with examples are not there.
    """

    def __init__(self, examples: Sequence[Example], context: int, batch_tokens: int, steps: int, seed: int) -> None:
        """context: tokens of a row at most, no fewer than the longest example has."""
        self.examples, self._seed = examples, seed
        # The last token of an example is only a target.
        self._lengths: Integers = np.array([len(example) - 1 for example in examples], dtype=np.int64)
        self._width = min(context, max(batch_tokens, int(self._lengths.max())))
        self._rows = max(1, batch_tokens // self._width)
        self.plan = self._plan(steps)

    def _plan(self, steps: int) -> list[list[list[int]]]:
        return plan_rows(self._lengths, self._width, self._rows, steps, self._seed)

    @property
    def empty(self) -> float:
        """Share of the places of all batches that hold no token."""
        return empty_share(self.plan, self._lengths)

    def __call__(self, step: int) -> Batch:
        """The batch of a step; there is one past `steps` too, for a run that passed over some."""
        if step >= len(self.plan):  # a longer plan begins with the shorter one
            self.plan = self._plan(2 * step)
        return lay([[self.examples[i] for i in row] for row in self.plan[step]])
