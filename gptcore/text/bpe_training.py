"""Byte-level byte pair encoding (Sennrich et al. 2016, section 3.2; on bytes as Radford et al. 2019, section 2.2)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, decoders, models, trainers
from tokenizers import Tokenizer as LibraryTokenizer

from gptcore.text.splitting import byte_characters, pre_tokenizer

MIN_PAIR_COUNT = 2
"""A merge must be seen twice: a token seen once only repeats its text."""


def train_bpe(texts: Iterable[str], documents: int, size: int, special: Sequence[str]) -> LibraryTokenizer:
    """256 bytes, merges, then the special tokens: `size` in all, or fewer where no pair is left to merge.

    Same text, same tokenizer, whatever the number of threads: pairs of equal count are merged lowest ids first.
    """
    bare = LibraryTokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(special),
        min_frequency=MIN_PAIR_COUNT,
        initial_alphabet=byte_characters(),
        show_progress=False,
    )
    bare.train_from_iterator(texts, trainer, length=documents)
    learned = json.loads(bare.to_str())["model"]
    # The trainer would give special tokens the first ids; appended here, they follow the merges.
    vocab = learned["vocab"] | {token: len(learned["vocab"]) + i for i, token in enumerate(special)}
    merges = [(left, right) for left, right in learned["merges"]]
    return finished(LibraryTokenizer(models.BPE(vocab=vocab, merges=merges)), special)


def finished(tokenizer: LibraryTokenizer, special: Sequence[str]) -> LibraryTokenizer:
    """The same with what goes before and after its model, and with the special tokens."""
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer
