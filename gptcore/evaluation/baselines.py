"""The trivial answers that every score stands beside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from gptcore.config import Skill
from gptcore.text.docstring_items import first_sentence
from gptcore.text.skills import Item, sample_items

SAMPLE = 20_000
"""Training items that the most frequent answers are counted over at most; bounds memory."""


def lead_sentence(text: str) -> str:
    """The first sentence of a text's first line."""
    return first_sentence(text.partition("\n")[0])


def most_frequent(training: Iterable[Item]) -> Callable[[Item], str]:
    """The most frequent answer of each kind in an even sample of the training items; of all kinds for an unseen one."""
    sample = sample_items(training, SAMPLE, "most frequent answer")
    everywhere = Counter(item.target for item in sample)
    by_kind: dict[str, Counter[str]] = {}
    for item in sample:
        by_kind.setdefault(item.kind, Counter())[item.target] += 1

    def top(counts: Counter[str]) -> str:
        return min(counts, key=lambda answer: (-counts[answer], answer), default="")

    answers, otherwise = {kind: top(counts) for kind, counts in by_kind.items()}, top(everywhere)
    return lambda item: answers.get(item.kind, otherwise)


def baseline(skill: Skill, training: Iterable[Item]) -> Callable[[Item], str]:
    """What the skill's trivial method answers to an item; only the frequent ones read the training items."""
    if skill.baseline in ("most_frequent_answer", "majority_label"):
        return most_frequent(training)
    said = lead_sentence if skill.baseline == "lead_sentence" else str
    return lambda item: said(item.fields[skill.truncate])
