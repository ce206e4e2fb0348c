"""Unigram and word-level tokenizers: as lossless, exact and repeatable as the BPE beside them."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import transformers
from test_tokenizer import ODD_TEXTS, make_corpus, random_text, working

from gptcore.config import SPECIAL_TOKENS, WORD_TOKENS, Preset, Tokenizer, Tokens, special_tokens
from gptcore.presets import ConfigError, load_preset
from gptcore.stages import identity, key_of, stages
from gptcore.text.documents import read_documents
from gptcore.text.splitting import byte_characters
from gptcore.text.takeover import take_over_tokenizer
from gptcore.text.tokenizer import TextTokenizer, train_tokenizer
from gptcore.text.tokens import build_tokens
from gptcore.text.unigram_training import settled
from gptcore.work import Outcome

KINDS = ("unigram", "word")
VOCAB_SIZE = 1500


def train(directory: Path, corpus: Path, **fields: object) -> Outcome:
    with working(directory, {"corpus": corpus}) as work:
        return train_tokenizer(Tokenizer(**{"vocab_size": VOCAB_SIZE, **fields}), work)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("kinds") / "corpus", limit=1200)


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    directory = tmp_path_factory.mktemp(request.param)
    train(directory, corpus, kind=request.param)
    return directory


@pytest.fixture(scope="module")
def tokenizer(trained: Path) -> TextTokenizer:
    return TextTokenizer.load(trained)


def kind_of(directory: Path) -> str:
    model = json.loads((directory / "tokenizer.json").read_bytes())["model"]
    return "unigram" if model["type"] == "Unigram" else "word"


def test_any_text_round_trips_and_its_bytes_are_counted(tokenizer: TextTokenizer) -> None:
    counts, rng = tokenizer.token_bytes(), random.Random(20)
    assert counts.shape == (tokenizer.vocab_size,)
    assert counts[[*tokenizer.special.values()]].sum() == 0
    for text in [*ODD_TEXTS, *(random_text(rng) for _ in range(500))]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode_bytes(ids) == text.encode()
        assert counts[ids].sum() == len(text.encode())
        assert all(tokenizer.holds(i) for i in ids)
    expected = [i for text in ODD_TEXTS for i in (*tokenizer.encode(text), tokenizer.eot)]
    assert tokenizer.encode_documents(ODD_TEXTS).tolist() == expected
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


@pytest.mark.parametrize("unit", [" ", "\n", "a", "="])
def test_long_runs_are_no_trouble(tokenizer: TextTokenizer, unit: str) -> None:
    text = unit * 200_000
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_ids_are_bytes_then_pieces_then_special_tokens(tokenizer: TextTokenizer, trained: Path) -> None:
    assert sorted(tokenizer.decode_bytes([i]) for i in range(256)) == [bytes([byte]) for byte in range(256)]
    assert all(len(tokenizer.decode_bytes([i])) > 1 for i in range(256, 400))
    expected = special_tokens(kind_of(trained))
    assert tokenizer.vocab_size == VOCAB_SIZE
    assert tokenizer.special == {token: VOCAB_SIZE - len(expected) + i for i, token in enumerate(expected)}
    assert tokenizer.eot == tokenizer.special["<|endoftext|>"]
    with pytest.raises(KeyError):
        tokenizer.decode([VOCAB_SIZE])


def test_special_tokens_are_text_in_a_corpus_and_tokens_in_a_prompt(tokenizer: TextTokenizer) -> None:
    text = "<|context|>a<|answer|> <s> </s> <sep> <unk>" if "<s>" in tokenizer.special else "<|context|>a<|answer|>"
    assert not set(tokenizer.encode(text)) & set(tokenizer.special.values())
    marked = [i for i in tokenizer.encode_prompt(text) if not tokenizer.holds(i)]
    names = ["<|context|>", "<|answer|>", *(WORD_TOKENS if "<s>" in tokenizer.special else ())]
    assert marked == [tokenizer.special[name] for name in names]
    assert tokenizer.decode(tokenizer.encode_prompt(text), skip_special=False) == text


def test_shards_count_every_byte_of_the_corpus(trained: Path, corpus: Path, tmp_path: Path) -> None:
    """What bits per byte are divided by: the bytes that a shard's tokens stand for are those of its documents."""
    with working(tmp_path, {"corpus": corpus, "tokenizer": trained}) as work:
        build_tokens(Tokens(), work)
    counts, end = np.load(tmp_path / "token_bytes.npy"), TextTokenizer.load(trained).eot
    for split in ("train", "validation"):
        texts = [document.text for document in read_documents(corpus, split)]
        ids = np.concatenate([np.fromfile(path, "uint16") for path in sorted(tmp_path.glob(f"{split}-*.bin"))])
        assert counts[ids].sum() == sum(len(text.encode()) for text in texts)
        assert np.count_nonzero(ids == end) == len(texts)


