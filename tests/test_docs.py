"""What the pages say about the repository is true of it."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import subprocess
import typing
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel

from flows.command_line import parser
from gptcore.config import Finetune, Preset, Skill
from gptcore.config_skill import SkillData
from gptcore.config_sources import Source
from gptcore.config_steps import Step
from gptcore.presets import load_preset, preset_names
from gptcore.stages import stages

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def without_comments(text: str) -> str:
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


def fences(text: str) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def command_lines() -> list[tuple[str, str]]:
    """(page, line) of every line in a code block that calls a program of the project."""
    return [
        (name_of(page), line)
        for page in PAGES
        for block in fences(page.read_text(encoding="utf-8"))
        for line in block.splitlines()
        if line.startswith(("gptmill ", "make "))
    ]


def table_after(text: str, header: str) -> list[list[str]]:
    """The cells of the table whose header row begins so."""
    lines = text[text.index(header) :].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def section(text: str, heading: str) -> str:
    return re.split(r"^## ", text.split(f"## {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


# The file tree


def repository_files() -> list[Path]:
    """Tracked files, and those that would be with the next commit."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [Path(name) for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def tree() -> list[str]:
    """The paths that README's tree names, folders with a slash."""
    paths, folder = [], ""
    for line in fences(section(README, "Files"))[0].splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = name if name.endswith("/") else ""
            paths.append(name)
        else:
            paths.append(folder + name)
    return paths


def test_the_tree_names_what_is_there() -> None:
    """Every top-level file and folder, and every folder of code one level below; nothing that is not in git."""
    files = repository_files()
    folders = {f"{parent}/" for path in files for parent in path.parents if parent != Path()}
    top = {f"{path.parts[0]}/" if len(path.parts) > 1 else path.name for path in files}
    code = {f"{p.parts[0]}/{p.parts[1]}/" for p in files if len(p.parts) > 2 and p.suffix in (".py", ".yaml")}
    named = tree()
    assert len(named) == len(set(named))
    assert top | code <= set(named), f"README's tree lacks {sorted((top | code) - set(named))}"
    there = folders | {str(path) for path in files}
    assert set(named) <= there, f"README's tree names {sorted(set(named) - there)}"


def test_the_places_to_change_things_exist() -> None:
    rows = table_after(README, "| to change | look in |")
    paths = [path for _, places in rows for path in re.findall(r"`([\w./]+/[\w./]*|\w+\.yaml)`", places)]
    assert len(paths) > 10
    assert not [path for path in paths if not (ROOT / path).exists()]


# Links


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_resolves(page: Path) -> None:
    text = without_comments(page.read_text(encoding="utf-8"))
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+://", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            dead.append(target)
    assert not dead


# Configuration


def make_configuration() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_configuration", ROOT / "docs" / "make_configuration.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def schema_keys() -> set[str]:
    """Every key a preset or skill may hold."""
    sources, steps = (typing.get_args(typing.get_args(union)[0]) for union in (Source, Step))
    keys = {f"corpus.sources[].{name}" for source in sources for name in source.model_fields}
    keys |= {f"corpus.steps[].{name}" for step in steps for name in step.model_fields}
    keys |= {f"finetune.<skill>.{name}" for name in Finetune.model_fields}
    for name, field in Preset.model_fields.items():
        holds = field.annotation
        if isinstance(holds, type) and issubclass(holds, BaseModel):
            keys |= {f"{name}.{inner}" for inner in holds.model_fields}
        elif typing.get_origin(holds) is not dict:
            keys.add(name)
    return keys | set(Skill.model_fields) | {f"data[].{name}" for name in SkillData.model_fields}


def test_the_configuration_page_names_every_key_and_no_other() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE)) == schema_keys()


def test_the_configuration_page_is_up_to_date() -> None:
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == make_configuration().page(), "run: python docs/make_configuration.py"


def test_the_preset_table_lists_the_presets() -> None:
    assert {row[0].strip("`") for row in table_after(README, "| preset | text |")} == set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_short_and_say_why(name: str) -> None:
    lines = (ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 30
    assert any("# " in line for line in lines)


def test_the_stage_table_lists_the_stages() -> None:
    text = (ROOT / "docs" / "stages.md").read_text(encoding="utf-8")
    named = {row[0].strip("`") for row in table_after(text, "| stage | reads | result files |")}
    skills = load_preset("quickstart").finetune
    names = stages(load_preset("quickstart"))
    of_data = {"items-<skill>"}  # quickstart's skills have none of their own
    assert named == {re.sub(rf"-({'|'.join(skills)})$", "-<skill>", name) for name in names} | of_data


# Commands


def below(command: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """A command's own commands."""
    found = [a for a in command._actions if isinstance(a, argparse._SubParsersAction)]
    return {name: sub for action in found for name, sub in action.choices.items()}


def flags(command: argparse.ArgumentParser) -> set[str]:
    """Those of its own commands too."""
    own = {flag for action in command._actions for flag in action.option_strings if flag.startswith("--")} - {"--help"}
    return own.union(*map(flags, below(command).values()))


def test_the_command_table_lists_commands_and_flags() -> None:
    rows = table_after(README, "| command | does |")
    documented = {row[0].split()[1].strip("`"): set(re.findall(r"--[a-z][a-z0-9-]*", " ".join(row))) for row in rows}
    assert documented == {name: flags(command) for name, command in below(parser()).items()}


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_commands_in_code_blocks_can_be_given(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert set(words[1:]) <= set(targets)
        return
    options = parser().parse_args(words[1:])
    preset = getattr(options, "preset", None)
    if preset and preset != "PRESET":
        load_preset(preset, getattr(options, "overrides", ()))


def test_commands_in_running_text_exist() -> None:
    commands, named = below(parser()), set()
    for page in PAGES:
        named |= set(re.findall(r"`gptmill ([a-z]+)", page.read_text(encoding="utf-8")))
    assert named
    assert named <= set(commands)


def test_the_program_is_the_module() -> None:
    assert parser().prog == "gptmill"
    assert (ROOT / "flows" / "__main__.py").exists()
