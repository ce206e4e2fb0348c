"""Unigram language model (Kudo 2018, section 3.2) over bytes: every text has a segmentation, and none is lost.

The library's trainer keeps its words in a hash map with a new seed in every process, and adds up expected counts in
that order: two trainings on the same text, even on one thread, give scores that differ by about 1e-11, and bytes that
it never needed alone get theirs by lot. Which pieces stay, it decides by whole counts: the same ones in every trial. So
the pieces are taken as they come, and put in an order of their own with scores rounded to `DIGITS`. On 2 MB of Python
sources that costs 23 tokens in 806,231, and 1e-5 of the entropy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import models, trainers

from gptcore.text.bpe_training import finished
from gptcore.text.splitting import byte_characters, pre_tokenizer

DIGITS = 1
"""Of a score, a natural logarithm. Coarse, so that noise of 1e-11 hardly ever (1e-9 a piece) meets a boundary."""
UNSEEN_BAND = 0.03
"""Scores of bytes that the trainer did not need alone lie so near above its lowest: 1e-4 times their number, at random
(`finalize` in its models/unigram/trainer.rs)."""


def train_unigram(texts: Iterable[str], documents: int, size: int, special: Sequence[str]) -> LibraryTokenizer:
    """256 bytes, pieces by falling score, then the special tokens: `size` in all, or fewer where the text has no more.

    Same text, same tokenizer, but for the chance that a score lies on the boundary of two roundings.
    """
    bare = LibraryTokenizer(models.Unigram())
    bare.pre_tokenizer = pre_tokenizer()
    trainer = trainers.UnigramTrainer(
        vocab_size=size - len(special),
        initial_alphabet=byte_characters(),
        special_tokens=[],
        unk_token=None,
        show_progress=False,
    )
    bare.train_from_iterator(texts, trainer, length=documents)
    learned = dict(json.loads(bare.to_str())["model"]["vocab"])
    vocab = settled(learned, size - len(special))
    return finished(LibraryTokenizer(models.Unigram(vocab, None, False)), special)


def settled(learned: dict[str, float], size: int) -> list[tuple[str, float]]:
    """`size` pieces with their scores, in an order that follows from those alone; bytes come first, whatever theirs."""
    lowest = min(learned.values())
    letters = byte_characters()
    alone = {c: learned[c] if learned[c] > lowest + UNSEEN_BAND else lowest - 1 for c in letters}
    scores = {piece: round(score, DIGITS) for piece, score in {**learned, **alone}.items()}
    longer = sorted(learned.keys() - set(letters), key=lambda piece: (-scores[piece], piece))
    return [(piece, scores[piece]) for piece in [*letters, *longer[: size - len(letters)]]]
