"""Token shards: what they hold, that windows cross their borders, and that no kill or full disk changes a byte."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
from test_tokenizer import document, make_corpus, train, wide_tokenizer, working

from gptcore.config import Runtime, Tokens
from gptcore.text.documents import read, read_documents, write
from gptcore.text.line_sizes import index_sizes
from gptcore.text.lines import BLOCK_BYTES, Lines, in_blocks, index_lines, read_ends
from gptcore.text.token_shards import TokenShards
from gptcore.text.tokenizer import TextTokenizer
from gptcore.text.tokens import build_tokens
from gptcore.work import Outcome

SHARD_BYTES = 40_000
BUILD = (
    "import sys; from pathlib import Path; from gptcore.config import Tokens; from gptcore.work import Work\n"
    "from gptcore.text.tokens import build_tokens\n"
    "out, corpus, tokenizer, shard_bytes = sys.argv[1:]\n"
    "work = Work(Path(out), {'corpus': Path(corpus), 'tokenizer': Path(tokenizer)})\n"
    "build_tokens(Tokens(shard_bytes=int(shard_bytes)), work)\n"
)
PEAK = (
    "import json, sys; from pathlib import Path; from gptcore.text.encode import encode_shard\n"
    "encode_shard(json.loads(sys.argv[1]), lambda message: None)\n"
    # Not getrusage: its peak holds what the parent had before this program took the process over.
    "status = Path('/proc/self/status').read_text().splitlines()\n"
    "print(next(int(line.split()[1]) * 1024 for line in status if line.startswith('VmHWM')))\n"
)


def build(
    directory: Path,
    corpus: Path,
    tokenizer: Path,
    shard_bytes: int = SHARD_BYTES,
    shuffle_seed: int | None = None,
    workers: int = 1,
) -> Outcome:
    with working(directory, {"corpus": corpus, "tokenizer": tokenizer}) as work:
        work.runtime = Runtime(threads=1, workers=workers)
        return build_tokens(Tokens(shard_bytes=shard_bytes, shuffle_seed=shuffle_seed), work)


def decoded(directory: Path, tokenizer: Path, split: str) -> list[str]:
    """The documents of a split's shards, found by the files of their ends."""
    text_tokenizer = TextTokenizer.load(tokenizer)
    shards = TokenShards.open(directory, split)
    texts, first = [], 0
    for number, entry in enumerate(json.loads((directory / "index.json").read_bytes())["splits"][split]["shards"]):
        ends = shards.document_ends(number)
        assert (ends.dtype, ends[-1], len(ends)) == (np.dtype("<u8"), entry["tokens"], entry["documents"])
        for begin, end in pairwise([0, *ends.tolist()]):
            ids = shards.window(first + begin, end - begin).tolist()
            assert ids[-1] == text_tokenizer.eot
            texts.append(text_tokenizer.decode(ids[:-1]))
        first += entry["tokens"]
    return texts


