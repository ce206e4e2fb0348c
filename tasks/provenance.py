"""What a result came from: the commit, the machine, the installed distributions, the config; told to MLflow."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from gptcore.adapters.mlflow_lookup import PRESET, REQUIREMENTS, SKILLS
from gptcore.config import Preset, Training
from gptcore.hardware import processor, usable_threads
from gptcore.presets import skills_of, written
from gptcore.speed import this_machine
from gptcore.stages import Stage

OURS = "gptmill"


@cache
def git_state() -> dict[str, Any]:
    """Commit and dirty flag of the checkout gptmill runs from; {"commit": None} outside one."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10, check=True
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit.stdout.strip(), "dirty": bool(changed.stdout.strip())}


@cache
def installed() -> dict[str, str]:
    """Every installed distribution's public version (no `+cpu`), by normalized name; gptmill itself is not among them.

    importlib.metadata.version would parse each METADATA as an e-mail, which takes six times as long.
    """
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        head = (distribution.read_text("METADATA") or "").split("\n\n", 1)[0]
        name, version = (re.search(rf"^{field}: (\S+)", head, re.MULTILINE) for field in ("Name", "Version"))
        if name and version:
            found.setdefault(normalized(name[1]), version[1].split("+")[0])  # the first one is what is imported
    found.pop(OURS, None)
    return dict(sorted(found.items()))


def normalized(name: str) -> str:
    """A distribution's name as package indices compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def required() -> tuple[str, ...]:
    """The distributions that gptmill names as its own requirements, extras left out."""
    lines = importlib.metadata.requires(OURS) or []
    names = [re.match(r"[\w.-]+", line) for line in lines if "extra ==" not in line]
    return tuple(sorted(normalized(name[0]) for name in names if name))


def surroundings(stage: Stage, preset: Preset) -> dict[str, Any]:
    """What a stage runs on, for its manifest: bits may hang on it, and no key does."""
    libraries = {*required(), *(normalized(name) for name in stage.libraries)}
    machine = this_machine(preset.runtime)
    return {
        "python": platform.python_version(),
        "processor": processor(),
        "gpu": machine.name,
        "threads": usable_threads(preset.runtime),
        **{name: getattr(training_of(stage.name, preset), name, None) for name in ("devices", "parallel")},
        "libraries": {name: version for name, version in installed().items() if name in libraries},
    }


def training_of(stage: str, preset: Preset) -> Training | None:
    """The section of a training stage; None for another stage."""
    return preset.pretrain if stage == "pretrain" else preset.finetune.get(stage.removeprefix("finetune-"))


def stage_tags(key: str, identity: Mapping[str, Any], git: Mapping[str, Any], device: str) -> dict[str, str]:
    """What a stage's run is found by; `input.<stage>` is the digest of what it read."""
    seed = identity["config"].get("seed")
    return {
        "git.commit": str(git.get("commit")),
        "git.dirty": str(git.get("dirty")),
        "key": key,
        "device": device,
        **({"seed": str(seed)} if seed is not None else {}),
        **{f"input.{name}": digest for name, digest in identity["inputs"].items()},
    }


def parent_tags() -> dict[str, str]:
    """What code ran, and from where: relative paths of a preset's sources start there."""
    git = git_state()
    return {
        "git.commit": str(git["commit"]),
        "git.dirty": str(git["dirty"]),
        "directory": str(Path.cwd()),
    }


def parent_texts(preset: Preset) -> dict[str, str]:
    """A run's config whole, as files: the preset with every value, its skills, and all that is installed."""
    pins = [f"{name}=={version}" for name, version in installed().items()]
    return {
        PRESET: written(preset.model_dump(mode="json")),
        SKILLS: written({name: skill.model_dump(mode="json") for name, skill in skills_of(preset).items()}),
        REQUIREMENTS: "\n".join([f"# Python {platform.python_version()}", *pins, ""]),
    }
