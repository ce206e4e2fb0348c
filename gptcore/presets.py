"""From a preset's name, or a YAML file, and `--set` overrides to a checked Preset."""

from __future__ import annotations

import difflib
import fnmatch
import importlib.resources
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from gptcore.config import Preset, Skill

Validated = TypeVar("Validated", bound=BaseModel)


class ConfigError(ValueError):
    """A preset that cannot be: one line a problem, each naming field, value and what is allowed."""


MERGE = "tag:yaml.org,2002:merge"
"""The key `<<`, which takes over another mapping's keys."""


class _Loader(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):  # type: ignore[misc]
    """Safe YAML that reads 1e-3 as a number (YAML 1.1 wants 1.0e-3) and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != MERGE]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise ConfigError(f"key {twice[0]!r} is given twice, line {node.start_mark.line + 1}")
        return typing.cast("dict[Any, Any]", super().construct_mapping(node, deep=deep))


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$|^[-+]?\d[\d_]*\.\d*$|^[-+]?\.\d+$"),
    list("-+0123456789."),
)


def parse_yaml(text: str, where: str) -> Any:
    """Read YAML safely; a syntax error becomes one line."""
    try:
        return yaml.load(text, _Loader)  # a SafeLoader subclass
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None


def written(values: Any) -> str:
    """The YAML that `parse_yaml` reads these values from again."""
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
    return text


def preset_names() -> list[str]:
    """The presets that come with gptmill."""
    folder = importlib.resources.files("configs")
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def _read_config(folder: str, name: str, what: str, others: Sequence[str] = ()) -> Any:
    """A YAML of the configs package, or a file's path when the name has a separator or ends in .yaml.

    others: names besides the package's, for an error.
    """
    if "/" in name or name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"{what} file {name} does not exist")
        try:
            return parse_yaml(path.read_text(encoding="utf-8"), name)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{what} file {name} cannot be read: {error}") from None
    resource = importlib.resources.files("configs") / folder / f"{name}.yaml"
    if not resource.is_file():
        known = sorted(
            p.name.removesuffix(".yaml")
            for p in (importlib.resources.files("configs") / folder).iterdir()
            if p.name.endswith(".yaml")
        )
        known = sorted({*known, *others})
        raise ConfigError(f"unknown {what} {name!r}{_nearest(name, known)}; there are: {', '.join(known)}")
    return parse_yaml(resource.read_text(encoding="utf-8"), f"{name}.yaml")


_given: dict[str, Skill] = {}


@contextmanager
def skills_given(skills: Mapping[str, Any]) -> Iterator[None]:
    """Inside, these are the skills of their names, whatever configs/skills says; raises ConfigError."""
    checked = {name: validated(Skill, values, f"skill {name}") for name, values in skills.items()}
    before = dict(_given)
    _given.update(checked)
    try:
        yield
    finally:
        _given.clear()
        _given.update(before)


def load_skill(name: str, folder: str | None = None) -> Skill:
    """One YAML of `folder`, or of configs/skills; raises ConfigError."""
    if name in _given:
        return _given[name]
    own = sorted(path.stem for path in Path(folder).glob("*.yaml")) if folder else []
    if name in own:
        assert folder is not None
        values, where = _read_config("", str(Path(folder) / f"{name}.yaml"), "skill"), f"skill {folder}/{name}.yaml"
    else:
        values, where = _read_config("skills", name, "skill", own), f"skill {name}"
    skill = validated(Skill, values, where)
    if skill.name != name:
        raise ConfigError(f"{where}: its name is {skill.name!r}; file, name and the key of finetune must be the same")
    return skill


def skills_of(preset: Preset) -> dict[str, Skill]:
    """The skills that a preset's models are tuned for, in order."""
    return {name: load_skill(name, preset.skills_folder) for name in preset.finetune}


def load_preset(name: str, overrides: Sequence[str] = ()) -> Preset:
    """A preset by name or path, with `a.b=c` overrides, and what follows from `model.init` and `pretrain.size`.

    Raises ConfigError.
    """
    values = _read_config("", name, "preset")
    if not isinstance(values, dict):
        raise ConfigError(f"preset {name} must be a mapping of sections, not {type(values).__name__}")
    for override in overrides:
        _apply(values, override)
    beside = Path(name).parent / "skills"
    if name.endswith((".yaml", ".yml")) and beside.is_dir():
        values.setdefault("skills_folder", str(beside.resolve()))
    preset = validated(Preset, _with_size(_with_start(values, name), name), f"preset {name}")
    check_guard(preset, list(skills_of(preset).values()))
    return preset


