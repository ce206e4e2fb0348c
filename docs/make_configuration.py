"""Writes docs/configuration.md from the schema, gptcore/config*.py: `python docs/make_configuration.py`."""

from __future__ import annotations

import ast
import inspect
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gptcore import config, config_skill, config_sources, config_steps
from gptcore.config import Finetune, Preset
from gptcore.config_part import Part
from gptcore.config_skill import Skill, SkillData
from gptcore.config_sources import Source
from gptcore.config_steps import Step

PAGE = Path(__file__).with_name("configuration.md")

HEAD = """# Configuration

A preset is a YAML file in [configs/](../configs) or anywhere else (`gptmill run my/preset.yaml`). It holds only what
differs from the defaults below; `--set section.field=value` overrides any field for one run, and its value is read as
YAML (`--set corpus.held_out='[networkx]'`). What the texts call None is `null` in YAML. A key that is not on this
page, a value of another type or a combination that cannot be is refused in one line with exit code 2, before anything
is written.

Everything except `runtime`, and the few fields said to be execution, is identity config: it defines the result and
enters the stages' keys ([stages.md](stages.md)). This page is made from the docstrings of
[gptcore/config.py](../gptcore/config.py) and the files beside it by `python docs/make_configuration.py`; a test
compares the two.
"""

SCHEMA = (config, config_skill, config_sources, config_steps)
"""The modules whose docstrings the page is made of."""
SOURCES: tuple[type[Part], ...] = typing.get_args(typing.get_args(Source)[0])
STEPS: tuple[type[Part], ...] = typing.get_args(typing.get_args(Step)[0])


def sections() -> Iterator[tuple[str, str, type[BaseModel]]]:
    """(heading, what stands before its keys, schema) of every table of the page, in order."""
    yield "Preset", "", Preset
    for name, field in Preset.model_fields.items():
        if name == "finetune":
            yield "finetune.<skill>", "finetune.<skill>.", Finetune
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield name, f"{name}.", field.annotation
        if name == "corpus":
            for what, parts in (("sources", SOURCES), ("steps", STEPS)):
                for part in parts:
                    kind = typing.get_args(part.model_fields["kind"].annotation)[0]
                    yield f"corpus.{what}, kind: {kind}", f"corpus.{what}[].", part
    yield "Skill: a file of configs/skills", "", Skill
    yield "data of a skill", "data[].", SkillData


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for heading, before, schema in sections():
        rows = [
            f"| `{before}{name}` | {kind_of(field)} | {default_of(name, field)} | {docstring(schema, name)} |"
            for name, field in schema.model_fields.items()
            if not is_section(name, field, schema)
        ]
        parts.append(
            f"## {heading}\n\n{' '.join(str(schema.__doc__).split())}\n\n"
            "| key | type | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
        )
    return "\n".join(parts)


def is_section(name: str, field: FieldInfo, schema: type[BaseModel]) -> bool:
    """Whether a field has a table of its own."""
    holds = field.annotation
    return schema is Preset and (name == "finetune" or (isinstance(holds, type) and issubclass(holds, BaseModel)))


def docstring(schema: type[BaseModel], name: str) -> str:
    """The docstring under a field, on one line; of the base class where the field is inherited."""
    for owner in schema.__mro__:
        if name in getattr(owner, "__annotations__", {}):
            return docstrings()[owner.__name__, name].replace("|", "\\|")
    raise KeyError(name)


def docstrings() -> dict[tuple[str, str], str]:
    """(class, field) -> docstring, read from the schema's source."""
    found = {}
    body = [owner for module in SCHEMA for owner in ast.parse(inspect.getsource(module)).body]
    for owner in body:
        if not isinstance(owner, ast.ClassDef):
            continue
        for field, after in zip(owner.body, owner.body[1:], strict=False):
            match field, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[owner.name, name] = " ".join(text.split())
    return found


def kind_of(field: FieldInfo) -> str:
    """A field's type with its limits, in words."""
    return _kind(field.annotation, field.metadata)


def _kind(annotation: Any, limits: list[Any]) -> str:
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        own = [part for note in inside[1:] for part in (note.metadata if isinstance(note, FieldInfo) else [note])]
        return _kind(inside[0], [*limits, *own])
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in inside)
    if inside == SOURCES:
        return "source"
    if origin in (typing.Union, types.UnionType):
        parts = [_kind(part, limits) for part in inside if part is not type(None)]
        return " or ".join([*parts, "null"] if type(None) in inside else parts)
    if origin is tuple:
        if inside[0] is str:
            return "list of text"
        if inside[0] is SkillData:
            return "list of data"
        return "list of steps" if "config_steps" in repr(inside[0]) else "list of sources"
    if origin is dict:
        return "text by name"
    words = {int: "whole number", float: "number", str: "text", bool: "true or false"}[annotation]
    signs = [sign for limit in limits if (sign := _limit(limit))]
    return f"{words} {' and '.join(signs)}".strip()


def _limit(limit: Any) -> str:
    if pattern := getattr(limit, "pattern", None):
        return f"matching `{pattern}`".replace("|", "\\|")
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    return " and ".join(f"{sign} {getattr(limit, name):g}" for name, sign in signs.items() if hasattr(limit, name))


def default_of(name: str, field: FieldInfo) -> str:
    """A field's default as YAML, or that there is none; a `kind` of one value must always be said."""
    if field.is_required() or (name == "kind" and len(typing.get_args(field.annotation)) == 1):
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, dict):
        return f"`{{{', '.join(f'{key}: {text}' for key, text in value.items())}}}`"
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float):
        return f"`{value:g}`"
    if isinstance(value, int):
        return f"`{value:,}`".replace(",", "_")
    if isinstance(value, tuple):
        parts = (part if isinstance(part, str) else "{kind: " + part.kind + "}" for part in value)
        return f"`[{', '.join(parts)}]`"
    return f"`{value}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
