"""Where shipped skills take their items from: message catalogues, functions, reviews, the hub's layout."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from test_skill_items import build, skill, source

from gptcore.config import Skill
from gptcore.presets import load_skill, validated
from gptcore.text.python_functions import read_functions

SHIPPED = ["translation", "sentiment", "code_documentation", "code_generation", "squad", "cnn_dailymail"]

CATALOGUE = """
msgid ""
msgstr "Content-Type: text/plain; charset=UTF-8\\n"

#: a.py:1
msgid "Yes"
msgstr "Ja"

#, fuzzy
msgid "No"
msgstr "Vielleicht"

msgid "Empty"
msgstr ""

msgctxt "time"
msgid "%(count)d year"
msgid_plural "%(count)d years"
msgstr[0] "%(count)d Jahr"
msgstr[1] "%(count)d Jahre"

msgid "Größe"
msgstr "Size"
"""

MODULE = b'''
class Thing:
    @property
    def size(self) -> int:
        """The size
        of it.

        More.
        """
        # how large
        return self._size

    def bare(self):
        """Only words."""

    def no_words(self):
        return 1


async def outer(a,
                b=1):
    """Give a."""
    def inner():
        """Give b."""
        return b
    return a
'''


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_skill_loads(name: str) -> None:
    assert load_skill(name).data


def test_message_catalogues_give_pairs(tmp_path: Path) -> None:
    path = tmp_path / "de.po"
    path.write_text(CATALOGUE)
    values = {"fields": {"input": "source"}, "group": "source", "validation_share": 0.0}
    places = [{**source(path), "split": "train"}, {**source(_other(tmp_path)), "split": "test"}]
    found = build(skill(data=places, **values), tmp_path / "out")
    pairs = [(item.fields["input"], item.target) for item in found["train"]]
    assert pairs == [("Yes", "Ja"), ("%(count)d year", "%(count)d Jahr"), ("Größe", "Size")]


def _other(folder: Path) -> Path:
    path = folder / "test.po"
    path.write_text('msgid "Hello"\nmsgstr "Hallo"\n')
    return path


def test_functions_are_cut_into_signature_words_and_body() -> None:
    rows: list[Any] = list(read_functions(MODULE, "pack", "pack/thing.py"))
    assert [(name, row["name"], row["module"]) for name, row in rows] == [
        ("pack/pack/thing.py:4", "size", "pack.thing"),
        ("pack/pack/thing.py:20", "outer", "pack.thing"),
        ("pack/pack/thing.py:23", "inner", "pack.thing"),
    ]
    size, outer, inner = (row for _, row in rows)
    assert size["signature"] == "@property\ndef size(self) -> int:" and size["summary"] == "The size of it."
    assert size["body"] == "# how large\nreturn self._size" and "More." in size["docstring"]
    assert "More" not in size["source"] and inner["body"] == "return b"
    assert outer["signature"].startswith("async def outer(a,\n")
    for row in (size, outer, inner):
        ast.parse(row["source"])


def test_translation_of_django(tmp_path: Path) -> None:
    pytest.importorskip("django")
    found = build(load_skill("translation"), tmp_path / "out")
    assert len(found["train"]) > 500 and len(found["test"]) > 40
    inputs = [{item.fields["text"].casefold() for item in items} for items in found.values()]
    assert not inputs[0] & inputs[2] and not inputs[1] & inputs[2]


def test_the_hubs_layout_in_its_own_splits(tmp_path: Path) -> None:
    folder = tmp_path / "cnn"
    folder.mkdir()
    for split, count in (("train", 30), ("validation", 5), ("test", 8)):
        rows = [
            {"article": f"Long {split} story {n}. It goes on.", "highlights": f"Story {n}.", "id": f"{split}{n}"}
            for n in range(count)
        ]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")
    values = load_skill("cnn_dailymail").model_dump(mode="json")
    places = [
        {"source": {"kind": "hub", "dataset": str(folder), "split": split}, "split": split}
        for split in ("train", "validation", "test")
    ]
    found = build(validated(Skill, {**values, "data": places}, "skill"), tmp_path / "out")
    assert {split: len(items) for split, items in found.items()} == {"train": 30, "validation": 5, "test": 8}
    assert found["test"][0].id == "test0" and found["test"][0].target == "Story 0."
    assert json.loads((tmp_path / "out" / "counts.json").read_bytes())["left_out"] == {}
