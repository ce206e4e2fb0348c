"""The tokenizer on the language reference that ships with Python: text written by people, in every installation."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
import transformers
from tokenizers import Tokenizer as BpeTokenizer

from gptcore.config import SPECIAL_TOKENS, Runtime, Tokenizer
from gptcore.text.documents import Document, write
from gptcore.text.sampling import EvenSample
from gptcore.text.splitting import SPLIT_PATTERN
from gptcore.text.tokenizer import TextTokenizer, train_tokenizer
from gptcore.work import Interrupted, Outcome, Work

VOCAB_SIZE = 1024
ODD_TEXTS = (
    "",
    " ",
    "\n\n\n  \n\tx  y   \r\n\r\n z",
    "a" * 5000,
    "word " * 500,
    "don't WE'LL I'm O'Neil they'RE \u017f'\u017f",
    "3.14159 1234567 ١٢٣ ½ Ⅻ",
    "naïve café — “quotes” 東京 प्रोग्रामिंग مرحبا 👩‍👩‍👧 e\u0301",
    "\x00\x01\x7f\u0085\u00a0\u180e\u2028\ufeff\ufffd\U0010ffff",
    "text about <|endoftext|> and <|answer|>",
)


def document(number: int, text: str) -> Document:
    return Document(id=f"topics/{number}", source="files", group=f"topics/{number}", package=None, name=None, text=text)


def make_corpus(directory: Path, validation: int = 30, limit: int | None = None) -> Path:
    """A corpus of the paragraphs of Python's language reference; the first `validation` ones are held out."""
    paragraphs = [p.strip("\n") for name in sorted(topics) for p in topics[name].split("\n\n") if len(p) > 40][:limit]
    documents = [document(number, text) for number, text in enumerate(dict.fromkeys(paragraphs))]
    (directory / "documents").mkdir(parents=True)
    for split, part in (("validation", documents[:validation]), ("train", documents[validation:])):
        if part:
            (directory / "documents" / f"{split}-00000.jsonl").write_bytes(b"".join(map(write, part)))
    return directory


@contextmanager
def working(directory: Path, inputs: dict[str, Path], **more: Any) -> Iterator[Work]:
    """What the engine gives a stage, on one thread."""
    work = Work(directory, inputs, Runtime(threads=1), **more)
    with closing(work.metrics):
        yield work


def train(directory: Path, corpus: Path, vocab_size: int = VOCAB_SIZE, train_bytes: int = 50_000_000) -> Outcome:
    with working(directory, {"corpus": corpus}) as work:
        return train_tokenizer(Tokenizer(vocab_size=vocab_size, train_bytes=train_bytes), work)


def wide_tokenizer(directory: Path, trained: Path, merges: int) -> Path:
    """A tokenizer of any size, made of pairs of bytes; what real training gives only on a lot of text."""
    saved = json.loads((trained / "tokenizer.json").read_bytes())
    letters = sorted(saved["model"]["vocab"], key=saved["model"]["vocab"].get)[:256]
    pairs = [(left, right) for left in letters for right in letters][:merges]
    pieces = letters + [left + right for left, right in pairs] + list(SPECIAL_TOKENS)
    saved["model"] |= {"vocab": {piece: i for i, piece in enumerate(pieces)}, "merges": pairs}
    for token in saved["added_tokens"]:
        token["id"] = saved["model"]["vocab"][token["content"]]
    directory.mkdir()
    (directory / "tokenizer.json").write_text(json.dumps(saved))
    return directory


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("reference") / "corpus")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    train(directory, corpus)
    return directory


@pytest.fixture(scope="session")
def tokenizer(trained: Path) -> TextTokenizer:
    return TextTokenizer.load(trained)


@pytest.fixture(scope="session")
def reference(trained: Path) -> BpeTokenizer:
    bpe = BpeTokenizer.from_file(str(trained / "tokenizer.json"))
    bpe.encode_special_tokens = True
    return bpe


