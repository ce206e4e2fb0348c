"""The tokenizer stage, and the tokenizer that it leaves: text to ids and back.

`tokenizers` trains it and writes tokenizer.json, which transformers reads.
Ids of ours: 256 bytes, then the merges in rank order (or the pieces, or words), then the special tokens.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gptcore.byte_vocabulary import ByteVocabulary, readable
from gptcore.config import SPECIAL_TOKENS, WORD_TOKENS, Tokenizer, special_tokens
from gptcore.durable import write_bytes, write_json
from gptcore.text.bpe_training import train_bpe
from gptcore.text.documents import read_documents
from gptcore.text.encodings import Encoding, Ids, encoding_of
from gptcore.text.sampling import EvenSample
from gptcore.text.unigram_training import train_unigram
from gptcore.text.word_training import train_word
from gptcore.text.words import spaced
from gptcore.tokenizer_file import read_saved
from gptcore.weight_files import read_object
from gptcore.work import Outcome, Work

TRAININGS = {"bpe": train_bpe, "unigram": train_unigram, "word": train_word}
"""By `tokenizer.kind`."""
NO_LIMIT = int(1e30)
"""What transformers writes for no limit: the longest sequence is the model's affair, not the tokenizer's."""


def train_tokenizer(config: Tokenizer, work: Work) -> Outcome:
    """Train on the corpus's train split and write tokenizer.json, tokenizer_config.json and statistics.json.

    Raises ValueError when there is no text, or too little of it for `config.vocab_size`.
    """
    sample = text_sample(config, work)
    if sample.bytes < sample.available_bytes:
        work.say(f"training on an even sample: {sample.bytes:,} of {sample.available_bytes:,} bytes")
    _use_threads(work)
    special = special_tokens(config.kind)
    trained = TRAININGS[config.kind](_reported(sample, work), sample.documents, config.vocab_size, special)
    size = trained.get_vocab_size()
    if size < config.vocab_size:
        raise ValueError(
            f"tokenizer.vocab_size {config.vocab_size} is more than {sample.bytes} bytes of text support: "
            f"at most {size}; lower it, add text to the corpus, or raise tokenizer.train_bytes"
        )
    write_bytes(work.directory / "tokenizer.json", trained.to_str(pretty=True).encode() + b"\n")
    return finish_tokenizer(TextTokenizer.load(work.directory), sample, work)


def text_sample(config: Tokenizer, work: Work) -> EvenSample:
    """What of the train split a tokenizer may see; ValueError when that is nothing."""
    for stale in work.directory.glob(".*.part"):
        stale.unlink()
    sample = EvenSample.choose(read_documents(work.inputs["corpus"], "train"), config.train_bytes)
    if not sample.available_bytes:
        raise ValueError("the corpus has no training text; add sources, or lower corpus.min_chars")
    if not sample.bytes:
        raise ValueError(
            f"tokenizer.train_bytes {config.train_bytes} holds no document of the corpus ({sample.available_documents} "
            f"documents, {sample.available_bytes} bytes); raise tokenizer.train_bytes, or lower corpus.max_chars"
        )
    return sample


def finish_tokenizer(tokenizer: TextTokenizer, sample: EvenSample, work: Work) -> Outcome:
    """Write what stands beside tokenizer.json."""
    write_json(work.directory / "tokenizer_config.json", _transformers_config(tokenizer.special))
    statistics = _statistics(work.inputs["corpus"], tokenizer, sample)
    write_json(work.directory / "statistics.json", statistics)
    return Outcome(
        results=("tokenizer.json", "tokenizer_config.json", "statistics.json"),
        metrics={f"tokenizer/{name}": statistics[name] for name in ("vocab_size", "bytes_per_token", "fertility")},
    )


def _use_threads(work: Work) -> None:
    """The library's thread pool is made on first use and reads its size then, so a later value changes nothing."""
    if work.runtime.threads is not None:
        os.environ["RAYON_NUM_THREADS"] = str(work.runtime.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false" if work.runtime.threads == 1 else "true"


def _reported(sample: EvenSample, work: Work) -> Iterator[str]:
    """The sample's texts, moving the bar."""
    seen = told = 0
    for text in sample.texts(read_documents(work.inputs["corpus"], "train")):
        yield text
        seen += len(text.encode())
        if seen - told >= 1_000_000 or seen == sample.bytes:
            work.progress(seen, sample.bytes, "bytes")
            told = seen


def _transformers_config(special: Mapping[str, int]) -> dict[str, Any]:
    """What `transformers.AutoTokenizer` reads beside tokenizer.json."""
    word = dict(zip(("sep_token", "unk_token"), WORD_TOKENS[2:], strict=True)) if WORD_TOKENS[0] in special else {}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL_TOKENS[0],
        "eos_token": SPECIAL_TOKENS[0],
        "pad_token": SPECIAL_TOKENS[1],
        **word,
        "clean_up_tokenization_spaces": False,
        "model_max_length": NO_LIMIT,
    }


