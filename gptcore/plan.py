"""What a run would do, stage by stage, and why: no server, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

from gptcore.config import Model, Preset, all_sources
from gptcore.config_sources import Source
from gptcore.durable import sha256_json, write_json
from gptcore.hardware import library_version
from gptcore.presets import ConfigError
from gptcore.sizes import Shape, flops_per_token
from gptcore.stages import Stage, code_digest, identity, key_of, skill_sources, stages
from gptcore.store import IDENTITY, Manifest, Store, problem_by_size, read_json
from gptcore.training.checkpoint_names import latest_step

Status = Literal["fresh", "resumable", "stale", "missing"]


@dataclass(frozen=True)
class StagePlan:
    """The state of one stage."""

    name: str
    status: Status
    reason: str
    key: str | None
    """Unknown (None) below a stage that is not fresh, and for sources never resolved."""
    identity: dict[str, Any] | None
    manifest: Manifest | None
    """The finished stage, when fresh."""
    expected_s: float | None
    """From past manifests; 0 when fresh, None when nothing is known."""
    step: int | None = None
    """Where a resumable training stage stands."""

    def row(self) -> dict[str, Any]:
        """What `plan --json` prints."""
        return {"status": self.status, "reason": self.reason, "key": self.key, "expected_s": self.expected_s}


def resolve_sources(preset: Preset, home: Path) -> list[dict[str, Any]]:
    """Look at every source anew and remember its version for later plans.

    Behind those of the corpus come the version of `model.init` or `tokenizer.take`, that of the standard tasks' data,
    and those of the skills' own data. ValueError for a task that cannot be measured, or whose data is missing.
    """
    tasks = resolve_tasks(preset, home)
    from gptcore.text.skill_rows import resolve_rows
    from gptcore.text.sources import resolve_source  # slow to import, and a plan need not resolve

    versions = [resolve_source(source, home / "cache") for source in all_sources(preset.corpus)]
    for source, version in zip(all_sources(preset.corpus), versions, strict=True):
        write_json(_resolved_path(source, home), version)
    own = [resolve_rows(source, home / "cache") for source in skill_sources(preset)]
    for source, version in zip(skill_sources(preset), own, strict=True):
        write_json(_resolved_path(source, home), version)
    return [*versions, *start_version(preset, home), *tasks, *own]


def last_resolved(preset: Preset, home: Path) -> list[dict[str, Any]] | None:
    """The versions of the last resolution, or None if any source was never resolved.

    Loading the preset has looked at `model.init` and `tokenizer.take` already, so their version is always today's. So
    is that of standard tasks' data on disk. ValueError as `resolve_sources`.
    """
    versions = [read_json(_resolved_path(source, home)) for source in all_sources(preset.corpus)]
    own = [read_json(_resolved_path(source, home)) for source in skill_sources(preset)]
    tasks = resolve_tasks(preset, home, anew=False)
    if tasks is None or None in [*versions, *own]:
        return None
    return [*versions, *start_version(preset, home), *tasks, *own]


@overload
def resolve_tasks(preset: Preset, home: Path, *, recorded: Mapping[str, Any] | None = None) -> list[dict[str, Any]]: ...


@overload
def resolve_tasks(preset: Preset, home: Path, anew: bool) -> list[dict[str, Any]] | None: ...


def resolve_tasks(
    preset: Preset, home: Path, anew: bool = True, recorded: Mapping[str, Any] | None = None
) -> list[dict[str, Any]] | None:
    """Check the list of standard tasks and find the version of their data, as one more source; none without tasks.

    Tasks that lm-eval does not ship come with the version of the files that define them. anew: ask the hub; otherwise
    its commits are those of the last time, and the answer None when it was never asked. recorded: versions at whose
    commits the hub is asked.
    """
    names = preset.benchmark.tasks
    if not names:
        return []
    from gptcore.evaluation.own_tasks import VERSION, own_version
    from gptcore.evaluation.task_catalogue import Catalogue, check_tasks
    from gptcore.evaluation.task_data import local_versions, needs, pinned, versions_of
    from gptcore.text.digests import DigestCache

    cache, data_dir = home / "cache", preset.benchmark.data_dir
    catalogue = Catalogue(cache)
    tasks = check_tasks(names, catalogue)
    found = needs(tasks)
    asked = {"tasks": names, "data_dir": data_dir, "lm-eval": library_version("lm-eval")}
    remembered = cache / "sources" / f"tasks-{sha256_json(asked)[:16]}.json"
    with DigestCache(cache) as digests:
        # A record from before task files were part of it is looked at as it was made.
        own = own_version(tasks, catalogue, digests) if recorded is None or VERSION in recorded else {}
        if anew:
            data: dict[str, Any] = versions_of(pinned(found, recorded or {}), data_dir, digests)
            if recorded is None:
                write_json(remembered, data)
            data |= own
            return [{"task_data": data}] if data else []
        local = local_versions(found, data_dir, digests)
    before = read_json(remembered) or {}
    data = {name: before.get(name) if version is None else version for name, version in local.items()} | own
    if None in data.values():
        return None
    return [{"task_data": data}] if data else []


def start_version(preset: Preset, home: Path) -> list[dict[str, Any]]:
    """The version of `model.init` or `tokenizer.take`, where there is one."""
    init, take = preset.model.init, preset.tokenizer.take
    if init is None and take is None:
        return []
    from gptcore.pretrained import directory_of, tokenizer_directory, tokenizer_version, version_of
    from gptcore.text.digests import DigestCache

    with DigestCache(home / "cache") as cache:
        if init is not None:
            return [version_of(directory_of(init), cache.get)]
        assert take is not None
        return [tokenizer_version(tokenizer_directory(take), cache.get)]


def _resolved_path(source: Source, home: Path) -> Path:
    return home / "cache" / "sources" / f"{sha256_json(source.model_dump(mode='json'))[:16]}.json"


def make_plan(preset: Preset, store: Store, sources: list[dict[str, Any]] | None) -> dict[str, StagePlan]:
    """Every stage's state. sources: versions of the root stage's sources, None when never resolved."""
    found: dict[str, StagePlan] = {}
    for stage in stages(preset).values():
        blocking = [name for name in stage.inputs if found[name].manifest is None]
        found[stage.name] = (
            _blocked(stage, preset, store, found, blocking)
            if blocking
            else plan_stage(stage, preset, store, sources, {n: m for n in stage.inputs if (m := found[n].manifest)})
        )
    return found


def plan_stage(
    stage: Stage,
    preset: Preset,
    store: Store,
    sources: list[dict[str, Any]] | None,
    inputs: Mapping[str, Manifest],
) -> StagePlan:
    """The state of a stage whose inputs are finished."""
    past = _latest(stage, preset, store)
    if stage.root and sources is None:
        reason = "its sources were never resolved; --refresh looks at them"
        return StagePlan(stage.name, "stale" if past else "missing", reason, None, None, None, _expected(past, preset))
    parts = identity(stage, preset, {name: inputs[name].output_digest for name in stage.inputs}, sources)
    key = key_of(parts)
    manifest = store.manifest(stage.name, key)
    if manifest:
        drift = manifest.code_digest != code_digest(stage.code)
        reason = "the code changed since; --force rebuilds" if drift else "same key, every file in place"
        return StagePlan(stage.name, "fresh", reason, key, parts, manifest, 0.0)
    directory = store.directory(stage.name, key)
    lost = next((m for m in store.manifests(stage.name) if m.key == key), None)
    expected = _expected(lost or past, preset)
    if lost:
        reason = f"{problem_by_size(directory, lost)}"
        return StagePlan(stage.name, "stale", reason, key, parts, None, expected)
    if (directory / IDENTITY).exists():
        step = latest_step(directory / "checkpoints")
        reason = f"unfinished work at step {step}" if step is not None else "unfinished work"
        return StagePlan(stage.name, "resumable", reason, key, parts, None, expected, step)
    if past:
        return StagePlan(stage.name, "stale", difference(past.identity, parts), key, parts, None, expected)
    return StagePlan(stage.name, "missing", "never run", key, parts, None, expected)


def _blocked(
    stage: Stage, preset: Preset, store: Store, found: Mapping[str, StagePlan], blocking: list[str]
) -> StagePlan:
    past = _latest(stage, preset, store)
    others = f" (and {len(blocking) - 1} more)" if blocking[1:] else ""
    reason = f"upstream {blocking[0]} is {found[blocking[0]].status}{others}"
    if past:
        now = stage.identity(preset)
        changed = _changes("", past.identity["config"], now)
        reason = "; ".join([reason, *changed])
    return StagePlan(stage.name, "stale" if past else "missing", reason, None, None, None, _expected(past, preset))


def _latest(stage: Stage, preset: Preset, store: Store) -> Manifest | None:
    """The youngest output of a stage, of this preset where there is one."""
    every = store.manifests(stage.name)
    own = [m for m in every if m.preset == preset.name]
    youngest = own or every
    return youngest[-1] if youngest else None


def _expected(past: Manifest | None, preset: Preset) -> float | None:
    """Seconds the stage took last time; pretraining in proportion to its FLOP, fine-tuning to its tokens."""
    if past is None:
        return None
    before, cost = past.identity["config"], 0.0
    if before.get("steps") == 0:
        return None
    if past.stage == "pretrain":
        token = _token_flops(preset.model, preset) / _token_flops(Model.model_construct(**before["model"]), preset)
        cost = token * preset.pretrain.steps * preset.pretrain.batch_tokens
    elif past.stage.startswith("finetune-") and (tuning := preset.finetune.get(past.stage.removeprefix("finetune-"))):
        cost = tuning.steps * tuning.batch_tokens
    scale = cost / (before["steps"] * before["batch_tokens"]) if cost else 1.0
    return round(past.seconds * scale, 1)


def _token_flops(model: Model, preset: Preset) -> int:
    """Both sides of a comparison take today's vocabulary: that of a past run is in no manifest of pretraining."""
    return flops_per_token(Shape.of(model, preset.tokenizer.vocab_size), model.context)


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Why two identities of a stage differ, as one line."""
    reasons = _changes("", old["config"], new["config"])
    reasons += [f"upstream {name} changed" for name in new["inputs"] if old["inputs"].get(name) != new["inputs"][name]]
    reasons += [f"{name} {then} -> {now}" for name, (then, now) in _moved(old["libraries"], new["libraries"]).items()]
    if old.get("sources") != new.get("sources"):
        reasons.append("new source version")
    if old.get("init") != new.get("init"):
        reasons.append("other files behind model.init")
    if old.get("task_data") != new.get("task_data"):
        from gptcore.evaluation.own_tasks import VERSION

        edited = [(values.get("task_data") or {}).get(VERSION) for values in (old, new)]
        reasons.append("other files of benchmark tasks" if edited[0] != edited[1] else "other data of standard tasks")
    if old["version"] != new["version"]:
        reasons.append(f"stage version {old['version']} -> {new['version']}")
    return "; ".join(reasons) or "another key exists"


def _moved(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = dict.fromkeys([*old, *new])
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def _changes(prefix: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for name, (then, now) in _moved(old, new).items()
            for line in _changes(f"{prefix}.{name}" if prefix else name, then, now)
        ]
    return [f"{prefix} {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def select(preset: Preset, only: str | None, first: str | None, last: str | None) -> list[str]:
    """The stages a run works on, in order: --only one, or --from first --until last; raises ConfigError."""
    names = list(stages(preset))
    for option, name in (("--only", only), ("--from", first), ("--until", last)):
        if name is not None and name not in names:
            raise ConfigError(f"{option} {name}: no such stage; there are: {', '.join(names)}")
    if only:
        if first or last:
            raise ConfigError("--only goes without --from and --until")
        return [only]
    begin = names.index(first) if first else 0
    end = names.index(last) if last else len(names) - 1
    if begin > end:
        raise ConfigError(f"--from {first} comes after --until {last}; the order is: {', '.join(names)}")
    return names[begin : end + 1]