def random_text(rng: random.Random) -> str:
    """Letters, blanks and signs in runs, mixed with characters from all of Unicode (lone surrogates are no text)."""
    pools: tuple[Callable[[], str], ...] = (
        lambda: rng.choice("abcXYZ '\u2019\"") * rng.randint(1, 4),
        lambda: rng.choice(" \n\t\r\u00a0\u2003") * rng.randint(1, 90),
        lambda: rng.choice("=-_.,:;()[]{}<|>`*#^~"),
        lambda: str(rng.randint(0, 10**6)),
        lambda: chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])),
        lambda: rng.choice(SPECIAL_TOKENS),
    )
    return "".join(rng.choice(pools)() for _ in range(rng.randint(0, 60)))


def test_any_text_round_trips_and_tokenizers_gives_the_same_ids(
    tokenizer: TextTokenizer, reference: BpeTokenizer
) -> None:
    rng = random.Random(20)
    for text in [*ODD_TEXTS, *(random_text(rng) for _ in range(1500))]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode_bytes(ids) == text.encode()
        assert reference.encode(text).ids == ids


def test_every_character_of_unicode_is_split_alike(tokenizer: TextTokenizer, reference: BpeTokenizer) -> None:
    """Two regex engines, two Unicode tables: a character in another class in one of them would show here."""
    ideographs = (range(0x3400, 0xA000), range(0xAC00, 0xD7A4), range(0x20000, 0x110000))
    few = {c for block in ideographs for c in block[::50]}
    codes = [c for c in range(0x20000) if not any(c in block for block in ideographs)] + sorted(few)
    characters = [chr(c) for c in codes if not 0xD800 <= c < 0xE000]
    for start in range(0, len(characters), 4096):
        text = "".join(f"a{c} 1{c}\n" for c in characters[start : start + 4096])
        assert reference.encode(text).ids == tokenizer.encode(text), f"characters from {start}"


def test_every_lone_byte_has_an_id(tokenizer: TextTokenizer) -> None:
    assert {tokenizer.decode_bytes([i]) for i in range(256)} == {bytes([byte]) for byte in range(256)}
    id_of = {tokenizer.decode_bytes([i]): i for i in range(256)}
    data = random.Random(3).randbytes(5000)
    assert tokenizer.decode_bytes(id_of[data[i : i + 1]] for i in range(len(data))) == data
    assert tokenizer.decode([id_of[b"\xff"], id_of[b"a"]]) == "\ufffda"