def test_transformers_loads_it(trained: Path, tokenizer: TextTokenizer) -> None:
    auto = transformers.AutoTokenizer.from_pretrained(trained)
    assert (auto.eos_token_id, auto.pad_token_id) == (tokenizer.eot, tokenizer.padding)
    assert len(auto) == tokenizer.vocab_size
    if kind_of(trained) == "word":
        assert (auto.sep_token_id, auto.unk_token_id) == (tokenizer.special["<sep>"], tokenizer.special["<unk>"])
    rng = random.Random(21)
    for text in [*ODD_TEXTS, *(random_text(rng) for _ in range(100))]:
        ids = auto(text)["input_ids"]
        assert ids == tokenizer.encode_prompt(text)
        assert auto.decode(ids) == tokenizer.decode(ids, skip_special=False) == text


def test_a_known_word_is_one_token_and_an_unknown_one_its_bytes(tmp_path: Path, corpus: Path) -> None:
    train(tmp_path, corpus, kind="word")
    tokenizer = TextTokenizer.load(tmp_path)
    assert len(tokenizer.encode(" statement")) == 1
    assert tokenizer.encode(" statementological") == [tokenizer.encode(c)[0] for c in " statementological"]
    assert "<unk>" not in tokenizer.decode(tokenizer.encode(" zyzzyva"), skip_special=False)


def test_unigram_takes_the_likeliest_segmentation(tmp_path: Path, corpus: Path) -> None:
    """Of every way to cut a word, that with the highest sum of scores (Kudo 2018, equation 4)."""
    train(tmp_path, corpus, kind="unigram")
    tokenizer = TextTokenizer.load(tmp_path)
    scores = dict(json.loads((tmp_path / "tokenizer.json").read_bytes())["model"]["vocab"])
    pieces = list(scores)

    def best(word: str) -> float:
        found = [0.0] + [-1e9] * len(word)
        for end in range(1, len(word) + 1):
            found[end] = max(found[b] + scores.get(word[b:end], -1e9) for b in range(end))
        return found[-1]

    for word in ("statement", "international", "definitions", "parenthesized", "iterable"):
        got = sum(scores[pieces[i]] for i in tokenizer.encode(word))
        assert got == pytest.approx(best(word))


def test_same_bytes_in_every_process_whatever_the_threads(tmp_path: Path, corpus: Path) -> None:
    """Hash seeds of the library are drawn anew in every process, and its pool is made once."""
    program = (
        "import sys; from pathlib import Path; from gptcore.config import *; from gptcore.work import Work\n"
        "from gptcore.text.tokenizer import train_tokenizer\n"
        "out, corpus, threads = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])\n"
        "for kind in ('unigram', 'word'):\n"
        "    (out / kind).mkdir(parents=True)\n"
        "    work = Work(out / kind, {'corpus': corpus}, Runtime(threads=threads))\n"
        "    train_tokenizer(Tokenizer(kind=kind, vocab_size=1500), work)\n"
    )
    for name, threads in (("one", 1), ("again", 1), ("four", 4)):
        subprocess.run([sys.executable, "-c", program, tmp_path / name, corpus, str(threads)], check=True)
    for kind in KINDS:
        files = {(tmp_path / name / kind / "tokenizer.json").read_bytes() for name in ("one", "again", "four")}
        assert len(files) == 1, kind


