"""A word-level vocabulary that loses no text: the most frequent words, and the bytes of all others.

The library's own WordLevel model writes `<unk>` for a word that it does not know, and what the word was is lost: no
bits per byte could be told. Here the vocabulary that its trainer counts goes into a BPE without merges, which takes a
known word whole (`ignore_merges`) and leaves any other one as its bytes. `<unk>` is there for whoever wants to hide a
word; no text is encoded to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import models, trainers

from gptcore.text.bpe_training import finished
from gptcore.text.splitting import byte_characters, pre_tokenizer

MIN_WORD_COUNT = 2
"""A word must be seen twice: a token seen once only repeats its text."""


def train_word(texts: Iterable[str], documents: int, size: int, special: Sequence[str]) -> LibraryTokenizer:
    """256 bytes, words with their leading space by falling count, then the special tokens: `size` at most.

    Same text, same tokenizer: words of equal count stand in the order of their bytes' stand-ins.
    """
    counted = LibraryTokenizer(models.WordLevel())
    counted.pre_tokenizer = pre_tokenizer()
    room, letters = size - len(special) - 256, byte_characters()
    trainer = trainers.WordLevelTrainer(
        vocab_size=room + len(letters),  # some of the first may be single bytes
        min_frequency=MIN_WORD_COUNT,
        show_progress=False,
    )
    counted.train_from_iterator(texts, trainer, length=documents)
    ranks: dict[str, int] = json.loads(counted.to_str())["model"]["vocab"]
    words = sorted(ranks.keys() - set(letters), key=ranks.__getitem__)[:room]
    vocab = {piece: i for i, piece in enumerate([*letters, *words])}
    return finished(LibraryTokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True)), special)
