"""`gptmill bench tokenizer`, and the texts and tokenizers that it compares."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from hashlib import sha1
from pathlib import Path
from typing import Any

import pytest
from test_tokenizer import make_corpus, working
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import models, normalizers, pre_tokenizers

from flows.command_line import main
from gptcore.config import Tokenizer
from gptcore.text.tokenizer import TextTokenizer, train_tokenizer
from gptcore.text.tokenizer_comparison import compare_tokenizers, sample_texts
from gptcore.text.tokenizer_peers import TIKTOKEN_FILES, Peer

SAMPLES = {
    "arabic",
    "chinese",
    "english",
    "german",
    "hindi",
    "json",
    "maths",
    "python",
    "russian",
    "whitespace",
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bpe")
    corpus = make_corpus(folder / "corpus", limit=600)
    (folder / "tokenizer").mkdir()
    with working(folder / "tokenizer", {"corpus": corpus}) as work:
        train_tokenizer(Tokenizer(vocab_size=600), work)
    return folder / "tokenizer"


@pytest.fixture(scope="module")
def lossy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another's tokenizer.json: lower case words, the rest unknown."""
    folder = tmp_path_factory.mktemp("lossy")
    words = LibraryTokenizer(models.WordLevel({"[UNK]": 0, "the": 1, "cat": 2}, unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    words.enable_truncation(5)
    words.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """tiktoken's cache is empty, whatever this machine has."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def bench(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[dict[str, Any], str]:
    assert main(["bench", "tokenizer", *map(str, words), "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 1
    return json.loads(printed.out), printed.err


def test_figures_are_those_of_the_tokens(
    directory: Path, lossy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cats.txt").write_text("the cat " * 50, "utf-8")
    (tmp_path / "runs.txt").write_text("猫" * 30, "utf-8")
    cats, runs = str(tmp_path / "cats.txt"), str(tmp_path / "runs.txt")
    found, _ = bench(capsys, directory, lossy, "--text", cats, runs)
    assert found["texts"] == {cats: {"bytes": 400, "words": 100}, runs: {"bytes": 90, "words": None}}
    ours, other = (found["tokenizers"][str(name)] for name in (directory, lossy))
    tokens = len(TextTokenizer.load(directory).encode("the cat " * 50))
    assert ours["texts"][cats] == {
        "tokens": tokens,
        "bytes_per_token": 400 / tokens,
        "tokens_per_word": tokens / 100,
        "exact": True,
    }
    assert ours["texts"][runs] == {"tokens": 90, "bytes_per_token": 1.0, "tokens_per_word": None, "exact": True}
    assert (ours["vocab_size"], ours["encodes_by"]) == (600, "tiktoken")
    assert (other["vocab_size"], other["encodes_by"]) == (3, "tokenizers")
    assert other["texts"][cats]["tokens"] == 100  # not truncated
    assert not other["texts"][cats]["exact"] and not other["texts"][runs]["exact"]
    assert ours["encode_mb_s"] > 0.01 and other["encode_mb_s"] > 0.01


def test_the_built_in_texts_are_there_and_come_back(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = sample_texts()
    assert set(texts) == SAMPLES
    assert all(900 <= len(text.encode()) <= 2048 for text in texts.values())
    assert all(text == text.encode().decode() and "\r" not in text for text in texts.values())
    found, _ = bench(capsys, directory)
    rows = found["tokenizers"][str(directory)]["texts"]
    assert set(rows) == SAMPLES and all(row["exact"] for row in rows.values())
    assert [name for name, row in rows.items() if row["tokens_per_word"] is None] == ["chinese"]
    # Trained on English about Python: dense there, bytes elsewhere.
    assert rows["english"]["bytes_per_token"] > rows["german"]["bytes_per_token"] > rows["russian"]["bytes_per_token"]


def test_a_table_is_for_people(directory: Path, lossy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "tokenizer", str(directory), str(lossy)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["vocabulary", "600", "3"]
    assert lines[2].split() == ["encodes", "by", "tiktoken", "tokenizers"]
    english = [line.split() for line in lines if line.startswith("english")]
    assert len(english) == 2
    assert [row[2].endswith("*") for row in english] == [True, True]
    assert lines[-1] == "* these tokens do not give the text back as it was"


def test_what_is_not_in_the_cache_is_said_and_the_others_go_on(
    directory: Path, no_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, said = bench(capsys, "gpt2", directory, "gpt4")
    assert list(found["tokenizers"]) == [str(directory)]
    assert set(found["unavailable"]) == {"gpt2", "gpt4"}
    notes = [line for line in said.splitlines() if line.startswith("note: ")]
    assert len(notes) == 2
    assert notes[1].startswith(f"note: gpt4 cannot be had offline: its files are not in tiktoken's cache {no_cache}")
    assert "tiktoken.get_encoding('cl100k_base')" in notes[1]
    assert main(["bench", "tokenizer", "gpt2"]) == 2
    assert "no tokenizer is left to measure: gpt2 cannot be had" in capsys.readouterr().err


def test_the_cache_is_looked_up_where_tiktoken_does(
    no_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Damaged files, named as tiktoken names them: it finds them, throws them away and asks a network that is not."""
    no_cache.mkdir()
    for address in TIKTOKEN_FILES["gpt4"][1:]:
        (no_cache / sha1(address.encode()).hexdigest()).write_bytes(b"damaged")
    for variable in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert main(["bench", "tokenizer", "gpt4"]) == 2
    assert f"gpt4 cannot be had: its files in {no_cache} are damaged" in capsys.readouterr().err
    assert not list(no_cache.iterdir())


def test_bad_requests_are_refused_in_one_line(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "empty").mkdir()
    for words, said in (
        ([tmp_path / "nowhere"], "does not exist; a tokenizer is a directory"),
        (["gpt3"], "tokenizer directory 'gpt3' does not exist"),
        ([tmp_path], f"{tmp_path / 'tokenizer.json'} is damaged"),
        ([tmp_path / "empty"], "holds no tokenizer"),
        ([f"hf:{tmp_path / 'nowhere'}"], "there is no directory"),
        ([directory, "--text", tmp_path / "latin.txt"], "is not UTF-8 at byte 3"),
        ([directory, "--text", tmp_path / "blank.txt"], "holds no text"),
        ([directory, "--text", tmp_path / "nowhere.txt"], "nowhere.txt"),
    ):
        assert main(["bench", "tokenizer", *map(str, words)]) == 2
        printed = capsys.readouterr()
        assert printed.err.count("\n") == 1 and said in printed.err and not printed.out


def test_a_directory_behind_hf_and_one_of_ours_are_the_same(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _ = bench(capsys, directory, f"hf:{directory}")
    rows = [peer["texts"] for peer in found["tokenizers"].values()]
    assert len(rows) == 2 and rows[0] == rows[1]


def test_speed_is_bytes_over_seconds() -> None:
    """A tokenizer that sleeps two milliseconds a text cannot be faster than that."""

    def slow(text: str) -> list[int]:
        time.sleep(0.002)
        return list(text.encode())

    peer = Peer("slow", 256, "tokenizers", slow, lambda ids: bytes(ids).decode())
    found = compare_tokenizers([peer], {"a": "x" * 10_000, "b": "y " * 5_000})
    assert 1 < found["tokenizers"]["slow"]["encode_mb_s"] <= 20_000 / 0.004 / 1e6


def test_torch_and_transformers_stay_away(directory: Path) -> None:
    program = (
        "import sys; from flows.command_line import main; "
        f"main(['bench', 'tokenizer', {str(directory)!r}]); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'mlflow', 'prefect')))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL, env={**os.environ})
