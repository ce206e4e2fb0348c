"""The report's sections on what was asked, where everything came from, and how to get it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from gptcore.config import DIAL_FIELDS, EXECUTION, Finetune, Preset
from gptcore.evaluation.report_words import DASH, duration, flat
from gptcore.html_page import Markup, code, definitions, element, joined, paragraph, short, table, text
from gptcore.presets import load_preset, preset_names
from gptcore.store import Manifest

ANSWERED: dict[str, Any] = {**EXECUTION, "pretrain": {*EXECUTION["pretrain"], *DIAL_FIELDS}}
"""Left out of what reproduces a preset: `pretrain.size` could answer otherwise elsewhere, so its answers are given."""


def asked(preset: Preset) -> Markup:
    """The preset, less what everybody gets."""
    rows = list(differing(preset))
    if not rows:
        return paragraph("The schema's defaults, nothing else.")
    cells = [(code(field), _shown(asked), _shown(usual)) for field, asked, usual in rows]
    return joined(
        [
            paragraph("Fields that differ from the schema's defaults.", "soft"),
            table(("field", "value", "default"), cells),
        ]
    )


def differing(preset: Preset) -> Iterator[tuple[str, Any, Any]]:
    """(dotted field, value, default) of what differs from the schema's defaults; execution config left out."""
    default = Preset(name=preset.name, finetune={skill: Finetune() for skill in preset.finetune})
    usual = dict(flat(default.model_dump(mode="json", exclude=EXECUTION)))
    for field, value in flat(preset.model_dump(mode="json", exclude=EXECUTION)):
        if field not in usual or usual[field] != value:
            yield field, value, usual.get(field)
    if preset.model.init is not None:
        yield "model.init", preset.model.init, None


def _shown(value: Any) -> Markup:
    return code(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def lineage(manifests: Mapping[str, Manifest]) -> Markup:
    """Every stage's key, output, cost, commit and run."""
    if not manifests:
        return paragraph("No finished stage.", "soft")
    rows = [
        (
            name,
            short(m.key),
            short(m.output_digest),
            duration(m.seconds),
            m.attempts,
            _commit(m.git),
            short(m.mlflow_run_id),
            joined(Markup(f"{text(of)} {short(digest)}<br>") for of, digest in m.identity["inputs"].items()),
        )
        for name, m in manifests.items()
    ]
    head = ("stage", "key", "output digest", "own work", "tries", "git commit", "MLflow run", "inputs")
    explained = (
        "A key names everything that defines a stage's result, an output digest the bytes it left. "
        "Built again on the same kind of machine, a stage gives the same digest."
    )
    return joined([paragraph(explained, "soft"), table(head, rows, (3, 4))])


def _commit(git: Mapping[str, Any]) -> Markup:
    if not git.get("commit"):
        return DASH
    return joined([short(git["commit"]), "+ changes" if git.get("dirty") else ""])


def reproduce(preset: Preset, manifests: Mapping[str, Manifest]) -> Markup:
    """The command, the commit, the library versions and the machine."""
    libraries = sorted(
        {(name, version) for m in manifests.values() for name, version in m.identity["libraries"].items()}
    )
    executions = {json.dumps(m.execution, sort_keys=True): m.execution for m in manifests.values()}
    commits = {m.git["commit"] for m in manifests.values() if m.git.get("commit")}
    pieces = [element("pre", reproduction(preset))]
    last = max((m for m in manifests.values() if m.mlflow_parent_run_id), key=lambda m: m.finished, default=None)
    if last and last.mlflow_parent_run_id:
        pieces.append(paragraph("Or from the record in MLflow alone, each stage's digest compared with it:"))
        pieces.append(element("pre", f"gptmill reproduce {last.mlflow_parent_run_id[:8]}"))
    if commits:
        pieces.append(paragraph(joined(["From commit ", *(code(commit) for commit in sorted(commits))])))
    if libraries:
        pieces += [element("h3", "Library versions that enter keys"), table(("library", "version"), libraries)]
    for execution in executions.values():
        shown = [(name.replace("_", " "), value) for name, value in execution.items() if value is not None]
        pieces += [element("h3", "Where it ran"), definitions(shown)]
    return joined(pieces)


def reproduction(preset: Preset) -> str:
    """The command that asks for this very preset; for one that does not come with gptmill, its YAML too."""
    if preset.name in preset_names():
        shipped = load_preset(preset.name).model_dump(mode="json", exclude=ANSWERED)
        sets = _overrides(shipped, preset.model_dump(mode="json", exclude=ANSWERED))
        return " \\\n  ".join([f"gptmill run {preset.name}", *(f"--set {shlex.quote(one)}" for one in sets)])
    values: dict[str, Any] = {"name": preset.name, "finetune": {skill: {} for skill in preset.finetune}}
    left_out = {f"pretrain.{name}" for name in DIAL_FIELDS}
    for field, value, _ in differing(preset):
        if field in left_out:
            continue
        *path, last = field.split(".")
        at = values
        for part in path:
            at = at.setdefault(part, {})
        at[last] = value
    written = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return f"gptmill run {preset.name}.yaml\n\n# {preset.name}.yaml\n{written}"


def _overrides(shipped: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in wanted.items():
        before = shipped.get(name)
        if before == value:
            continue
        if isinstance(value, dict) and isinstance(before, dict) and value.keys() == before.keys():
            yield from _overrides(before, value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}={json.dumps(value, ensure_ascii=False)}"
