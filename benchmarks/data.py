"""The data engine beside its peers, and on a gigabyte: the figures of benchmarks/RESULTS.md, "The data engine".

1. encode: text to token shards beside nanoGPT's recipe (encode.py). 2. dedup: near-duplicates beside datasketch
(dedup.py). 3. bpe: the tokenizer stage on 50 MB, 32,768 tokens, beside the trainer of `tokenizers` called bare on the
same texts in memory. 4. corpus: the whole corpus stage with every step on 100 MB and on 1,000 MB: peak memory of the
process and its workers together, and time. 5. engines: the same 20 MB here and on a Ray cluster of two workers, digests
compared.

The text is that of installed Python packages; the gigabyte is ten variations of 100 MB, each with the words of every
line in another order. Parts run one after the other, in processes of their own. One JSON object last.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from memory import peak_mb

HERE = Path(__file__).parent
PARTS = ("encode", "dedup", "bpe", "corpus", "engines")
STEPS: list[dict[str, Any]] = [
    {"kind": "repair"},
    {"kind": "language", "keep": ["en"], "least_probability": 0.0},
    {"kind": "filter", "profile": "code"},
    {"kind": "mask"},
    {"kind": "near_duplicates"},
    {"kind": "decontaminate"},
]
SHARES = {"validation_share": 0.01, "test_share": 0.002}
SUFFIXES = (".py", ".pyi", ".md", ".rst", ".txt")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; or, asked by itself, do one thing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="a checkout of nanoGPT, whose prepare.py the recipe is held against")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"which of {', '.join(PARTS)} (all)")
    parser.add_argument("--megabytes", type=float, default=100.0, help="of the smaller corpus (100)")
    parser.add_argument("--bpe-megabytes", type=float, default=50.0, help="that the tokenizer is trained on (50)")
    parser.add_argument("--turns", type=int, default=3, help="of each side (3)")
    parser.add_argument("--once", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.once is not None:
        print(json.dumps({"corpus": run_corpus, "bpe": run_bpe}[options.once.pop("part")](**options.once)))
        return 0
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--parts {', '.join(sorted(unknown))}: no such part; there are {', '.join(PARTS)}")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="gptmill-data-") as folder:
        measures = {"encode": encode, "dedup": dedup, "bpe": bpe, "corpus": corpus, "engines": engines}
        for part in PARTS:
            if part in parts:
                found |= measures[part](options, Path(folder))
                print(f"{part}: {json.dumps(found)}", file=sys.stderr)
    print(json.dumps(found))
    return 0


def encode(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """From encode.py."""
    if options.peer is not None:
        recipe = options.peer / "data" / "openwebtext" / "prepare.py"
        text = recipe.read_text()
        for word in ("encode_ordinary", "total_batches = 1024", "num_proc"):
            if word not in text:
                raise SystemExit(f"{recipe} has no {word!r}: it is another recipe than encode.py repeats")
    said = last_line("encode.py", "--turns", str(options.turns))
    return {name: said[name] for name in said if name.startswith(("encode_", "ours_", "peer_")) or name == "same_ids"}


def dedup(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """From dedup.py."""
    said = last_line("dedup.py", "--megabytes", "20")
    return {name: value for name, value in said.items() if name.startswith("dedup_")}


def bpe(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both sides by turns, each in a fresh process."""
    text = folder / "bpe.jsonl"
    write_text(text, int(options.bpe_megabytes * 1e6), 1)
    build(folder / "bpe-corpus", text, [])
    times: dict[str, list[float]] = {"stage": [], "bare": []}
    for _ in range(options.turns):
        for side, spent in times.items():
            once = {"part": "bpe", "side": side, "corpus": str(folder / "bpe-corpus"), "out": str(folder / "bpe-out")}
            spent.append(last_line("data.py", "--once", json.dumps(once))["seconds"])
    ratios = [stage / bare for stage, bare in zip(times["stage"], times["bare"], strict=True)]
    return {
        "bpe_ratio": round(statistics.median(ratios), 3),
        "bpe_ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "bpe_s": times,
    }


