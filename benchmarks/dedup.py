"""Near-duplicate removal beside datasketch: speed, and the recall of planted pairs. One JSON object last.

The text is Python source of the standard library and installed packages in pieces of 2 KB; beside a third of them
stands a copy with some words replaced, put before it or put after it. Both sides get the same documents, shingles of 5
words, 128 permutations and the threshold 0.8, compare the signatures of the pairs that banding proposes, and join what
agrees into clusters. Each side runs in a process of its own, in turns, on one thread, so what is measured is processor
time; a side's time is the median of its turns.

`dedup_ratio` starts from shingle hashes made before the clock runs: arrays for ours, lists of numbers with a no-op hash
function for the peer, which is its fastest way. `dedup_ratio_from_text` starts from text, the peer with strings joined
from words and hashed by xxhash. Recall is that of planted pairs whose shingle sets truly overlap by the threshold.
"""

from __future__ import annotations

import argparse
import json
import math
import operator
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gptcore.config_steps import NearDuplicates
from gptcore.text.minhash import signatures_of
from gptcore.text.near_duplicates import near_duplicates
from gptcore.text.shingles import shingle_hashes
from gptcore.text.words import words

CONFIG = NearDuplicates(kind="near_duplicates")
PIECE = 2000
EDITS = (0.002, 0.005, 0.01, 0.02, 0.04)
"""Share of words replaced in a copy."""
ADDED = (0.02, 0.05, 0.1, 0.2)
"""Share of words put before or after a copy."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=2.0, help="of text, copies included (2)")
    parser.add_argument("--turns", type=int, default=3, help="of each side (3)")
    parser.add_argument("--side", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--texts", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    print(json.dumps(one_side(options.side, options.texts) if options.side else compare(options)))
    return 0


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Both sides in turns, and what stands between them."""
    texts, pairs = corpus(options.megabytes)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    turns: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.json"
        path.write_text(json.dumps(texts), encoding="utf-8")
        for _ in range(options.turns):
            for side, done in turns.items():
                command = [sys.executable, __file__, "--side", side, "--texts", str(path)]
                printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
                done.append(json.loads(printed.splitlines()[-1]))
    spent = {
        side: {
            key: statistics.median(turn[key] for turn in done) for key in ("shingles_s", "signatures_s", "clusters_s")
        }
        for side, done in turns.items()
    }
    after = {side: seconds["signatures_s"] + seconds["clusters_s"] for side, seconds in spent.items()}
    whole = {side: seconds["shingles_s"] + after[side] for side, seconds in spent.items()}
    shingles = [set(shingle_hashes(text, CONFIG.shingle).tolist()) for text in texts]
    wanted = [(a, b) for a, b in pairs if overlap(shingles[a], shingles[b]) >= CONFIG.threshold]
    of = {side: done[0]["of"] for side, done in turns.items()}
    found = {side: np.array([first[a] == first[b] for a, b in wanted], float) for side, first in of.items()}
    apart = found["ours"] - found["peer"]
    return {
        "dedup_ratio": round(after["peer"] / after["ours"], 2),
        "dedup_ratio_from_text": round(whole["peer"] / whole["ours"], 2),
        "dedup_recall_difference": round(float(apart.mean()), 4),
        "dedup_recall_difference_stderr": round(float(apart.std() / math.sqrt(len(apart))), 4),
        "recall": {side: round(float(hits.mean()), 4) for side, hits in found.items()},
        "megabytes_per_second": {side: round(megabytes / seconds, 2) for side, seconds in after.items()},
        "megabytes_per_second_from_text": {side: round(megabytes / seconds, 2) for side, seconds in whole.items()},
        "seconds": {side: {key: round(value, 3) for key, value in parts.items()} for side, parts in spent.items()},
        "dropped": {side: sum(first != place for place, first in enumerate(of[side])) for side in of},
        "megabytes": round(megabytes, 2),
        "documents": len(texts),
        "planted_pairs": len(pairs),
        "pairs_over_threshold": len(wanted),
    }


