"""Of several answers to one prompt the one most like the others: minimum Bayes risk (Eikema and Aziz 2020).

The likeliest answer of a small model is often odd: it goes round in circles, or ends at once. Where a score rewards
likeness, as ROUGE-L does, the best guess is the candidate whose mean score against answers drawn from the model is
highest, as if each of them were the right one. The text's own first sentence may have a say too, and stand in for the
answer where the answers drawn have little in common: then the model does not know (Manakul et al. 2023, section 5).
"""

from __future__ import annotations

from collections.abc import Sequence

from gptcore.text.words import letter_words


def common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence of two lists of words, by bits (Hyyrö 2004).

    Each bit of `open` is a word of `first`, 0 where the common subsequence can grow by it.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    everything = (1 << len(first)) - 1
    open_ = everything
    for word in second:
        here = open_ & places.get(word, 0)
        open_ = (open_ + here | open_ - here) & everything
    return len(first) - open_.bit_count()


def likeness(first: Sequence[str], second: Sequence[str]) -> float:
    """ROUGE-L F-measure of two lists of words, as rouge_score gives it."""
    shared = common_length(first, second)
    return 2 * shared / (len(first) + len(second)) if shared else 0.0


def most_alike(drawn: Sequence[str], lead: str = "", weight: float = 0.0, least: float = 0.0) -> str:
    """Of the answers drawn the one most like the others; the first of equals.

    lead: the text's first sentence, likeness to which counts `weight` times beside it, and which is given instead where
    the answer's mean likeness to the others is below `least`. ValueError without any answer drawn.
    """
    if not drawn:
        raise ValueError("no answers were drawn: there is nothing to be like")
    words, of_lead = [letter_words(text) for text in drawn], letter_words(lead)
    agreement = [
        sum(likeness(one, other) for judge, other in enumerate(words) if judge != candidate) / max(1, len(words) - 1)
        for candidate, one in enumerate(words)
    ]
    worth = [agreed + weight * likeness(one, of_lead) for agreed, one in zip(agreement, words, strict=True)]
    best = worth.index(max(worth))
    return lead if of_lead and len(drawn) > 1 and agreement[best] < least else drawn[best]