def run_bpe(side: str, corpus: str, out: str) -> dict[str, Any]:
    """Train once; seconds."""
    import shutil

    from gptcore.config import Tokenizer
    from gptcore.text.documents import read_documents
    from gptcore.text.tokenizer import train_tokenizer
    from gptcore.work import Work

    config = Tokenizer(vocab_size=32_768, train_bytes=1_000_000_000)
    if side == "stage":
        shutil.rmtree(out, ignore_errors=True)
        began = time.perf_counter()
        train_tokenizer(config, Work(Path(out), {"corpus": Path(corpus)}))
        return {"seconds": round(time.perf_counter() - began, 3)}
    from tokenizers import Tokenizer as Bare
    from tokenizers import models, pre_tokenizers, trainers

    from gptcore.text.splitting import pre_tokenizer

    texts = [document.text for document in read_documents(Path(corpus), "train")]
    began = time.perf_counter()
    bare = Bare(models.BPE())
    bare.pre_tokenizer = pre_tokenizer()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bare.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=32_768, initial_alphabet=alphabet, show_progress=False)
    )
    return {"seconds": round(time.perf_counter() - began, 3)}


def corpus(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The corpus stage on a text and on one ten times as large."""
    found: dict[str, Any] = {"corpus_text_mb": [], "corpus_s": []}
    for times, key in ((1, "peak_mb_100"), (10, "peak_mb_1000")):
        text = folder / f"{times}x.jsonl"
        found["corpus_text_mb"].append(round(write_text(text, int(options.megabytes * 1e6), times) / 1e6, 1))
        once = {"part": "corpus", "text": str(text), "directory": str(folder / f"corpus-{times}x"), "steps": STEPS}
        began = time.perf_counter()
        found[key] = peak_mb([sys.executable, __file__, "--once", json.dumps(once)])
        found["corpus_s"].append(round(time.perf_counter() - began, 1))
    found["time_growth"] = round(found["corpus_s"][1] / found["corpus_s"][0], 2)
    return found


def run_corpus(text: str, directory: str, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Build once; the data card's counts."""
    card = build(Path(directory), Path(text), steps)
    return {"documents": card["documents"], "dropped": card["dropped"]}


def build(directory: Path, text: Path, steps: list[dict[str, Any]], **execution: Any) -> dict[str, Any]:
    """A corpus of a JSON lines file; its data card."""
    from gptcore.config import Corpus
    from gptcore.text.corpus import build_corpus
    from gptcore.text.sources import resolve_source
    from gptcore.work import Work

    sources = [{"kind": "files", "paths": [str(text)]}]
    config = Corpus.model_validate({"sources": sources, "steps": steps, **SHARES})
    versions = [resolve_source(source, directory.parent / "cache") for source in config.sources]
    work = Work(directory, **execution)
    build_corpus(config, versions, work)
    work.drop_scratch()
    card: dict[str, Any] = json.loads((directory / "data_card.json").read_bytes())
    return card


def engines(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The digests of both engines."""
    from gptcore.adapters.ray_tasks import RayTasks

    text = folder / "engines.jsonl"
    write_text(text, int(min(20.0, options.megabytes) * 1e6), 1)
    digests = []
    for name, spread in (("local", None), ("ray", RayTasks(None))):
        build(folder / name, text, STEPS, spread=spread)
        files = sorted((folder / name).glob("documents/*.jsonl"))
        digests.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files})
    return {"engines_equal": bool(digests[0]) and digests[0] == digests[1]}


def last_line(script: str, *arguments: str) -> dict[str, Any]:
    """The JSON object that a script of this folder prints last."""
    ran = subprocess.run([sys.executable, HERE / script, *arguments], stdout=subprocess.PIPE, check=True, text=True)
    said: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return said


def write_text(path: Path, size: int, times: int) -> int:
    """`size` bytes of text of installed packages, `times` over and each time otherwise, as JSON lines; its bytes."""
    written = 0
    with path.open("w", encoding="utf-8") as file:
        for variation in range(times):
            for text in installed_text(size):
                varied = mixed(text, variation)
                written += len(varied.encode())
                file.write(json.dumps({"text": varied}, ensure_ascii=False) + "\n")
    return written


def installed_text(size: int) -> Iterator[str]:
    """Texts of installed packages, cut into pages of some 4,000 characters; SystemExit where there are too few."""
    taken = 0
    roots = [Path(sysconfig.get_path(name)) for name in ("purelib", "stdlib")]
    for path in sorted({path for root in roots for path in root.rglob("*") if path.suffix in SUFFIXES}):
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        for start in range(0, len(text), 4000):
            if taken >= size:
                return
            page = text[start : start + 4000]
            taken += len(page.encode())
            yield page
    if taken < size:
        raise SystemExit(f"installed packages hold {taken / 1e6:.0f} MB of text; lower --megabytes")


def mixed(text: str, times: int) -> str:
    """The same words, line by line in another order: every second one to the front, so many times."""
    if not times:
        return text
    lines = []
    for line in text.split("\n"):
        words = line.split(" ")
        for _ in range(times):
            words = words[1::2] + words[::2]
        lines.append(" ".join(words))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
