"""Text to token shards beside nanoGPT's recipe, MB/s of text: same documents, same tokenizer, same ids.

The text is the source of installed Python modules, a document a file. The tokenizer is trained on some of it. Then both
encode all of it by turns, each time in a fresh process, with as many worker processes:

1. ours: the `tokens` stage, corpus files to committed shards with digests, ends of documents, and the comparison with
`tokenizers`. 2. peer: data/openwebtext/prepare.py of https://github.com/karpathy/nanoGPT, written anew: `datasets.map`
with tiktoken's encode_ordinary and the end-of-text token, then 1,024 batches at most (one a document at most) into a
numpy memory map. It reads a ready Arrow dataset; making that from text files, which the recipe has to do first, is not
counted. tiktoken is built from the very tokenizer that ours loads.

A time is that of the work inside the process, its own imports not counted, those of workers that it starts counted.
encode_ratio is the median over the turns of the peer's time over ours; encode_ratio_of_map leaves out the peer's
writing of batches; processor_time_ratio compares processor time, on which other work of the machine has less effect.
same_ids compares all the tokens. One JSON object last.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

BATCHES = 1024
LONGEST = 100_000
"""Characters of a document, as in `corpus.max_chars`."""
TRAINED_ON = 5_000_000
SPLITS = {"train": "train", "val": "validation"}
"""The peer's name of a split, and ours."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; or, asked by itself, encode once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=20.0, help="of text (20)")
    parser.add_argument("--processes", type=int, default=2, help="of both (2)")
    parser.add_argument("--turns", type=int, default=3, help="of each (3)")
    parser.add_argument("--vocab-size", type=int, default=8192, help="of the tokenizer (8192)")
    parser.add_argument("--once", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.once:
        encode = encode_ours if options.once == "ours" else encode_as_peer
        print(json.dumps(encode(options.folder, options.processes)))
        return 0
    with tempfile.TemporaryDirectory(prefix="gptmill-encode-") as folder:
        print(json.dumps(measure(options, Path(folder))))
    return 0


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both sides by turns."""
    size = write_text(folder, int(options.megabytes * 1e6))
    train(folder, options.vocab_size)
    turns: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    for turn in range(options.turns):
        for side, done in turns.items():
            command = [sys.executable, __file__, "--once", side, "--folder", str(folder)]
            ran = subprocess.run(
                [*command, "--processes", str(options.processes)], stdout=subprocess.PIPE, check=True, text=True
            )
            done.append(json.loads(ran.stdout.splitlines()[-1]))
            print(f"{side} {turn + 1}: {done[-1]}", file=sys.stderr)

    def ratio(of_peer: str, of_ours: str = "s") -> dict[str, Any]:
        ratios = [peer[of_peer] / ours[of_ours] for ours, peer in zip(turns["ours"], turns["peer"], strict=True)]
        return {"median": round(statistics.median(ratios), 3), "range": [round(min(ratios), 3), round(max(ratios), 3)]}

    whole, of_map, processor = ratio("s"), ratio("map_s"), ratio("processor_s", "processor_s")
    return {
        "encode_ratio": whole["median"],
        "encode_ratio_range": whole["range"],
        "encode_ratio_of_map": of_map["median"],
        "encode_ratio_of_map_range": of_map["range"],
        "processor_time_ratio": processor["median"],
        "processor_time_ratio_range": processor["range"],
        **{
            f"{side}_mb_per_s": round(size / statistics.median(one["s"] for one in done) / 1e6, 2)
            for side, done in turns.items()
        },
        "same_ids": same_ids(folder),
        "text_mb": round(size / 1e6, 1),
        "processes": options.processes,
        "vocab_size": options.vocab_size,
    }


def write_text(folder: Path, size: int) -> int:
    """The same documents as a corpus of ours and as Arrow datasets; their text in bytes. One in 50 is validation."""
    import sysconfig

    from datasets import Dataset

    from gptcore.text.documents import Document, clean_text, write

    texts: dict[str, list[str]] = {"train": [], "val": []}
    found = seen = 0
    roots = {sysconfig.get_path("purelib"), sysconfig.get_path("stdlib")}
    for path in sorted({path for root in roots for path in Path(root).rglob("*.py")}):
        try:
            text = clean_text(path.read_text())[:LONGEST]
        except ValueError:  # no UTF-8
            continue
        if not text:
            continue
        seen += 1
        texts["train" if seen % 50 else "val"].append(text)
        found += len(text.encode())
        if found >= size:
            break
    if found < size:
        raise SystemExit(f"the installed modules hold {found / 1e6:.0f} MB of text; lower --megabytes")
    (folder / "corpus" / "documents").mkdir(parents=True)
    for peer, ours in SPLITS.items():
        with (folder / "corpus" / "documents" / f"{ours}-00000.jsonl").open("wb") as file:
            for number, text in enumerate(texts[peer]):
                name = f"{ours}/{number}"
                file.write(write(Document(id=name, source="files", group=name, package=None, name=None, text=text)))
        Dataset.from_dict({"text": texts[peer]}).save_to_disk(str(folder / "arrow" / peer))
    return found


def train(folder: Path, vocab_size: int) -> None:
    """The tokenizer of both."""
    from gptcore.config import Tokenizer
    from gptcore.text.tokenizer import train_tokenizer
    from gptcore.work import Work

    config = Tokenizer(vocab_size=vocab_size, train_bytes=TRAINED_ON)
    train_tokenizer(config, Work(folder / "tokenizer", {"corpus": folder / "corpus"}))


def encode_ours(folder: Path, processes: int) -> dict[str, float]:
    """The stage, as the pipeline calls it with the default config; seconds."""
    import shutil

    from gptcore.config import Runtime, Tokens
    from gptcore.text.tokens import build_tokens
    from gptcore.work import Work

    shutil.rmtree(folder / "ours", ignore_errors=True)
    inputs = {"corpus": folder / "corpus", "tokenizer": folder / "tokenizer"}
    started, used = time.perf_counter(), processor_s()
    build_tokens(Tokens(), Work(folder / "ours", inputs, Runtime(workers=processes)))
    return {"s": time.perf_counter() - started, "processor_s": processor_s() - used}


def encode_as_peer(folder: Path, processes: int) -> dict[str, float]:
    """The recipe; seconds of all, and of its `map` alone."""
    import datasets

    tokenizer, eot = tiktoken_encoding(folder / "tokenizer")
    datasets.disable_progress_bars()
    arrow = {split: datasets.load_from_disk(str(folder / "arrow" / split)) for split in SPLITS}

    def process(example: dict[str, Any]) -> dict[str, Any]:
        ids = [*tokenizer.encode_ordinary(example["text"]), eot]
        return {"ids": ids, "len": len(ids)}

    started, used = time.perf_counter(), processor_s()
    mapped = datasets.DatasetDict(arrow).map(
        process, remove_columns=["text"], num_proc=processes, load_from_cache_file=False
    )
    map_s = time.perf_counter() - started
    for split, found in mapped.items():
        total = int(np.sum(found["len"], dtype=np.uint64))
        target = np.memmap(folder / f"{split}.bin", dtype=np.uint16, mode="w+", shape=(total,))
        place, batches = 0, min(BATCHES, len(found))
        for number in range(batches):
            batch = found.shard(num_shards=batches, index=number, contiguous=True).with_format("numpy")
            ids = np.concatenate(batch["ids"])
            target[place : place + len(ids)] = ids
            place += len(ids)
        target.flush()
    return {"s": time.perf_counter() - started, "processor_s": processor_s() - used, "map_s": map_s}


def processor_s() -> float:
    """Processor time of this process and of those that it has waited for, seconds."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def tiktoken_encoding(directory: Path) -> tuple[Any, int]:
    """tiktoken as ours builds it from tokenizer.json, and the end-of-text token's id."""
    import tiktoken

    from gptcore.byte_vocabulary import readable
    from gptcore.config import SPECIAL_TOKENS
    from gptcore.tokenizer_file import read_saved

    bpe = readable(read_saved(directory), directory)
    encoding = tiktoken.Encoding("trained", pat_str=bpe.pattern, mergeable_ranks=bpe.pieces, special_tokens=bpe.special)
    return encoding, bpe.special[SPECIAL_TOKENS[0]]


def same_ids(folder: Path) -> bool:
    """Whether both sides wrote the same tokens in the same order."""
    from gptcore.text.token_shards import TokenShards

    def equal(peer: str, ours: str) -> bool:
        shards = TokenShards.open(folder / "ours", ours)
        return np.array_equal(shards.window(0, shards.total), np.fromfile(folder / f"{peer}.bin", dtype="<u2"))

    return all(equal(peer, ours) for peer, ours in SPLITS.items())


if __name__ == "__main__":
    sys.exit(main())