def results(directory: Path) -> dict[str, bytes]:
    """The files that enter the output digest, and any that should not be there."""
    return {
        path.name: path.read_bytes() for path in directory.iterdir() if path.name not in ("scratch", "metrics.jsonl")
    }


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real paragraphs, then a document that names special tokens, and one so long that its shard is the largest."""
    corpus = make_corpus(tmp_path_factory.mktemp("reference") / "corpus")
    long = "\n\n".join(topics[name] for name in sorted(topics)[:20])
    with (corpus / "documents" / "train-00001.jsonl").open("wb") as file:
        file.write(write(document(90_000, "A text that names <|endoftext|> and <|padding|>, twice: <|endoftext|>.")))
        file.write(write(document(90_001, long)))
    return corpus


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    train(directory, corpus)
    return directory


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, corpus: Path, tokenizer: Path) -> Path:
    """The shards of an uninterrupted run."""
    directory = tmp_path_factory.mktemp("tokens")
    build(directory, corpus, tokenizer)
    return directory


def test_shards_hold_every_document_closed_by_end_of_text(whole: Path, corpus: Path, tokenizer: Path) -> None:
    text_tokenizer = TextTokenizer.load(tokenizer)
    index = json.loads((whole / "index.json").read_bytes())
    assert (index["dtype"], index["vocab_size"]) == ("uint16", text_tokenizer.vocab_size)
    for split in ("train", "validation"):
        texts = [document.text for document in read_documents(corpus, split)]
        ids = np.concatenate(
            [np.fromfile(whole / entry["file"], dtype="<u2") for entry in index["splits"][split]["shards"]]
        )
        ends = np.flatnonzero(ids == text_tokenizer.eot)
        parts = [part[:-1] for part in np.split(ids, ends + 1)[:-1]]
        assert [text_tokenizer.decode(part.tolist()) for part in parts] == texts
        assert index["splits"][split]["documents"] == len(texts)
        assert index["splits"][split]["bytes"] == sum(len(text.encode()) for text in texts)
        assert index["splits"][split]["tokens"] == len(ids)
        by_source = index["splits"][split]["sources"].values()
        for what in ("documents", "bytes", "tokens"):
            assert sum(counts[what] for counts in by_source) == index["splits"][split][what]
        assert decoded(whole, tokenizer, split) == texts
        for entry in index["splits"][split]["shards"]:
            path = whole / entry["file"]
            assert entry["sha256"] == sha256(path.read_bytes()).hexdigest()
            assert entry["ends_sha256"] == sha256(path.with_suffix(".ends").read_bytes()).hexdigest()
    assert len(index["splits"]["train"]["shards"]) > 10
    counts = np.load(whole / "token_bytes.npy")
    assert counts.dtype == np.int32
    assert np.array_equal(counts, text_tokenizer.token_bytes())


def test_metrics_are_the_index_totals(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    outcome = build(tmp_path, corpus, tokenizer, shard_bytes=50_000_000)
    splits = json.loads((tmp_path / "index.json").read_bytes())["splits"]
    assert [len(splits[split]["shards"]) for split in ("train", "validation")] == [1, 1]
    assert outcome.metrics == {
        "tokens/train": splits["train"]["tokens"],
        "tokens/validation": splits["validation"]["tokens"],
        "tokens/bytes_per_token": splits["train"]["bytes"] / splits["train"]["tokens"],
    }
    named = {path.name for glob in outcome.results for path in tmp_path.glob(glob)}
    assert named == set(results(tmp_path))


def test_windows_read_across_shards(whole: Path) -> None:
    shards = TokenShards.open(whole, "train")
    index = json.loads((whole / "index.json").read_bytes())["splits"]["train"]
    flat = np.concatenate([np.fromfile(whole / entry["file"], dtype="<u2") for entry in index["shards"]])
    assert (shards.total, shards.text_bytes) == (len(flat), index["bytes"])
    rng = random.Random(1)
    border = index["shards"][0]["tokens"]
    windows = [(0, 1), (0, len(flat)), (len(flat) - 1, 1), (border - 1, 2), (border, 1), (border - 1, 1)]
    for _ in range(300):
        start = rng.randrange(len(flat))
        windows.append((start, rng.randint(1, min(SHARD_BYTES, len(flat) - start))))
    for start, length in windows:
        assert np.array_equal(shards.window(start, length), flat[start : start + length])
    for start, length in ((-1, 1), (0, 0), (len(flat), 1), (0, len(flat) + 1)):
        with pytest.raises(ValueError, match="is not inside"):
            shards.window(start, length)
    with pytest.raises(ValueError, match="no split 'test'"):
        TokenShards.open(whole, "test")


@pytest.mark.parametrize("kind", ["bin", "ends"])
@pytest.mark.parametrize("damage", ["truncated", "lengthened", "missing"])
def test_a_damaged_shard_is_named(tmp_path: Path, whole: Path, damage: str, kind: str) -> None:
    shutil.copytree(whole, tmp_path / "tokens")
    shard = tmp_path / "tokens" / f"train-00003.{kind}"
    if damage == "missing":
        shard.unlink()
    else:
        os.truncate(shard, shard.stat().st_size + (1 if damage == "lengthened" else -1))
    with pytest.raises(ValueError, match=f"{shard} is damaged: .* run the tokens stage again"):
        TokenShards.open(tmp_path / "tokens", "train").document_ends(3)


def test_the_number_of_workers_changes_no_byte(tmp_path: Path, whole: Path, corpus: Path, tokenizer: Path) -> None:
    for workers in (2, 3):
        build(tmp_path / str(workers), corpus, tokenizer, workers=workers)
        assert results(tmp_path / str(workers)) == results(whole)
    for workers in (1, 2):
        build(tmp_path / f"shuffled-{workers}", corpus, tokenizer, shuffle_seed=7, workers=workers)
    assert results(tmp_path / "shuffled-1") == results(tmp_path / "shuffled-2") != results(whole)


def test_the_size_of_shards_changes_only_their_borders(
    tmp_path: Path, whole: Path, corpus: Path, tokenizer: Path
) -> None:
    build(tmp_path, corpus, tokenizer, shard_bytes=50_000_000)
    for split in ("train", "validation"):
        one, many = TokenShards.open(tmp_path, split), TokenShards.open(whole, split)
        assert np.array_equal(one.window(0, one.total), many.window(0, many.total))


def test_a_seed_orders_the_documents_and_stands_in_the_index(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    for name, seed, shard_bytes in (("a", 1, SHARD_BYTES), ("b", 1, 10 * SHARD_BYTES), ("c", 2, SHARD_BYTES)):
        build(tmp_path / name, corpus, tokenizer, shard_bytes=shard_bytes, shuffle_seed=seed)
        assert json.loads((tmp_path / name / "index.json").read_bytes())["shuffle_seed"] == seed
    for split in ("train", "validation"):
        texts = [document.text for document in read_documents(corpus, split)]
        first, same, other = (decoded(tmp_path / name, tokenizer, split) for name in "abc")
        assert sorted(first) == sorted(other) == sorted(texts)
        assert first == same, "whatever the size of shards"
        assert sum(a == b for a, b in zip(first, texts, strict=True)) < 5
        assert sum(a == b for a, b in zip(first, other, strict=True)) < 5


def test_licences_change_no_shard(corpus: Path, tokenizer: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path / "corpus")
    licences = (None, "MIT", 'one of "several\\", "licence": "no"', "Lizenz für Käufer")
    for path in (tmp_path / "corpus" / "documents").iterdir():
        found = list(map(read, path.read_bytes().splitlines()))
        named = (replace(d, licence=licences[n % len(licences)]) for n, d in enumerate(found))
        path.write_bytes(b"".join(map(write, named)))
    build(tmp_path / "out", tmp_path / "corpus", tokenizer)
    assert results(tmp_path / "out") == results(whole) and len(results(whole)) > 20


def test_sizes_of_lines_are_those_of_lines_without_a_licence(tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    said = 'He wrote , "licence": "MIT", and meant it.'
    plain = [document(n, said * n) for n in range(400)]
    lines = b"".join(write(replace(d, licence="MIT" if n % 3 else None)) for n, d in enumerate(plain))
    (folder / "train-00000.jsonl").write_bytes(lines)
    (folder / "train-00001.jsonl").write_bytes(write(replace(plain[0], licence="MIT"))[:-1])
    index_lines(tmp_path, "train", tmp_path / "lines")
    index_sizes(tmp_path, "train", tmp_path / "lines", tmp_path / "sizes")
    sizes = [*(len(write(d)) for d in plain), len(write(plain[0])) - 1]
    assert len(lines) > 2 * BLOCK_BYTES
    assert read_ends(tmp_path / "sizes").tolist() == np.cumsum(sizes).tolist()


def test_lines_are_read_by_number_across_files(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path / "corpus")
    last = tmp_path / "corpus" / "documents" / "train-00001.jsonl"
    os.truncate(last, last.stat().st_size - 1)  # a last line without its newline
    expected = [
        line for file in ("train-00000", "train-00001")
        for line in last.with_name(f"{file}.jsonl").read_bytes().splitlines(keepends=True)
    ]  # fmt: skip
    index_lines(tmp_path / "corpus", "train", tmp_path / "index")
    assert read_ends(tmp_path / "index").tolist() == np.cumsum([len(line) for line in expected]).tolist()
    numbers = np.random.default_rng(0).permutation(len(expected))
    with Lines(tmp_path / "corpus", "train", tmp_path / "index") as lines:
        assert len(lines) == len(expected)
        assert lines.read(np.arange(len(expected))) == expected
        assert lines.read(numbers) == [expected[number] for number in numbers]
        blocks = list(in_blocks(lines, iter([numbers[:100], numbers[100:]]), 10_000))
        assert [line for block in blocks for line in block] == [expected[number] for number in numbers]
        longest = max(map(len, expected))
        assert all(sum(map(len, block)) <= 10_000 + longest for block in blocks)
        assert len(blocks) > 20
        os.truncate(last, 10)
        with pytest.raises(ValueError, match=r"train-00001\.jsonl has shrunk"):
            lines.read(np.array([len(expected) - 1]))
    before = (tmp_path / "index").stat().st_ino
    index_lines(tmp_path / "corpus", "train", tmp_path / "index")
    assert (tmp_path / "index").stat().st_ino != before, "made for another corpus"


def test_one_document_of_any_length_is_one_shard_at_least(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    shutil.copytree(corpus, tmp_path / "corpus")
    long = "\n".join(topics[name] for name in sorted(topics))
    (tmp_path / "corpus" / "documents" / "train-00000.jsonl").write_bytes(write(document(1, long)))
    build(tmp_path / "tokens", tmp_path / "corpus", tokenizer)
    texts = [document.text for document in read_documents(tmp_path / "corpus", "train")]
    assert len(texts[0]) > 10 * SHARD_BYTES
    assert decoded(tmp_path / "tokens", tokenizer, "train") == texts


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    """The peak of a worker that encodes one shard of 1 MB, and one of 16 MB."""
    lines = (corpus / "documents" / "train-00000.jsonl").read_bytes()
    documents = tmp_path / "corpus" / "documents"
    documents.mkdir(parents=True)
    for split, times in (("train", -(-16_000_000 // len(lines))), ("validation", -(-1_000_000 // len(lines)))):
        with (documents / f"{split}-00000.jsonl").open("wb") as file:
            for _ in range(times):
                file.write(lines)
    peaks = {}
    for split in ("validation", "train"):
        index = tmp_path / f"{split}.lines"
        index_lines(tmp_path / "corpus", split, index)
        task = {
            "corpus": str(tmp_path / "corpus"), "split": split, "lines": str(index), "tokenizer": str(tokenizer),
            "directory": str(tmp_path), "entry": str(tmp_path / f"{split}.json"), "name": split, "begin": 0,
            "end": len(read_ends(index)), "seed": 1, "dtype": "uint16", "check_every": 1_000_000,
        }  # fmt: skip
        peaks[split] = int(
            subprocess.run([sys.executable, "-c", PEAK, json.dumps(task)], stdout=subprocess.PIPE, check=True).stdout
        )
    assert peaks["train"] - peaks["validation"] < 4_000_000


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda path: os.truncate(path, 7)], ids=["bit", "gone", "short"])
@pytest.mark.parametrize("kind", ["bin", "ends"])
def test_a_shard_damaged_before_the_resume_is_built_again(
    tmp_path: Path, whole: Path, corpus: Path, tokenizer: Path, damage: Callable[[Path], None], kind: str
) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    damage(tmp_path / f"train-00003.{kind}")
    (tmp_path / "index.json").unlink()
    before = (tmp_path / "train-00002.bin").stat().st_ino
    build(tmp_path, corpus, tokenizer)
    assert results(tmp_path) == results(whole)
    assert (tmp_path / "train-00002.bin").stat().st_ino == before


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments_it_goes_on_and_gives_the_same_bytes(
    tmp_path: Path, whole: Path, corpus: Path, tokenizer: Path, seed: int
) -> None:
    rng = random.Random(seed)
    command = [sys.executable, "-c", BUILD, tmp_path, corpus, tokenizer, str(SHARD_BYTES)]
    total = len(list(whole.glob("*.bin")))
    kills = 0
    for target in sorted(rng.sample(range(total - 2), 3)):
        process = subprocess.Popen(command)
        while process.poll() is None and len(list(tmp_path.glob("*.bin"))) <= target:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.01)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 1
    record = [json.loads(path.read_bytes()) for path in (tmp_path / "scratch").glob("*.json")]
    kept = {entry["file"]: (tmp_path / entry["file"]).stat().st_ino for entry in record}
    assert kept
    subprocess.run(command, check=True)
    assert results(tmp_path) == results(whole)
    assert {name: (tmp_path / name).stat().st_ino for name in kept} == kept


def test_a_full_disk_stops_it_and_the_next_run_completes(
    tmp_path: Path, whole: Path, corpus: Path, tokenizer: Path
) -> None:
    """A limit on file size stands for the disk: every shard but the largest, a late one, passes."""
    command = [sys.executable, "-c", BUILD, tmp_path, corpus, tokenizer, str(SHARD_BYTES)]
    limit = max(path.stat().st_size for path in whole.glob("*.bin")) - 1
    full = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert full.returncode == 1
    assert full.stderr.rstrip().splitlines()[-1].startswith("OSError: [Errno 27] File too large")
    assert not list(tmp_path.rglob("*.part"))
    record = [json.loads(path.read_bytes()) for path in (tmp_path / "scratch").glob("*.json")]
    kept = {entry["file"]: (tmp_path / entry["file"]).stat().st_ino for entry in record}
    assert 1 <= len(kept) < len(list(whole.glob("*.bin")))
    subprocess.run(command, check=True)
    assert results(tmp_path) == results(whole)
    assert {name: (tmp_path / name).stat().st_ino for name in kept} == kept


def test_leftovers_of_a_killed_writer_are_swept(tmp_path: Path, whole: Path, corpus: Path, tokenizer: Path) -> None:
    (tmp_path / ".train-00000.bin.4711.part").write_bytes(b"half a shard")
    build(tmp_path, corpus, tokenizer)
    assert results(tmp_path) == results(whole)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"normalizer": {"type": "Lowercase"}}, ValueError, "its normalizer .* changes the text"),
        (
            {"truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}},
            RuntimeError,
            "encode document 'topics/",
        ),
    ],
    ids=["refused", "found by comparing"],
)
def test_a_tokenizer_that_tiktoken_cannot_follow_stops_the_run(
    tmp_path: Path, corpus: Path, tokenizer: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    saved = json.loads((tokenizer / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text(json.dumps({**saved, **change}))
    with pytest.raises(error, match=message):
        build(tmp_path / "tokens", corpus, tmp_path / "tokenizer")


def test_an_empty_split_is_refused_with_a_way_out(tmp_path: Path, tokenizer: Path) -> None:
    with pytest.raises(ValueError, match=r"raise corpus\.validation_share"):
        build(tmp_path / "a", make_corpus(tmp_path / "no_validation", validation=0, limit=20), tokenizer)
    with pytest.raises(ValueError, match="no training documents"):
        build(tmp_path / "b", make_corpus(tmp_path / "no_train", validation=20, limit=20), tokenizer)


def test_a_vocabulary_over_65536_takes_four_bytes_an_id(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    wide = wide_tokenizer(tmp_path / "wide", tokenizer, 65_536)
    build(tmp_path / "tokens", corpus, wide)
    shards = TokenShards.open(tmp_path / "tokens", "validation")
    window = shards.window(0, shards.total)
    text_tokenizer = TextTokenizer.load(wide)
    assert window.dtype == np.uint32
    assert window.max() == text_tokenizer.eot == 65_792
    texts = [document.text for document in read_documents(corpus, "validation")]
    assert text_tokenizer.decode(window.tolist(), skip_special=False) == "".join(t + "<|endoftext|>" for t in texts)
