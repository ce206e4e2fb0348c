"""Which items stand in one row: those about one text, behind one another.

An item of its own repeats its text for every question. Here it is read once, and each question is answered with all
earlier ones in sight; the first of a row is what a benchmark asks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gptcore.text.skills import Item, Prompt
from gptcore.training.batches import Example


def beside_their_like(found: Iterable[Item], field: str) -> list[Item]:
    """The items, each group with the same text in `field` where its first stood, in the order they had."""
    groups: dict[tuple[str, str], list[Item]] = {}
    for item in found:
        groups.setdefault((item.group, item.fields[field]), []).append(item)
    return [item for group in groups.values() for item in group]


class Rows:
    """Examples in the making: an item goes behind the one before where both speak of one text and there is room."""

    def __init__(self, longest: int) -> None:
        """longest: tokens of a row that several items share, the last, which is only a target, not counted; 0: none."""
        self.examples: list[Example] = []
        self.items = 0
        self._longest = longest
        self._head: list[int] | None = None

    def add(self, prompt: Prompt, target: list[int]) -> int:
        """Put an item at the end; returns how many tokens that took."""
        head, rest = prompt.tokens[: prompt.head], prompt.tokens[prompt.head :]
        self.items += 1
        if rest and head == self._head:
            last, tokens = self.examples[-1], len(rest) + len(target)
            if len(last) + tokens - 1 <= self._longest:
                self.examples[-1] = replace(last, then=(*last.then, Example(rest, target)))
                return tokens
        self.examples.append(Example(prompt.tokens, target))
        self._head = head
        return len(self.examples[-1])
