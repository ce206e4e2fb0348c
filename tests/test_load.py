"""Models put to use: what a MODEL names, and generate, summarize and ask on the tiny pipeline's own."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from conftest import Finished

from flows.command_line import main
from gptcore.adapters.mlflow_lookup import default_uri
from gptcore.adapters.model_reference import model_directory
from gptcore.loaded import InputCut, load

pytestmark = pytest.mark.timeout(900)  # the first test here may start the server and run the whole pipeline

FIELDS = {"question": "What is the type of axis?", "context": "axis : int, default 0"}


@pytest.fixture
def home(tiny: Finished, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPTMILL_HOME", str(tiny.home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tiny.home


def stage(tiny: Finished, name: str) -> Path:
    return Path(tiny.first["stages"][name]["path"])


def directory(reference: str, home: Path) -> Path:
    return model_directory(reference, default_uri(home), home, print)


def test_a_base_model_continues_texts(tiny: Finished) -> None:
    model = load(stage(tiny, "pretrain"))
    texts = ["Return the", "Parameters\n----------\n"]
    new = model.generate(texts, max_new_tokens=12)
    assert len(new) == 2 and all(isinstance(text, str) for text in new)
    assert new == model.generate(texts, max_new_tokens=12), "greedy"
    assert [model.generate([text], max_new_tokens=12)[0] for text in texts] == new, "alone as in a batch"
    warm = [model.generate(texts, 12, temperature=1.5, seed=seed) for seed in (1, 1, 2)]
    assert warm[0] == warm[1] != warm[2]


def test_a_base_model_answers_nothing(tiny: Finished) -> None:
    with pytest.raises(ValueError, match=r"base model.*generate"):
        load(stage(tiny, "pretrain")).answer([FIELDS])


def test_a_tuned_model_answers_within_its_limit(tiny: Finished) -> None:
    model = load(stage(tiny, "finetune-qa"))
    assert model.use and (model.use.skill.name, model.use.max_input_tokens, model.use.max_target_tokens) == (
        "qa",
        110,
        16,
    )
    long = {**FIELDS, "context": "axis : int, default 0\n" * 200}
    with pytest.warns(InputCut, match=r"^1 of 2 prompts were cut: their context lost .* the limit is 110 tokens"):
        answers = model.answer([FIELDS, long])
    assert len(answers) == 2
    assert all(len(model.tokenizer.encode(answer)) <= 16 for answer in answers)
    assert model.answer([FIELDS])[0] == answers[0]


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("word " * 1000, 3001)])
def test_a_text_that_does_not_fit_is_refused(tiny: Finished, text: str, tokens: int) -> None:
    with pytest.raises(ValueError, match=rf"{tokens} tokens .* allowed: 1 to 127"):
        load(stage(tiny, "pretrain")).generate([text])


def test_no_directory_no_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load(tmp_path / "nothing")
    with pytest.raises((ValueError, FileNotFoundError), match=str(tmp_path)):
        load(tmp_path)


def test_a_run_and_its_stage_name_a_model(tiny: Finished, home: Path) -> None:
    run_id = tiny.first["run_id"]
    for run in (run_id, run_id[:8]):
        assert directory(f"{run}/finetune-qa", home) == stage(tiny, "finetune-qa")
    assert (directory("latest/pretrain", home) / "model.safetensors").exists()


@pytest.mark.parametrize("name", ["models:/tiny-qa@champion", "models:/tiny-qa@candidate", "models:/tiny-qa/1"])
def test_a_registered_model_is_the_stage_itself(name: str, tiny: Finished, home: Path) -> None:
    found = directory(name, home)
    assert (found / "model.safetensors").samefile(stage(tiny, "finetune-qa") / "model.safetensors")
    assert load(found).answer([FIELDS]) == load(stage(tiny, "finetune-qa")).answer([FIELDS])


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("nowhere", ["'nowhere'", "models:/NAME@ALIAS", "RUN/STAGE"]),
        ("models:/nope@champion", ["models:/nope@champion", "gptmill run"]),
        ("models:/tiny-qa@nope", ["models:/tiny-qa@nope"]),
        ("models:/tiny-qa/99", ["models:/tiny-qa/99"]),
        ("models:/tiny-qa", ["models:/tiny-qa"]),
        ("latest/nope", ["'nope'", "finetune-qa"]),
        ("latest/corpus", ["corpus", "no model"]),
        ("00000000/pretrain", ["00000000", "gptmill runs"]),
        ("abc/pretrain", ["'abc'", "8 characters"]),
    ],
)
def test_what_names_no_model_is_refused_in_one_line(
    reference: str, words: list[str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", reference, "Return the"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and all(word in err for word in words), err


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.endswith("\n")
    return out.removesuffix("\n")


def test_generate(tiny: Finished, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = load(stage(tiny, "pretrain")).generate(["Return the"], 8)[0]
    reference = f"{tiny.first['run_id']}/pretrain"
    assert said(["generate", reference, "Return the", "--max-new-tokens", "8"], capsys) == f"Return the{expected}"
    in_a_directory = ["generate", str(stage(tiny, "pretrain")), "Return the", "--max-new-tokens", "8"]
    assert said(in_a_directory, capsys) == f"Return the{expected}"


def test_ask_and_summarize(tiny: Finished, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    question, context = FIELDS["question"], FIELDS["context"]
    answer = load(stage(tiny, "finetune-qa")).answer([FIELDS])[0]
    ask = ["ask", question, "--context", context, "--model", "models:/tiny-qa@champion"]
    assert said(ask, capsys) == answer
    text = "Compute the mean of an array along an axis. The default is the flattened array."
    summary = load(stage(tiny, "finetune-summarization")).answer([{"document": text}])[0]
    assert said(["summarize", text, "--model", "models:/tiny-summarization@champion"], capsys) == summary


def test_a_text_on_standard_input(
    tiny: Finished, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(stage(tiny, "finetune-qa"))
    monkeypatch.setattr("sys.stdin", io.StringIO(FIELDS["context"]))
    answer = load(path).answer([FIELDS])[0]
    assert said(["ask", FIELDS["question"], "--context", "-", "--model", path], capsys) == answer


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "{pretrain}", "   "], "empty"),
        (["generate", "{pretrain}", "text", "--max-new-tokens", "0"], "max_new_tokens 0 must be at least 1"),
        (["generate", "{pretrain}", "word " * 1000], "allowed: 1 to 127"),
        (["ask", "What?", "--context", "axis : int", "--model", "{pretrain}"], "base model"),
        (["summarize", "a text", "--model", "{qa}"], "question"),
    ],
)
def test_what_cannot_be_said_is_refused_in_one_line(
    arguments: list[str], words: str, tiny: Finished, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"pretrain": stage(tiny, "pretrain"), "qa": stage(tiny, "finetune-qa")}
    assert main([argument.format(**places) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and words in err, err


def test_a_copied_model_directory_works_elsewhere(tiny: Finished, tmp_path: Path) -> None:
    copied = shutil.copytree(stage(tiny, "finetune-qa"), tmp_path / "model")
    assert load(copied).answer([FIELDS]) == load(stage(tiny, "finetune-qa")).answer([FIELDS])