def _statistics(corpus: Path, tokenizer: TextTokenizer, sample: EvenSample) -> dict[str, Any]:
    """Size and density of the tokenizer, on the validation split, or on its training text when that split is empty."""
    measured = Counter[str]()
    split = "validation"
    for document in read_documents(corpus, split):
        measured += _count(document.text, tokenizer)
    if not measured["tokens"]:
        split = "train"
        for text in sample.texts(read_documents(corpus, split)):
            measured += _count(text, tokenizer)
    return {
        "vocab_size": tokenizer.vocab_size,
        "special_tokens": tokenizer.special,
        "split_pattern": tokenizer.pattern,
        "trained_on": {"split": "train", **vars(sample)},
        "measured_on": {"split": split, **measured},
        "bytes_per_token": measured["bytes"] / measured["tokens"],
        "fertility": measured["tokens"] / measured["words"],
    }


def _count(text: str, tokenizer: TextTokenizer) -> Counter[str]:
    words = len(spaced(text).split())
    return Counter(documents=1, bytes=len(text.encode()), words=words, tokens=len(tokenizer.encode(text)))


class TextTokenizer:
    """Text to ids and back: tokenizers of ours, and byte-level ones of others that are encoded identically."""

    def __init__(self, vocabulary: ByteVocabulary, encoding: Encoding, end: str, rows: int = 0) -> None:
        """end: the token that ends a text.

        rows: of the model's table; those without a token are its padding, and an id of one decodes to nothing.
        """
        self._vocabulary, self._encoding, self._end = vocabulary, encoding, end
        self._special_ids = frozenset([*vocabulary.special.values(), *range(vocabulary.size, rows)])
        self.special = vocabulary.special
        """Special token -> id."""
        self.vocab_size = vocabulary.size
        """One more than the largest id."""
        self.encodes_by = encoding.library
        """The library that encodes: tiktoken or tokenizers."""
        self.pattern = vocabulary.pattern
        """Splits a text into the parts that are encoded by themselves."""
        self.eot = vocabulary.special[end]
        """Id of the end of a text."""
        self.padding = vocabulary.special.get(SPECIAL_TOKENS[1], self.eot)

    @classmethod
    def load(cls, directory: Path, rows: int = 0) -> TextTokenizer:
        """Read `directory`/tokenizer.json, or GPT-2's vocab.json and merges.txt; rows: of the model's table.

        FileNotFoundError when there is neither; ValueError for one that is not byte-level, or damaged.
        """
        return cls.of(read_saved(directory), directory, rows)

    @classmethod
    def of(cls, saved: Mapping[str, Any], directory: Path, rows: int = 0) -> TextTokenizer:
        """The tokenizer that `read_saved` found in a directory; ValueError as `load`."""
        vocabulary = readable(saved, directory)
        end = SPECIAL_TOKENS[0]
        if end not in vocabulary.special:
            end = _end_token(directory) or end
            if end not in vocabulary.special:
                raise ValueError(
                    f"the tokenizer of {directory} has no special token that ends a text: neither {SPECIAL_TOKENS[0]} "
                    f"nor an eos_token in tokenizer_config.json; there are: {', '.join(vocabulary.special) or 'none'}"
                )
        return cls(vocabulary, encoding_of(saved, vocabulary), end, rows)

    def encode(self, text: str) -> list[int]:
        """Ids of corpus text, in which a special token's name is ordinary text. Lone surrogates become U+FFFD."""
        return self._encoding.ordinary(text)

    def encode_documents(self, texts: Sequence[str]) -> Ids:
        """Ids of documents one after another, each closed by the end-of-text token, (tokens,) uint32."""
        return self._encoding.documents(texts, self._end)

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a prompt, in which special tokens stand for themselves."""
        return self._encoding.prompt(text)

    def holds(self, i: int) -> bool:
        """Whether an id stands for text, and not for a special token or nothing."""
        return i not in self._special_ids and bool(self._sizes[i])

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids, special tokens included. Raises KeyError for an id outside the vocabulary."""
        return self._encoding.decode_bytes(ids)

    def text_bytes(self, ids: Iterable[int]) -> bytes:
        """As `decode_bytes`, without special tokens."""
        return self.decode_bytes(i for i in ids if i not in self._special_ids)

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD. Raises KeyError for an id outside the vocabulary."""
        return (self.text_bytes(ids) if skip_special else self.decode_bytes(ids)).decode(errors="replace")

    @cached_property
    def _sizes(self) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        sizes = np.zeros(self.vocab_size, dtype=np.int32)
        for piece, i in self._vocabulary.pieces.items():
            sizes[i] = len(piece)
        for token, i in self._vocabulary.plain.items():
            sizes[i] = len(token.encode())
        return sizes

    def token_bytes(self) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        """Bytes of text each id stands for, (vocab_size,); special tokens stand for none."""
        return self._sizes.copy()


def _end_token(directory: Path) -> str | None:
    """What tokenizer_config.json says ends a text."""
    path = directory / "tokenizer_config.json"
    token = read_object(path).get("eos_token") if path.is_file() else None
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None