@pytest.mark.parametrize("unit", [" ", "\t", "\n", " \n", "a", "=", "1", "é", "\u2003"])
def test_a_million_repeated_characters_are_no_trouble(
    tokenizer: TextTokenizer, reference: BpeTokenizer, unit: str
) -> None:
    text = unit * (1_000_000 // len(unit))
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert reference.encode(text[:20_000]).ids == tokenizer.encode(text[:20_000])


def test_special_tokens_are_text_in_a_corpus_and_tokens_in_a_prompt(tokenizer: TextTokenizer) -> None:
    text = "<|context|>a<|question|>b<|answer|>"
    assert tokenizer.special == {token: VOCAB_SIZE - 8 + i for i, token in enumerate(SPECIAL_TOKENS)}
    assert tokenizer.eot == tokenizer.special["<|endoftext|>"]
    assert tokenizer.padding == tokenizer.special["<|padding|>"]
    assert not set(tokenizer.encode(text)) & set(tokenizer.special.values())
    ids = tokenizer.encode_prompt(text)
    assert [i for i in ids if i in tokenizer.special.values()] == [
        tokenizer.special[token] for token in ("<|context|>", "<|question|>", "<|answer|>")
    ]
    assert tokenizer.decode(ids) == "ab"
    assert tokenizer.decode(ids, skip_special=False) == text
    with pytest.raises(KeyError):
        tokenizer.decode([tokenizer.vocab_size])


def test_batches_and_byte_counts(tokenizer: TextTokenizer) -> None:
    expected = [i for text in ODD_TEXTS for i in (*tokenizer.encode(text), tokenizer.eot)]
    assert tokenizer.encode_documents(ODD_TEXTS).tolist() == expected, "one of them names the end-of-text token"
    plain = [text for text in ODD_TEXTS if "<|endoftext|>" not in text] + ["ends in <|endoftext", "|>", "<|answer|>"]
    expected = [i for text in plain for i in (*tokenizer.encode(text), tokenizer.eot)]
    assert tokenizer.encode_documents(plain).tolist() == expected
    counts = tokenizer.token_bytes()
    assert counts.shape == (tokenizer.vocab_size,)
    assert counts.dtype == np.int32
    for text in ODD_TEXTS:
        assert counts[tokenizer.encode(text)].sum() == len(text.encode())
    assert counts[[*tokenizer.special.values()]].sum() == 0


def test_transformers_loads_it(trained: Path, tokenizer: TextTokenizer) -> None:
    auto = transformers.AutoTokenizer.from_pretrained(trained)
    assert (auto.eos_token_id, auto.pad_token_id) == (tokenizer.eot, tokenizer.padding)
    assert len(auto) == auto.vocab_size == tokenizer.vocab_size
    rng = random.Random(21)
    for text in [*ODD_TEXTS, *(random_text(rng) for _ in range(100))]:
        ids = auto(text)["input_ids"]
        assert ids == tokenizer.encode_prompt(text)
        assert auto.decode(ids) == tokenizer.decode(ids, skip_special=False) == text


def test_statistics_are_what_the_corpus_gives(trained: Path, corpus: Path, tokenizer: TextTokenizer) -> None:
    statistics = json.loads((trained / "statistics.json").read_bytes())
    texts = [
        json.loads(line)["text"]
        for line in (corpus / "documents" / "validation-00000.jsonl").read_text("utf-8").splitlines()
    ]
    tokens = sum(len(tokenizer.encode(text)) for text in texts)
    assert statistics["vocab_size"] == VOCAB_SIZE
    assert statistics["measured_on"]["split"] == "validation"
    assert statistics["bytes_per_token"] == pytest.approx(sum(len(t.encode()) for t in texts) / tokens)
    assert statistics["fertility"] == pytest.approx(tokens / sum(len(t.split()) for t in texts))
    assert 2 < statistics["bytes_per_token"] < 6
    assert statistics["trained_on"]["buckets"] == 65536
    assert statistics["trained_on"]["bytes"] == statistics["trained_on"]["available_bytes"]


def test_the_held_out_text_changes_nothing_but_statistics(tmp_path: Path, corpus: Path, trained: Path) -> None:
    bare = tmp_path / "bare" / "documents"
    bare.mkdir(parents=True)
    (bare / "train-00000.jsonl").write_bytes((corpus / "documents" / "train-00000.jsonl").read_bytes())
    outcome = train(tmp_path / "tokenizer", bare.parent)
    assert (tmp_path / "tokenizer" / "tokenizer.json").read_bytes() == (trained / "tokenizer.json").read_bytes()
    statistics = json.loads((tmp_path / "tokenizer" / "statistics.json").read_bytes())
    assert statistics["measured_on"]["split"] == "train"
    assert outcome.metrics["tokenizer/fertility"] == statistics["fertility"]


def test_same_bytes_whatever_the_threads_and_the_order_of_documents(tmp_path: Path, corpus: Path) -> None:
    """The thread pool of `tokenizers` is made once a process, so each count has a process of its own."""
    lines = (corpus / "documents" / "train-00000.jsonl").read_bytes().splitlines(keepends=True)
    random.Random(5).shuffle(lines)
    shuffled = tmp_path / "shuffled" / "documents"
    shuffled.mkdir(parents=True)
    (shuffled / "train-00000.jsonl").write_bytes(b"".join(lines))
    program = (
        "import sys; from pathlib import Path; from gptcore.config import *; from gptcore.work import Work\n"
        "from gptcore.text.tokenizer import train_tokenizer\n"
        "out, corpus, threads = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])\n"
        "train_tokenizer(Tokenizer(vocab_size=3000), Work(out, {'corpus': corpus}, Runtime(threads=threads)))\n"
    )
    trained = []
    for name, source, threads in (("one", corpus, 1), ("four", corpus, 4), ("order", shuffled.parent, 4)):
        out = tmp_path / name
        subprocess.run([sys.executable, "-c", program, out, source, str(threads)], check=True)
        trained.append((out / "tokenizer.json").read_bytes())
    assert trained[0] == trained[1] == trained[2]


def test_a_vocabulary_the_text_cannot_fill_is_refused_with_the_largest_that_it_can(tmp_path: Path) -> None:
    small = make_corpus(tmp_path / "corpus", validation=2, limit=40)
    with pytest.raises(ValueError, match=r"tokenizer\.vocab_size 9000 is more than \d+ bytes of text support") as error:
        train(tmp_path / "refused", small, vocab_size=9000)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "refused" / "tokenizer.json").exists()
    largest = int(str(error.value).split("at most ")[1].split(";")[0])
    assert train(tmp_path / "largest", small, vocab_size=largest).metrics["tokenizer/vocab_size"] == largest
    with pytest.raises(ValueError, match=f"at most {largest}"):
        train(tmp_path / "one_more", small, vocab_size=largest + 1)


