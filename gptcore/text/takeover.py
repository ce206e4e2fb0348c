"""The tokenizer stage of a preset with `model.init`: another model's tokenizer, with our special tokens added."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer as BpeTokenizer

from gptcore.config import Tokenizer
from gptcore.durable import write_bytes
from gptcore.text.tokenizer import TextTokenizer, finish_tokenizer, text_sample
from gptcore.tokenizer_file import extended, missing_tokens, read_saved, size_of
from gptcore.work import Outcome, Work

PROBES = (
    " \n\n\n  \n\tx  y   \r\n\r\n z   ",
    "don't WE'LL I'm O'Neil they'RE \u017f'\u017f 3.14159 1234567 ١٢٣ ½ Ⅻ",
    "naïve café — “quotes” 東京 प्रोग्रामिंग مرحبا 👩‍👩‍👧 e\u0301 \u212b",
    "\x00\x01\x7f\u0085\u00a0\u180e\u2028\ufeff\ufffd\U0010ffff",
)
"""Where two readings of a tokenizer.json come apart first: blanks, contractions, numbers, accents."""


def take_over_tokenizer(config: Tokenizer, directory: Path, work: Work) -> Outcome:
    """Write the tokenizer of `directory` with our special tokens, as `train_tokenizer` writes one of ours.

    FileNotFoundError without a tokenizer; ValueError for one whose ids tiktoken could not give, or that is not of
    `config.vocab_size`, and for a corpus without text to measure it on.
    """
    saved = read_saved(directory)
    whole = extended(saved)
    if size_of(whole) != config.vocab_size:
        raise ValueError(
            f"tokenizer.vocab_size {config.vocab_size} is not that of {directory} with our special tokens, "
            f"{size_of(whole)}; leave it out"
        )
    TextTokenizer.of(saved, directory)  # what cannot be taken is refused by its own name
    sample = text_sample(config, work)
    bpe = BpeTokenizer.from_str(json.dumps(whole))
    write_bytes(work.directory / "tokenizer.json", bpe.to_str(pretty=True).encode() + b"\n")
    tokenizer = TextTokenizer.load(work.directory)
    _compare(tokenizer, bpe, directory)
    work.say(f"{size_of(saved):,} tokens taken over, and {len(missing_tokens(saved))} special tokens added")
    return finish_tokenizer(tokenizer, sample, work)


def _compare(tokenizer: TextTokenizer, bpe: BpeTokenizer, directory: Path) -> None:
    """ValueError where tiktoken and `tokenizers` read the file differently, on every piece and some odd texts."""
    for token, i in tokenizer.special.items():
        if bpe.token_to_id(token) != i:
            raise ValueError(f"{directory}: its ids have gaps, so that {token} cannot be added behind them")
    bpe.encode_special_tokens = True
    for text in (*PROBES, *_pieces(tokenizer)):
        if bpe.encode(text).ids != tokenizer.encode(text):
            raise ValueError(f"{directory}: tiktoken and tokenizers encode {text!r} differently, so it cannot be taken")


def _pieces(tokenizer: TextTokenizer) -> Iterator[str]:
    """Each id's text, where its bytes are one."""
    for i in range(tokenizer.vocab_size):
        if tokenizer.holds(i):
            text = tokenizer.decode([i])
            if text and "\ufffd" not in text:
                yield text
