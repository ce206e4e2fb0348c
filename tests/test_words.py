"""Words and the hashes of their runs: two ways to the same words."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from gptcore.text.words import run_hashes, word_hashes, words

TEXTS = [
    "",
    " ",
    "one",
    "... !!!",
    "The quick-brown fox; don't snake_case 3.14 twice, the THE",
    "\n\tédité Straße ΣΊΣΥΦΟΣ İstanbul naïve cafe\u0301",
    "我们在Python里写代码、很快。2024年",
    "ひらがなとカタカナー、ｶﾀｶﾅ 々",
    "ภาษาไทยไม่มีช่องว่าง ລາວ ភាសាខ្មែរ မြန်မာ",
    "한국어는 띄어쓰기를 한다",
    "emoji 👍🏽 and a\ud800lone surrogate \U00020000\U00020001",
]


def test_both_ways_find_the_same_words() -> None:
    """Equal words have equal hashes, and different ones different hashes, wherever they stand."""
    hash_of: dict[str, int] = {}
    every = "".join(map(chr, range(0x110000)))
    for text in [*TEXTS, *(every[start : start + 5000] for start in range(0, len(every), 5000))]:
        found, hashes = words(text), word_hashes(text).tolist()
        assert len(found) == len(hashes)
        for word, value in zip(found, hashes, strict=True):
            assert hash_of.setdefault(word, value) == value, word
    assert len(hash_of) > 100_000
    assert len(set(hash_of.values())) == len(hash_of)


def test_words_as_people_see_them() -> None:
    assert words("Don't PANIC, it's snake_case 3.14") == ["don", "t", "panic", "it", "s", "snake_case", "3", "14"]
    assert words("我爱Python3。ไทย 한국어") == ["我", "爱", "python3", "ไ", "ท", "ย", "한국어"]


def test_short_words_of_one_alphabet_do_not_collide() -> None:
    """Sums of characters would: anagrams, and words whose differences cancel out."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    text = " ".join(a + b + c + d for a in letters for b in letters for c in "aeiou" for d in letters)
    assert len(np.unique(word_hashes(text))) == 26 * 26 * 5 * 26


def test_a_word_in_a_very_long_text_is_the_same_word() -> None:
    text = "x" * 300_000 + " needle"
    assert word_hashes(text)[1] == word_hashes("needle")[0]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_runs(size: int) -> None:
    runs = run_hashes(word_hashes("a b c a b c d"), size)
    assert len(runs) == 8 - size
    assert runs[0] == runs[3] if size < 4 else len(set(runs.tolist())) == 3
    assert len(run_hashes(word_hashes("a b c"), 4)) == 0


def test_the_order_of_words_counts() -> None:
    assert run_hashes(word_hashes("a b"), 2) != run_hashes(word_hashes("b a"), 2)


def test_another_process_finds_the_same_hashes() -> None:
    code = "from gptcore.text.words import *; print(run_hashes(word_hashes('one Zwei 三 four'), 2).tolist())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(run_hashes(word_hashes("one Zwei 三 four"), 2).tolist())