def corpus(megabytes: float) -> tuple[list[str], list[tuple[int, int]]]:
    """Texts, a copy often far from its original, and the (original, copy) pairs; the same each time."""
    paths = sysconfig.get_paths()
    rng = random.Random(1)
    texts: list[str] = []
    origins: list[int | None] = []
    left = megabytes * 1e6
    files = (path for key in ("stdlib", "purelib") for path in sorted(Path(paths[key]).rglob("*.py")))
    vocabulary = ["value", "index", "array", "return", "number", "first", "given", "shape", "error", "default"]
    while left > 0:
        path = next(files, None)
        if path is None:
            raise ValueError(f"the installed Python files hold no {megabytes:g} MB of text; give --megabytes less")
        try:
            source = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for start in range(0, len(source) - PIECE, PIECE):
            if left <= 0:
                break
            texts.append(source[start : start + PIECE])
            origins.append(None)
            left -= PIECE
            if rng.random() < 1 / 3:
                texts.append(copy_of(texts[-1], rng, vocabulary))
                origins.append(len(texts) - 2)
                left -= len(texts[-1])
    order = rng.sample(range(len(texts)), len(texts))
    place = {old: new for new, old in enumerate(order)}
    pairs = [(place[origin], place[old]) for old, origin in enumerate(origins) if origin is not None]
    return [texts[old] for old in order], pairs


def copy_of(text: str, rng: random.Random, vocabulary: list[str]) -> str:
    """A text with words replaced or added; white space stays."""
    parts = text.split(" ")
    if rng.random() < 0.5:
        for place in rng.sample(range(len(parts)), math.ceil(len(parts) * rng.choice(EDITS))):
            parts[place] = rng.choice(vocabulary)
        return " ".join(parts)
    added = rng.choices(vocabulary, k=math.ceil(len(words(text)) * rng.choice(ADDED)))
    return " ".join([*added, text] if rng.random() < 0.5 else [text, *added])


def overlap(left: set[int], right: set[int]) -> float:
    """Jaccard similarity."""
    return len(left & right) / len(left | right)


def one_side(side: str, path: Path) -> dict[str, Any]:
    """Processor seconds of each step, and each document's cluster."""
    texts = json.loads(path.read_text(encoding="utf-8"))
    return ours(texts) if side == "ours" else peer(texts)


def clocked(step: Callable[[], Any]) -> tuple[Any, float]:
    """What a step gives, and its processor seconds."""
    started = time.process_time()
    result = step()
    return result, time.process_time() - started


def ours(texts: list[str]) -> dict[str, Any]:
    """gptcore."""
    shingle_hashes("tables, once a process", 5)
    shingles, shingles_s = clocked(lambda: [shingle_hashes(text, CONFIG.shingle) for text in texts])
    rows, signatures_s = clocked(lambda: signatures_of(shingles, CONFIG.permutations))
    found, clusters_s = clocked(lambda: near_duplicates([rows], CONFIG, np.zeros(len(texts), np.uint8)))
    return report(shingles_s, signatures_s, clusters_s, found.of.tolist())


def peer(texts: list[str]) -> dict[str, Any]:
    """datasketch, its candidates verified by their signatures and joined by union-find."""
    import xxhash
    from datasketch import MinHash, MinHashLSH

    def joined(text: str) -> list[int]:
        found = words(text)
        runs = {" ".join(found[start : start + CONFIG.shingle]) for start in range(len(found) - CONFIG.shingle + 1)}
        return [xxhash.xxh32_intdigest(run.encode()) for run in runs]

    def clusters() -> list[int]:
        index = MinHashLSH(threshold=CONFIG.threshold, num_perm=CONFIG.permutations)
        parent = list(range(len(texts)))

        def root(place: int) -> int:
            while parent[place] != place:
                parent[place] = parent[parent[place]]
                place = parent[place]
            return place

        for place, row in enumerate(rows):
            for other in index.query(row):
                if row.jaccard(rows[other]) >= CONFIG.threshold:
                    low, high = sorted((root(place), root(other)))
                    parent[high] = low
            index.insert(place, row, check_duplication=False)
        return [root(place) for place in range(len(texts))]

    _, shingles_s = clocked(lambda: [joined(text) for text in texts])
    shingles = [(shingle_hashes(text, CONFIG.shingle) >> np.uint64(32)).tolist() for text in texts]
    rows, signatures_s = clocked(lambda: MinHash.bulk(shingles, num_perm=CONFIG.permutations, hashfunc=operator.index))
    of, clusters_s = clocked(clusters)
    return report(shingles_s, signatures_s, clusters_s, of)


def report(shingles_s: float, signatures_s: float, clusters_s: float, of: list[int]) -> dict[str, Any]:
    """What a side prints."""
    return {
        "shingles_s": shingles_s,
        "signatures_s": signatures_s,
        "clusters_s": clusters_s,
        "of": of,
    }


if __name__ == "__main__":
    sys.exit(main())
