"""The command line as a user types it: help, refusals with exit code 2, and the answers of `plan`."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_pipeline import environment, write_preset

from flows.command_line import main, parser

STAGES = (
    "corpus", "tokenizer", "tokens", "pretrain", "finetune-summarization", "finetune-qa",
    "benchmark-base", "benchmark-summarization", "benchmark-qa", "publish", "report",
)  # fmt: skip


def commands() -> dict[str, argparse.ArgumentParser]:
    (chosen,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(chosen.choices)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where nothing is yet."""
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPTMILL_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr of a command that was refused."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("gptmill: ") and err.count("\n") == 1, err
    return err


@pytest.mark.parametrize("arguments", [[], *([name] for name in commands())])
def test_help_shows_an_example(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    example = shown.split("example", 1)[1].split(":", 1)[1].split()
    assert example[:2] == ["gptmill", arguments[0] if arguments else "run"]


def test_every_example_is_a_command_line_that_parses() -> None:
    texts = [parser().epilog, *(sub.epilog for sub in commands().values())]
    lines = [line.strip() for text in texts if text for line in text.splitlines() if line.strip().startswith("gptmill")]
    assert len(lines) > len(commands())
    for line in lines:
        words = shlex.split(line.split("  ")[0].split(" < ")[0])
        assert parser().parse_args(words[1:]).command == words[1]


@pytest.mark.parametrize("arguments", [[], ["nope"], ["run"], ["plan", "quickstart", "--nope"]])
def test_what_does_not_parse_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: gptmill" in capsys.readouterr().err


def test_python_m_flows_is_the_same_program(tmp_path: Path) -> None:
    programs = [[sys.executable, "-m", "flows"], [str(Path(sys.executable).with_name("gptmill"))]]
    shown = [
        subprocess.run(
            [*program, "plan", "nope"],
            cwd=tmp_path,
            env=environment(tmp_path / "home"),
            capture_output=True,
            text=True,
            timeout=60,
        )
        for program in programs
    ]
    assert [done.returncode for done in shown] == [2, 2]
    assert shown[0].stderr == shown[1].stderr != ""


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope"], ["unknown preset 'nope'", "quickstart"]),
        (["missing.yaml"], ["missing.yaml does not exist"]),
        (["quickstart", "--set", "pretran.steps=3"], ["pretran", "nearest: pretrain"]),
        (["quickstart", "--set", "pretrain.step=3"], ["pretrain.step", "nearest: steps"]),
        (["quickstart", "--set", "pretrain.steps=many"], ["pretrain.steps", "'many'", "integer"]),
        (["quickstart", "--set", "pretrain.steps"], ["'pretrain.steps'", "section.field=value"]),
        (["quickstart", "--set", "model.n_head=3"], ["n_head 3", "does not divide n_embd"]),
        (["quickstart", "--set", "model.context=4096"], ["context 4096", "1024"]),
        (["quickstart", "--set", "tokenizer.vocab_size=200"], ["vocab_size 200", "264"]),
        (["quickstart", "--set", "finetune.nope={}"], ["unknown skill 'nope'", "qa"]),
    ],
)
def test_a_bad_config_is_refused_in_one_line(
    command: str, arguments: list[str], words: list[str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused([command, *arguments], capsys)
    assert all(word in line for word in words), line
    assert not home.exists(), "nothing is written"


@pytest.mark.parametrize("option", ["--only", "--from", "--until", "--force"])
def test_an_unknown_stage_is_refused(option: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(["run", "quickstart", option, "finetune-nope"], capsys)
    assert "finetune-nope" in line and option in line and ", ".join(STAGES) in line
    assert not home.exists()


def test_impossible_selections_are_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--only" in refused(["run", "quickstart", "--only", "tokens", "--until", "report"], capsys)
    assert "the order is" in refused(["run", "quickstart", "--from", "tokens", "--until", "corpus"], capsys)
    assert not home.exists()


@pytest.mark.parametrize("arguments", [["run"], ["plan", "--refresh"]])
def test_a_missing_package_is_refused(arguments: list[str], home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = "corpus.sources=[{kind: python_docs, stdlib: false, packages: [no-such-package]}]"
    line = refused([arguments[0], "quickstart", *arguments[1:], "--set", sources], capsys)
    assert "no-such-package" in line and "not installed" in line
    assert not home.exists(), "nothing is written"


def test_a_stage_alone_with_nothing_before_it_is_refused(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = write_preset(tmp_path)
    line = refused(["run", str(preset), "--only", "pretrain"], capsys)
    assert line.endswith(f"make it fresh with: gptmill run {preset} --until tokens\n")
    assert not (home / "store").exists()


def test_plan_answers_in_json(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preset = str(write_preset(tmp_path))
    assert main(["plan", preset, "--json"]) == 0
    out, err = capsys.readouterr()
    (line,) = out.splitlines()
    found = json.loads(line)
    assert list(found) == ["preset", "stages", "model", "cost", "warnings"] and found["preset"] == "tiny"
    assert tuple(found["stages"]) == STAGES
    for row in found["stages"].values():
        assert set(row) == {"status", "reason", "key", "expected_s"}
        assert (row["status"], row["key"], row["expected_s"]) == ("missing", None, None) and row["reason"]
    assert list(found["cost"]) == [name for name in STAGES if name.startswith(("pretrain", "finetune-"))]
    assert "--refresh" in found["stages"]["corpus"]["reason"]
    assert all(name in err for name in STAGES), "people read the table on stderr"
    assert not home.exists()


def test_plan_looks_at_the_sources_when_asked(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preset = str(write_preset(tmp_path))
    assert main(["plan", preset, "--json", "--refresh"]) == 0
    refreshed = json.loads(capsys.readouterr().out)["stages"]
    assert refreshed["corpus"]["key"] and refreshed["corpus"]["reason"] == "never run"
    assert refreshed["tokenizer"]["key"] is None
    assert main(["plan", preset, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"] == refreshed, "as last resolved"
    assert main(["plan", preset]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in STAGES)
