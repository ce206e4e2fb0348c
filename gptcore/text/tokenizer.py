"""The tokenizer: training a byte-level BPE, and turning text into ids and back.

`tokenizers` trains it and writes tokenizer.json, which transformers reads. Encoding goes through tiktoken, built from
that file: the same ids for a fifth of the processor time.
Ids of ours: 256 bytes, then the merges in rank order, then the special tokens.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as BpeTokenizer

from gptcore.byte_bpe import ByteBpe, readable
from gptcore.config import SPECIAL_TOKENS, Tokenizer
from gptcore.durable import write_bytes, write_json
from gptcore.text.documents import read_documents
from gptcore.text.sampling import EvenSample
from gptcore.tokenizer_file import read_saved
from gptcore.weight_files import read_object
from gptcore.work import Outcome, Work

# After GPT-4's pattern (cl100k_base in tiktoken's tiktoken_ext/openai_public.py). What differs, and why:
# - numbers in groups of two, not three: 110 number tokens instead of 1,110 in a small vocabulary (as nanochat does);
# - runs of spaces end at 64: on longer ones the look-ahead makes tiktoken's regex engine overflow its stack;
# - letter case is spelled out, so that nothing depends on how an engine folds case.
SPLIT_PATTERN = "|".join(
    (
        r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])",  # English contractions
        r"[^\r\n\p{L}\p{N}]?\p{L}+",  # letters, with one leading space or sign
        r"\p{N}{1,2}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",  # signs, with a leading space and the line ends after them
        r"\s{0,64}[\r\n]+",
        r"\s{1,64}(?!\S)",  # spaces, but the last one belongs to the word that follows
        r"\s{1,64}",
    )
)
MIN_PAIR_COUNT = 2
"""A merge must be seen twice: a token seen once only repeats its text."""
LONGEST_BLANK = 200_000
"""Blanks in a row, characters, on which tiktoken's regex engine still finds its way with the patterns of others; a
million overflow its stack."""
_BLANKS = re.compile(rf"\s{{{LONGEST_BLANK}}}")
Ids = np.ndarray[tuple[int], np.dtype[np.uint32]]
NO_LIMIT = int(1e30)
"""What transformers writes for no limit: the longest sequence is the model's affair, not the tokenizer's."""


def train_tokenizer(config: Tokenizer, work: Work) -> Outcome:
    """Train on the corpus's train split and write tokenizer.json, tokenizer_config.json and statistics.json.

    Raises ValueError when there is no text, or too little of it for `config.vocab_size`.
    """
    sample = text_sample(config, work)
    if sample.bytes < sample.available_bytes:
        work.say(f"training on an even sample: {sample.bytes:,} of {sample.available_bytes:,} bytes")
    bpe = _train_bpe(config, sample, work)
    write_bytes(work.directory / "tokenizer.json", bpe.to_str(pretty=True).encode() + b"\n")
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
    write_json(work.directory / "tokenizer_config.json", _transformers_config())
    statistics = _statistics(work.inputs["corpus"], tokenizer, sample)
    write_json(work.directory / "statistics.json", statistics)
    return Outcome(
        results=("tokenizer.json", "tokenizer_config.json", "statistics.json"),
        metrics={f"tokenizer/{name}": statistics[name] for name in ("vocab_size", "bytes_per_token", "fertility")},
    )


def _train_bpe(config: Tokenizer, sample: EvenSample, work: Work) -> BpeTokenizer:
    """Same text, same tokenizer, whatever the number of threads: pairs of equal count are merged lowest ids first."""
    # tokenizers' thread pool is made on first use and reads its size then, so a later value changes nothing.
    if work.runtime.threads is not None:
        os.environ["RAYON_NUM_THREADS"] = str(work.runtime.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false" if work.runtime.threads == 1 else "true"

    def reported() -> Iterator[str]:
        seen = told = 0
        for text in sample.texts(read_documents(work.inputs["corpus"], "train")):
            yield text
            seen += len(text.encode())
            if seen - told >= 1_000_000 or seen == sample.bytes:
                work.progress(seen, sample.bytes, "bytes")
                told = seen

    bare = BpeTokenizer(models.BPE())
    bare.pre_tokenizer = _pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size - len(SPECIAL_TOKENS),
        min_frequency=MIN_PAIR_COUNT,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bare.train_from_iterator(reported(), trainer, length=sample.documents)
    learned = json.loads(bare.to_str())["model"]
    largest = len(learned["vocab"]) + len(SPECIAL_TOKENS)
    if largest < config.vocab_size:
        raise ValueError(
            f"tokenizer.vocab_size {config.vocab_size} is more than {sample.bytes} bytes of text support: "
            f"at most {largest}; lower it, add text to the corpus, or raise tokenizer.train_bytes"
        )
    # The trainer would give special tokens the first ids; appended here, they follow the merges.
    vocab = learned["vocab"] | {token: len(learned["vocab"]) + i for i, token in enumerate(SPECIAL_TOKENS)}
    bpe = BpeTokenizer(models.BPE(vocab=vocab, merges=[(left, right) for left, right in learned["merges"]]))
    bpe.pre_tokenizer = _pre_tokenizer()
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return bpe


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _transformers_config() -> dict[str, Any]:
    """What `transformers.AutoTokenizer` reads beside tokenizer.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL_TOKENS[0],
        "eos_token": SPECIAL_TOKENS[0],
        "pad_token": SPECIAL_TOKENS[1],
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
    return Counter(documents=1, bytes=len(text.encode()), words=len(text.split()), tokens=len(tokenizer.encode(text)))


