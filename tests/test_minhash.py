"""Near-duplicates: estimates of similarity, bands, clusters, and which document stays."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gptcore.config_steps import NearDuplicates
from gptcore.text.minhash import Signatures, save_signatures, signatures
from gptcore.text.near_duplicates import Found, bands, near_duplicates
from gptcore.text.shingles import shingle_hashes

CONFIG = NearDuplicates(kind="near_duplicates")
SINGLE = CONFIG.model_copy(update={"shingle": 1})
"""Every word a shingle: similarities can be planted exactly."""


def text_of(numbers: Sequence[int] | np.ndarray) -> str:
    return " ".join(f"w{number}" for number in numbers)


def found_in(texts: Sequence[str], config: NearDuplicates = CONFIG, rank: Sequence[int] = ()) -> Found:
    return near_duplicates([signatures(texts, config)], config, np.array(rank or [0] * len(texts)))


def planted(similarity: float, pairs: int, seed: int, words: int = 180) -> list[str]:
    """Texts 2 i and 2 i + 1 share words so that their sets have this similarity; all others share none."""
    common = round(2 * words * similarity / (1 + similarity))
    fresh = iter(np.random.default_rng(seed).permutation(pairs * 2 * words))
    texts = []
    for _ in range(pairs):
        shared = [next(fresh) for _ in range(common)]
        for _ in range(2):
            texts.append(text_of(shared + [next(fresh) for _ in range(words - common)]))
    return texts


def jaccard(left: str, right: str, size: int = 1) -> float:
    a, b = (set(shingle_hashes(text, size).tolist()) for text in (left, right))
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("similarity", [0.2, 0.5, 0.8, 0.95])
def test_estimates_are_unbiased_and_as_precise_as_independent_permutations(similarity: float) -> None:
    texts = planted(similarity, 250, seed=1)
    rows = signatures(texts, SINGLE)
    true = np.array([jaccard(*pair) for pair in zip(texts[::2], texts[1::2], strict=True)])
    errors = (rows[::2] == rows[1::2]).mean(axis=1) - true
    spread = np.sqrt((true * (1 - true)).mean() / 128)
    assert abs(errors.mean()) < 3.5 * spread / np.sqrt(250)
    assert 0.85 < np.sqrt((errors**2).mean()) / spread < 1.15


@pytest.mark.parametrize("similarity", [0.6, 0.75, 0.8, 0.85, 0.95])
def test_planted_pairs_are_found_as_often_as_the_curve_says(similarity: float) -> None:
    """Of pairs whose places agree independently with the chance `similarity`: a whole band does, and enough in all."""
    found = found_in(planted(similarity, 400, seed=2), SINGLE)
    assert not found.dropped[::2].any()
    count, width = bands(0.8, 128)
    agree = np.random.default_rng(0).random((20_000, 128)) < similarity
    candidates = agree[:, : count * width].reshape(-1, count, width).all(axis=2).any(axis=1)
    expected = (candidates & (agree.mean(axis=1) >= 0.8)).mean()
    assert abs(found.dropped[1::2].mean() - expected) < 0.07
    assert expected > 0.95 if similarity == 0.95 else expected < 0.8


def test_bands_are_the_best_of_all_by_brute_force() -> None:
    def area(threshold: float, count: int, width: int) -> float:
        s = (np.arange(20_000) + 0.5) / 20_000
        hit = 1 - (1 - s**width) ** count
        return float(np.where(s < threshold, hit, 1 - hit).mean())

    for threshold, permutations in [(0.8, 32), (0.5, 32), (0.3, 20)]:
        pairs = [(b, r) for r in range(1, permutations + 1) for b in range(1, permutations // r + 1)]
        assert bands(threshold, permutations) == min(pairs, key=lambda pair: area(threshold, *pair))
    assert bands(0.8, 128) == (9, 13)  # what datasketch takes


def test_the_smallest_rank_stays_then_the_first() -> None:
    base = text_of(range(100))
    texts = [text_of(range(500, 600)), base + " end", base, text_of(range(700, 790)), "start " + base, base]
    found = found_in(texts, rank=[0, 2, 1, 0, 2, 1])
    assert found.of.tolist() == [0, 2, 2, 3, 2, 2]
    assert found.dropped.tolist() == [False, True, False, False, True, True]


def test_order_changes_no_cluster() -> None:
    rng = np.random.default_rng(3)
    texts = [text_of([*range(300 * k, 300 * k + 200), 10**6 + copy]) for k in range(60) for copy in range(4)]
    clusters = np.repeat(np.arange(60), 4)
    for _ in range(3):
        order = rng.permutation(len(texts))
        found = found_in([texts[i] for i in order], rank=order.tolist())
        assert (~found.dropped).sum() == 60
        assert (order[found.of] == clusters[order] * 4).all()  # rank is the old place: the first copy stays


def test_a_chain_is_one_cluster() -> None:
    """Neighbours share 98 of 100 words, the ends nothing."""
    texts = [text_of(range(start, start + 300)) for start in range(0, 450, 3)]
    assert jaccard(texts[0], texts[-1]) == 0
    found = found_in(texts, SINGLE)
    assert (found.of == 0).all() and found.dropped[1:].all()


def test_a_bucket_of_several_clusters_is_taken_apart() -> None:
    """All share one band, so the first is compared with every other; the rest still find their own."""
    rng = np.random.default_rng(4)
    rows = np.repeat(rng.integers(0, 2**32, (5, 128), dtype=np.uint32), 3, axis=0)
    rows[:, :13] = 7
    found = near_duplicates([rows], CONFIG, np.zeros(15))
    assert found.of.tolist() == [i // 3 * 3 for i in range(15)]


def test_parts_on_disk_are_as_good_as_one_array(tmp_path: Path) -> None:
    texts = planted(0.9, 100, seed=5)
    rows = signatures(texts, SINGLE)
    whole = near_duplicates([rows], SINGLE, np.zeros(200))
    parts: list[Path | Signatures] = []
    for number, (start, end) in enumerate([(0, 1), (1, 1), (1, 121), (121, 200)]):
        parts.append(tmp_path / f"{number}.npy")
        save_signatures(tmp_path / f"{number}.npy", rows[start:end])
    parts[2] = np.load(tmp_path / "2.npy", mmap_mode="r")
    found = near_duplicates(parts, SINGLE, np.zeros(200))
    assert whole.dropped.sum() > 80
    assert (found.of == whole.of).all() and (found.dropped == whole.dropped).all()


def test_signatures_do_not_depend_on_the_other_texts() -> None:
    texts = planted(0.5, 5, seed=6)
    assert (signatures(texts, CONFIG)[3] == signatures(texts[3:4], CONFIG)[0]).all()
    assert signatures(["The same, words!"], CONFIG).tolist() == signatures(["the same words"], CONFIG).tolist()


def test_chinese() -> None:
    rng = np.random.default_rng(7)
    characters = [chr(0x4E00 + number) for number in rng.permutation(3000)]
    one, other = "".join(characters[:400]) + "。", "".join(characters[1000:1400])
    edited = one[:200] + "新" + one[201:]
    assert found_in([one, other, edited, "、".join(one)]).of.tolist() == [0, 1, 0, 0]


def test_short_and_empty_texts() -> None:
    texts = ["", "one two", "One, two!", "one two three", "", "***", "!!!", "***"]
    assert [len(shingle_hashes(text, 5)) for text in texts] == [1] * len(texts)
    assert found_in(texts).of.tolist() == [0, 1, 1, 3, 0, 5, 6, 5]
    assert signatures([], CONFIG).shape == (0, 128)
    found = near_duplicates([], CONFIG, np.zeros(0))
    assert found.dropped.shape == found.of.shape == (0,)


def test_shingles_are_a_set() -> None:
    assert len(shingle_hashes("a b c " * 100, 5)) == 3
    assert (np.diff(shingle_hashes("x y z u v w q r", 2).astype(float)) > 0).all()


def test_a_pile_of_equal_documents_takes_no_square() -> None:
    rows = np.repeat(signatures(["one of very many", "another"], CONFIG), [100_000, 1], axis=0)
    started = time.process_time()
    found = near_duplicates([rows], CONFIG, np.arange(100_001)[::-1].copy())
    assert time.process_time() - started < 5  # all pairs would take hours
    assert found.of[0] == 99_999 and found.dropped.sum() == 99_999


def test_a_long_text_takes_little_memory() -> None:
    text = text_of(range(100_000))[:100_000]
    signatures(["warm up, é", text[:1000]], CONFIG)
    tracemalloc.start()
    signatures([text], CONFIG)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_what_does_not_fit_together_is_refused() -> None:
    rows = signatures(["a", "b"], CONFIG)
    with pytest.raises(ValueError, match="2 signatures and 3 ranks"):
        near_duplicates([rows], CONFIG, np.zeros(3))
    with pytest.raises(ValueError, match="do not have 64 permutations"):
        near_duplicates([rows], CONFIG.model_copy(update={"permutations": 64}), np.zeros(2))
