"""From a step's config to the step, and what of its code enters the key of what it leaves."""

from __future__ import annotations

import importlib
from typing import Any

from pydantic import TypeAdapter

from gptcore.config_steps import Step as StepConfig
from gptcore.hardware import library_version
from gptcore.text.steps.step import Step

MODULES = {"repair": "repair", "language": "language", "filter": "filters", "mask": "mask"}
"""Kind of step -> its file here, which has VERSION, LIBRARIES and make(config)."""


def make_step(values: dict[str, Any]) -> Step:
    """A step from its config as JSON."""
    config = TypeAdapter(StepConfig).validate_python(values)
    step: Step = _module(config.kind).make(config)
    return step


def code_identity(kind: str) -> dict[str, Any]:
    """{"version", "libraries"}: what beside the config decides what a step does."""
    module = _module(kind)
    return {"version": module.VERSION, "libraries": {name: library_version(name) for name in module.LIBRARIES}}


def _module(kind: str) -> Any:
    return importlib.import_module(f"gptcore.text.steps.{MODULES[kind]}")
