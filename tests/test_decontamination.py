"""Documents that hold benchmark text are found, named and counted."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from gptcore.text.decontamination import contamination, documents_with, make_decontaminate, without_common_runs
from gptcore.text.run_index import RunIndex, index_runs
from gptcore.text.steps.step import Dropped, Kept

ITEM = "The old lighthouse keeper counted thirteen grey ships before the storm took the last of them away."
OTHER = "A second question asks, of whoever reads it, how many apples are left when four of nine are eaten up."
CHINESE = "灯塔看守人在暴风雨来临之前数了十三艘灰色的船。"
SHORT = "Only five words stand here."
BENCHMARKS = [("ships", [ITEM, SHORT]), ("apples", [OTHER, CHINESE])]


def run_over(index: RunIndex, texts: Iterable[str]) -> tuple[list[Kept | Dropped], np.ndarray]:
    hit = np.zeros(index.items, bool)
    step = make_decontaminate(index, hit)
    return [step(text) for text in texts], hit


def items_of(text: str, index: RunIndex) -> list[int]:
    return np.flatnonzero(run_over(index, [text])[1]).tolist()


@pytest.fixture(scope="module")
def index() -> RunIndex:
    return index_runs(BENCHMARKS, 13)


@pytest.mark.parametrize(
    "text",
    [
        ITEM,
        f"Before it. {ITEM} After it.",
        ITEM.upper().replace(" ", " - "),
        "the old lighthouse keeper counted thirteen grey ships before the storm took the",
        "x " * 3000 + ITEM.replace(" ", "\n"),
    ],
)
def test_the_item_is_found_in_whatever_dress(index: RunIndex, text: str) -> None:
    (verdict,), hit = run_over(index, [text])
    assert isinstance(verdict, Dropped)
    assert verdict.rule == "contaminated"
    assert verdict.why == (
        "benchmark ships item 0 shares 13 words: "
        "'the old lighthouse keeper counted thirteen grey ships before the storm took the'"
    )
    assert hit.tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    "text",
    [
        "",
        SHORT,
        " ".join(ITEM.split()[:12]),
        ITEM.replace("thirteen", "fourteen").replace("the last of them", "it"),
        CHINESE[:12],
        "Some other text that is certainly long enough to hold several runs of thirteen words but none of theirs.",
    ],
)
def test_a_run_less_is_kept(index: RunIndex, text: str) -> None:
    (verdict,), hit = run_over(index, [text])
    assert verdict == Kept(text)
    assert not hit.any()


def test_chinese_counts_characters(index: RunIndex) -> None:
    (verdict,), hit = run_over(index, [f"他说「{CHINESE[2:12]}、{CHINESE[12:16]}…"])
    assert isinstance(verdict, Dropped)
    assert verdict.why == "benchmark apples item 1 shares 13 words: '看 守 人 在 暴 风 雨 来 临 之 前 数 了'"
    assert np.flatnonzero(hit).tolist() == [3]


def test_a_document_that_is_the_test_set_hits_every_item_that_can_be_found(index: RunIndex) -> None:
    assert items_of("\n".join(text for _, texts in BENCHMARKS for text in texts), index) == [0, 2, 3]


def test_counts_by_benchmark(index: RunIndex) -> None:
    _, hit = run_over(index, [OTHER, "nothing of theirs", OTHER])
    assert contamination(index, hit) == {
        "ships": {"items": 2, "too_short": 1, "contaminated": 0, "contaminated_share": 0.0},
        "apples": {"items": 2, "too_short": 0, "contaminated": 1, "contaminated_share": 0.5},
    }


def test_a_run_of_several_items_marks_all_of_them_and_names_the_first() -> None:
    index = index_runs([("a", [SHORT, OTHER + " One more."]), ("b", [OTHER, OTHER])], 13)
    (verdict,), hit = run_over(index, [OTHER])
    assert isinstance(verdict, Dropped) and verdict.why.startswith("benchmark a item 1 shares")
    assert hit.tolist() == [False, True, True, True]


def test_however_the_documents_are_shared_out_the_result_is_the_same(index: RunIndex) -> None:
    texts = [ITEM, "clean", OTHER, CHINESE, "", f"{ITEM} {OTHER}"]
    verdicts, hit = run_over(index, texts)
    shares = [run_over(index, texts[start : start + 2]) for start in range(0, 6, 2)]
    assert [verdict for share, _ in shares for verdict in share] == verdicts
    assert (np.logical_or.reduce([marks for _, marks in shares]) == hit).all()


def test_saved_and_reopened(index: RunIndex, tmp_path: Path) -> None:
    index.save(tmp_path / "index")
    opened = RunIndex.open(tmp_path / "index")
    assert (opened.words, opened.benchmarks, opened.items) == (13, index.benchmarks, 4)
    assert not opened.hashes.flags.writeable  # mapped, not read
    texts = [ITEM, OTHER, CHINESE, SHORT, "clean"]
    assert run_over(opened, texts)[0] == run_over(index, texts)[0]


def test_runs_of_many_documents_are_no_reason() -> None:
    licence = "Licensed under some licence you may not use this file except as the licence says it here."
    index = index_runs([("ships", [f"{licence} {ITEM}"])], 13)
    texts = [f"{licence} number {n}" for n in range(11)] + [ITEM]
    counts = documents_with(index, texts[:5]) + documents_with(index, texts[5:])
    assert (counts == documents_with(index, texts)).all()
    assert set(counts.tolist()) == {0, 1, 11}
    pruned = without_common_runs(index, counts, 10)
    assert [isinstance(verdict, Dropped) for verdict in run_over(pruned, texts)[0]] == [False] * 11 + [True]
    for kept in (without_common_runs(index, counts, None), without_common_runs(index, counts, 11)):
        assert all(isinstance(verdict, Dropped) for verdict in run_over(kept, texts)[0])


def test_a_run_twice_in_a_document_counts_once(index: RunIndex) -> None:
    assert documents_with(index, [f"{ITEM} {ITEM}"]).max() == 1


def test_hits_are_those_of_a_search_by_hand() -> None:
    """Of random texts over few words, against sets of tuples."""
    rng = np.random.default_rng(0)

    def text() -> str:
        return " ".join(f"w{number}" for number in rng.integers(0, 6, 40))

    def runs(text: str) -> set[tuple[str, ...]]:
        found = text.split()
        return {tuple(found[i : i + 5]) for i in range(len(found) - 4)}

    items = [text() for _ in range(60)]
    index = index_runs([("all", items)], 5)
    for _ in range(50):
        document = text()
        expected = [number for number, item in enumerate(items) if runs(item) & runs(document)]
        assert items_of(document, index) == expected
        assert len(index.hits(document)) == sum(len(runs(item) & runs(document)) for item in items)


@pytest.mark.parametrize("benchmarks", [[], [("empty", [])], [("short", [SHORT, ""])]])
def test_nothing_to_find(benchmarks: list[tuple[str, list[str]]], tmp_path: Path) -> None:
    index = index_runs(benchmarks, 13)
    index.save(tmp_path)
    verdicts, hit = run_over(RunIndex.open(tmp_path), [ITEM, ""])
    assert verdicts == [Kept(ITEM), Kept("")]
    assert {name: row["too_short"] for name, row in contamination(index, hit).items()} == {
        name: len(items) for name, items in benchmarks
    }


def test_one_name_for_two_benchmarks_is_refused() -> None:
    with pytest.raises(ValueError, match="'a' is there twice"):
        index_runs([("a", [ITEM]), ("a", [OTHER])], 13)
