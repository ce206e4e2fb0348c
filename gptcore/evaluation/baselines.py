"""The trivial answers that every score stands beside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from gptcore.config import Skill
from gptcore.text.docstring_items import first_sentence
from gptcore.text.documents import Document
from gptcore.text.skills import Item, even_sample, items

SAMPLE = 4_000
"""Training documents whose items' answers are counted at most: parsing them all takes longer than answering."""


def lead_sentence(item: Item) -> str:
    """The first sentence of the document."""
    return first_sentence(item.fields["document"].partition("\n")[0])


def most_frequent(skill: Skill, training: Iterable[Document]) -> Callable[[Item], str]:
    """The most frequent answer of each kind in an even sample of the documents; of all kinds for an unseen one."""
    everywhere: Counter[str] = Counter()
    by_kind: dict[str, Counter[str]] = {}
    for item in items(skill, even_sample(training, SAMPLE, "most frequent answer", lambda document: document.id)):
        everywhere[item.target] += 1
        by_kind.setdefault(item.kind, Counter())[item.target] += 1

    def top(counts: Counter[str]) -> str:
        return min(counts, key=lambda answer: (-counts[answer], answer), default="")

    answers, otherwise = {kind: top(counts) for kind, counts in by_kind.items()}, top(everywhere)
    return lambda item: answers.get(item.kind, otherwise)


def baseline(skill: Skill, training: Iterable[Document]) -> Callable[[Item], str]:
    """What the skill's trivial method answers to an item; only most_frequent_answer reads the training documents."""
    return lead_sentence if skill.baseline == "lead_sentence" else most_frequent(skill, training)