def test_no_text_is_refused(tmp_path: Path, corpus: Path) -> None:
    (tmp_path / "empty" / "documents").mkdir(parents=True)
    with pytest.raises(ValueError, match="no training text"):
        train(tmp_path / "a", tmp_path / "empty")
    with pytest.raises(ValueError, match=r"raise tokenizer\.train_bytes"):
        train(tmp_path / "b", corpus, train_bytes=10)


def test_a_large_corpus_is_sampled_evenly_and_says_so(tmp_path: Path, corpus: Path) -> None:
    said: list[str] = []
    with working(tmp_path, {"corpus": corpus}, on_say=said.append) as work:
        train_tokenizer(Tokenizer(vocab_size=500, train_bytes=100_000), work)
    sample = json.loads((tmp_path / "statistics.json").read_bytes())["trained_on"]
    assert 95_000 < sample["bytes"] <= 100_000 < sample["available_bytes"]
    assert said == [f"training on an even sample: {sample['bytes']:,} of {sample['available_bytes']:,} bytes"]


def test_an_even_sample_takes_from_every_part() -> None:
    documents = [document(number, "x" * 100) for number in range(20_000)]
    sample = EvenSample.choose(documents, 500_000)
    chosen = list(sample.texts(documents))
    assert len(chosen) == sample.documents
    assert 480_000 < sample.bytes == 100 * len(chosen) <= 500_000
    for start in range(0, 20_000, 5000):
        part = list(sample.texts(documents[start : start + 5000]))
        assert 1100 < len(part) < 1400
    assert list(sample.texts(reversed(documents))) == chosen[::-1]


def test_an_interrupt_while_reading_ends_the_training(tmp_path: Path, corpus: Path) -> None:
    def interrupt(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    inputs = {"corpus": corpus}
    with working(tmp_path, inputs, on_progress=interrupt) as work, work.signals(), pytest.raises(Interrupted):
        train_tokenizer(Tokenizer(vocab_size=VOCAB_SIZE), work)
    assert not (tmp_path / "tokenizer.json").exists()


def test_a_damaged_or_foreign_file_is_refused_by_name(tmp_path: Path, trained: Path) -> None:
    good = (trained / "tokenizer.json").read_text("utf-8")
    path = tmp_path / "tokenizer.json"
    foreign = json.loads(good)
    foreign["model"]["merges"] = foreign["model"]["merges"][::-1]
    for bad in (good[: len(good) // 2], "{}", json.dumps(foreign)):
        path.write_text(bad, "utf-8")
        with pytest.raises(ValueError, match=str(path)):
            TextTokenizer.load(tmp_path)


def test_fifty_thousand_tokens_load_fast(tmp_path: Path, trained: Path) -> None:
    directory = wide_tokenizer(tmp_path / "wide", trained, 50_000)
    spent = []
    for _ in range(3):
        began = time.process_time()
        wide = TextTokenizer.load(directory)
        spent.append(time.process_time() - began)
    assert wide.vocab_size == 50_264
    assert min(spent) < 0.3


def test_numbers_are_cut_in_pairs_and_a_space_goes_with_its_word(reference: BpeTokenizer) -> None:
    pieces = reference.pre_tokenizer.pre_tokenize_str("It's 2024,   see\n    x")
    assert [piece.replace("Ġ", " ").replace("Ċ", "\n") for piece, _ in pieces] == [
        "It",
        "'s",
        " ",
        "20",
        "24",
        ",",
        "  ",
        " see",
        "\n",
        "   ",
        " x",
    ]
    assert "{1,2}" in SPLIT_PATTERN