def check_guard(preset: Preset, skills: Sequence[Skill]) -> None:
    """Raises ConfigError for a name in `publish.guard` that nothing measured can have."""
    known = ["heldout/bits_per_byte", *(f"{skill.name}/{metric}" for skill in skills for metric in skill.metrics)]
    tasks = preset.benchmark.tasks

    def possible(name: str) -> bool:
        task, slash, metric = name.partition("/")
        if any(fnmatch.fnmatchcase(figure, name) or name.startswith(f"{figure}_") for figure in known):
            return True  # with an ending: one kind of item
        members = any(fnmatch.fnmatchcase(given, task) or task.startswith(f"{given}_") for given in tasks)
        return bool(slash and metric and members)

    if wrong := [name for name in preset.publish.guard if not possible(name)]:
        there = ", ".join([*known, *(f"{task}/METRIC" for task in tasks)])
        raise ConfigError(f"publish.guard {', '.join(map(repr, wrong))} is not measured; there are: {there}")


def _with_start(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The values with what follows from `model.init` or `tokenizer.take`, where there is one."""
    model, tokenizer = values.get("model"), values.get("tokenizer")
    starts = isinstance(model, dict) and model.get("init") is not None
    if not starts and not (isinstance(tokenizer, dict) and tokenizer.get("take") is not None):
        return values
    from gptcore.pretrained import with_start, with_tokenizer  # few presets need it

    try:
        return with_start(values) if starts else with_tokenizer(values)
    except (ValueError, OSError) as problem:
        raise ConfigError(f"preset {name}: {problem}") from None


def _with_size(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The values with what follows from `pretrain.size`, where there is one."""
    pretrain = values.get("pretrain")
    if not isinstance(pretrain, dict) or pretrain.get("size") is None:
        return values
    from gptcore.dial import dialled  # few presets need it, and each plan would pay for it

    try:
        return dialled(values)
    except ValueError as problem:
        raise ConfigError(f"preset {name}: {problem}") from None


def _apply(values: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    path = dotted.strip().split(".")
    if not equals or not all(path):
        raise ConfigError(f"--set {override!r} must look like section.field=value")
    value = parse_yaml(text, f"--set {dotted}")
    at = values
    for part in path[:-1]:
        step = at.get(part)
        if isinstance(step, list) and part != path[-1]:
            raise ConfigError(f"--set {dotted}: {part} is a list; give the whole list as --set {part}='[...]'")
        if not isinstance(step, dict):
            step = {}
            at[part] = step
        at = step
    at[path[-1]] = value


def _nearest(word: str, known: Iterable[str]) -> str:
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (nearest: {match[0]})" if match else ""


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Every model class inside an annotation such as dict[str, Finetune] or tuple[A | B, ...]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if isinstance(annotation, types.GenericAlias | types.UnionType) or typing.get_origin(annotation) is not None:
        return [model for part in typing.get_args(annotation) for model in _models_in(part)]
    return []


def _fields_at(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """Names of the fields that stand beside the one at `location`."""
    at: list[type[BaseModel]] = [model]
    for part in location[:-1]:
        named = [m for m in at if part in m.model_fields]
        if named:
            at = [inner for m in named for inner in _models_in(m.model_fields[part].annotation)]
        else:  # an index, a dict key, or the tag of a union
            at = [m for m in at if str(m.model_fields["kind"].default) == part] if _is_tag(at, part) else at
    return sorted({name for m in at for name in m.model_fields})


def _is_tag(models: Sequence[type[BaseModel]], part: Any) -> bool:
    return any("kind" in m.model_fields and m.model_fields["kind"].default == part for m in models)


def _sentence(model: type[BaseModel], error: Any) -> str:
    location = [p for p in error["loc"] if not isinstance(p, str) or not p.startswith("function-")]
    field = ".".join(str(part) for part in location)
    if error["type"] == "extra_forbidden":
        known = _fields_at(model, location)
        return f"unknown key {field}{_nearest(str(location[-1]), known)}; known here: {', '.join(known)}"
    if error["type"] == "missing":
        return f"{field} is missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{field}: {message}" if field else message
    return f"{field} is {error['input']!r}: {message[0].lower()}{message[1:]}"


def validated(model: type[Validated], values: Any, what: str) -> Validated:
    """The values as a model; ConfigError in one line that begins with `what` and names every wrong field."""
    try:
        return model.model_validate(values)
    except ValidationError as failure:
        lines = [_sentence(model, error) for error in failure.errors(include_url=False)]
        raise ConfigError(f"{what}: " + "; ".join(dict.fromkeys(lines))) from None