def test_noise_of_a_training_leaves_no_trace() -> None:
    """Scores 1e-11 apart, pieces in another order, unseen bytes with each other's scores: the same vocabulary."""
    letters, rng = byte_characters(), random.Random(1)
    pieces = {f"{a}{b}": -rng.uniform(3, 12) for a in letters[:20] for b in letters[30:50]}
    seen = dict.fromkeys(letters[:100], -5.0)

    def trial(seed: int) -> dict[str, float]:
        noise = random.Random(seed)
        unseen = letters[100:]
        noise.shuffle(unseen)
        low = {c: min(pieces.values()) + 1e-4 * i for i, c in enumerate(unseen)}
        noisy = [(piece, score + noise.uniform(-1e-11, 1e-11)) for piece, score in {**pieces, **seen, **low}.items()]
        noise.shuffle(noisy)
        return dict(noisy)

    first = settled(trial(1), 500)
    assert settled(trial(2), 500) == first == settled(trial(3), 500)
    assert len(first) == 500 and [piece for piece, _ in first[:256]] == letters
    assert min(score for _, score in first[256:]) > dict(first)[letters[-1]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_enters_the_key_and_bpe_keeps_its_own(kind: str) -> None:
    def parts(preset: Preset) -> dict[str, object]:
        return identity(stages(preset)["tokenizer"], preset, {"corpus": "c"}, [])

    plain, asked = load_preset("quickstart"), load_preset("quickstart", ["tokenizer.kind=bpe"])
    other = load_preset("quickstart", [f"tokenizer.kind={kind}"])
    config = parts(plain)["config"]
    assert config == {**plain.tokenizer.model_dump(), "special_tokens": list(SPECIAL_TOKENS)}
    assert set(config) == {"vocab_size", "train_bytes", "special_tokens"}
    assert key_of(parts(plain)) == key_of(parts(asked)) != key_of(parts(other))
    assert parts(other)["config"]["kind"] == kind


def test_word_level_needs_room_for_its_special_tokens() -> None:
    load_preset("quickstart", ["tokenizer.vocab_size=264"])
    with pytest.raises(ConfigError, match=r"267 is under 268 \(256 bytes \+ 12 special tokens\)"):
        load_preset("quickstart", ["tokenizer.kind=word", "tokenizer.vocab_size=267"])
    with pytest.raises(ConfigError, match="wordlevel"):
        load_preset("quickstart", ["tokenizer.kind=wordlevel"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_and_the_largest_vocabulary(kind: str, tmp_path: Path) -> None:
    small = make_corpus(tmp_path / "corpus", validation=2, limit=40)
    least = 256 + len(special_tokens(kind))
    train(tmp_path / "least", small, kind=kind, vocab_size=least)
    text = "every byte, né?"
    assert len(TextTokenizer.load(tmp_path / "least").encode(text)) == len(text.encode())
    with pytest.raises(ValueError, match=r"tokenizer\.vocab_size 9000 is more than \d+ bytes of text support") as error:
        train(tmp_path / "refused", small, kind=kind, vocab_size=9000)
    largest = int(str(error.value).split("at most ")[1].split(";")[0])
    assert train(tmp_path / "largest", small, kind=kind, vocab_size=largest).metrics["tokenizer/vocab_size"] == largest


def test_a_start_keeps_a_tokenizer_of_these_kinds(trained: Path, corpus: Path, tmp_path: Path) -> None:
    """What publish wrote can be a `model.init` again."""
    before = TextTokenizer.load(trained)
    with working(tmp_path, {"corpus": corpus}) as work:
        take_over_tokenizer(Tokenizer(vocab_size=VOCAB_SIZE), trained, work)
    after = TextTokenizer.load(tmp_path)
    assert after.special == before.special
    assert np.array_equal(after.token_bytes(), before.token_bytes())
    assert [after.encode(text) for text in ODD_TEXTS] == [before.encode(text) for text in ODD_TEXTS]


def test_a_unigram_without_every_byte_is_refused(tmp_path: Path, corpus: Path) -> None:
    train(tmp_path, corpus, kind="unigram")
    saved = json.loads((tmp_path / "tokenizer.json").read_bytes())
    saved["model"]["vocab"][0][0] = "longer"
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved))
    with pytest.raises(ValueError, match="1 of the 256 bytes have no id"):
        TextTokenizer.load(tmp_path)