class TextTokenizer:
    """Text to ids and back: tokenizers of ours, and byte-level BPE of others that tiktoken encodes identically."""

    def __init__(self, bpe: ByteBpe, end: str, saved: Mapping[str, Any], rows: int = 0) -> None:
        """end: the token that ends a text. saved: what tokenizer.json holds, for texts that tiktoken cannot encode.

        rows: of the model's table; those without a token are its padding, and an id of one decodes to nothing.
        """
        self._bpe, self._saved = bpe, saved
        self._encoding = tiktoken.Encoding(
            "gptmill",
            pat_str=bpe.pattern,
            mergeable_ranks=bpe.pieces,
            special_tokens={**bpe.plain, **bpe.special},
        )
        self._end = end
        # Between texts the token must be found where it was put: not where a part of it ends a text, or where a longer
        # special token begins. Plain tokens could reach across.
        self._joinable = not (
            bpe.plain
            or any(end.startswith(end[-length:]) for length in range(1, len(end)))
            or any(token.startswith(end) for token in bpe.special if token != end)
        )
        self._special_ids = frozenset([*bpe.special.values(), *range(bpe.size, rows)])
        self.special = bpe.special
        """Special token -> id."""
        self.vocab_size = bpe.size
        """One more than the largest id."""
        self.pattern = bpe.pattern
        """Splits a text into the parts that are merged by themselves."""
        self.eot = bpe.special[end]
        """Id of the end of a text."""
        self.padding = bpe.special.get(SPECIAL_TOKENS[1], self.eot)

    @classmethod
    def load(cls, directory: Path, rows: int = 0) -> TextTokenizer:
        """Read `directory`/tokenizer.json, or GPT-2's vocab.json and merges.txt; rows: of the model's table.

        FileNotFoundError when there is neither; ValueError when tiktoken could not give the same ids for it.
        """
        return cls.of(read_saved(directory), directory, rows)

    @classmethod
    def of(cls, saved: Mapping[str, Any], directory: Path, rows: int = 0) -> TextTokenizer:
        """The tokenizer that `read_saved` found in a directory; ValueError as `load`."""
        bpe = readable(saved, directory)
        end = SPECIAL_TOKENS[0]
        if end not in bpe.special:
            end = _end_token(directory) or end
            if end not in bpe.special:
                raise ValueError(
                    f"the tokenizer of {directory} has no special token that ends a text: neither {SPECIAL_TOKENS[0]} "
                    f"nor an eos_token in tokenizer_config.json; there are: {', '.join(bpe.special) or 'none'}"
                )
        return cls(bpe, end, saved, rows)

    def encode(self, text: str) -> list[int]:
        """Ids of corpus text, in which a special token's name is ordinary text. Lone surrogates become U+FFFD."""
        if self._bpe.composed:
            text = unicodedata.normalize("NFC", text)
        if len(text) > LONGEST_BLANK and self.pattern != SPLIT_PATTERN and _BLANKS.search(text):
            return self._encode_slowly(text)
        if self._bpe.plain:
            return self._encoding.encode(text, allowed_special=set(self._bpe.plain), disallowed_special=())
        return self._encoding.encode_ordinary(text)

    def _encode_slowly(self, text: str) -> list[int]:
        """The same ids from `tokenizers`."""
        slow = BpeTokenizer.from_str(json.dumps(self._saved))
        slow.encode_special_tokens = True
        slow.no_truncation()
        ids: list[int] = slow.encode(text, add_special_tokens=False).ids
        return ids

    def encode_documents(self, texts: Sequence[str]) -> Ids:
        """Ids of documents one after another, each closed by the end-of-text token, (tokens,) uint32.

        As `encode` on each, and a quarter faster: all go to tiktoken at once, and no list of numbers is made.
        """
        if self._joinable and (self.pattern == SPLIT_PATTERN or max(map(len, texts), default=0) <= LONGEST_BLANK):
            if self._bpe.composed:
                texts = [unicodedata.normalize("NFC", text) for text in texts]
            joined = "".join([part for text in texts for part in (text, self._end)])
            if joined.count(self._end) == len(texts):  # none of the texts names the token itself
                return self._encoding.encode_to_numpy(joined, allowed_special={self._end}, disallowed_special=())
        return np.array([i for text in texts for i in (*self.encode(text), self.eot)], dtype=np.uint32)

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a prompt, in which special tokens stand for themselves."""
        if self._bpe.composed:
            text = unicodedata.normalize("NFC", text)
        return self._encoding.encode(text, allowed_special="all")

    def holds(self, i: int) -> bool:
        """Whether an id stands for text, and not for a special token or nothing."""
        return i not in self._special_ids and bool(self._sizes[i])

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids, special tokens included. Raises KeyError for an id outside the vocabulary."""
        return self._encoding.decode_bytes(list(ids))

    def text_bytes(self, ids: Iterable[int]) -> bytes:
        """As `decode_bytes`, without special tokens."""
        return self.decode_bytes(i for i in ids if i not in self._special_ids)

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD. Raises KeyError for an id outside the vocabulary."""
        return (self.text_bytes(ids) if skip_special else self.decode_bytes(ids)).decode(errors="replace")

    @cached_property
    def _sizes(self) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        sizes = np.zeros(self.vocab_size, dtype=np.int32)
        for piece, i in self._bpe.pieces.items():
            sizes[i] = len(piece)
        for token, i in self._bpe.plain.items():
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
