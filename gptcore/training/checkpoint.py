"""Checkpoints: whole or absent, verified when read, the previous one kept until a newer stands."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptcore import durable
from gptcore.model.gpt import GPT
from gptcore.model.weights import read_tensors, write_tensors
from gptcore.training.checkpoint_names import MARKER, committed, damage, directory_of, is_milestone, step_of
from gptcore.training.guard import Guard
from gptcore.training.optimizer import Optimizers

KEPT = 2
"""Recent checkpoints kept while a run lasts: should the newest be damaged, the other serves."""
SHARDS = "shards"
"""The folder of a checkpoint in which several processes keep model and optimizer, each its part."""


Parts = dict[str, Mapping[str, Tensor]]
"""The tensors of a checkpoint, by the file they go to."""
Written = Mapping[str, dict[str, Any]]
"""Files by name as the marker describes them."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands, beside its weights and what updates them."""

    step: int
    """Updates done."""
    tokens: int
    """Tokens read."""
    seconds: float
    """Time spent in updates."""
    metrics_position: int
    """Bytes of the metric log that belong to it."""
    watched: Mapping[str, Any] = field(default_factory=dict)
    """`Watch.state()`."""
    best: Mapping[str, Tensor] = field(default_factory=dict)
    """The weights of the best evaluation so far, where they are kept."""
    passed_over: int = 0
    """Batches left out by going back: update `step` takes the batch of `step + passed_over`."""
    rollbacks: int = 0
    """How often the run went back."""
    micro_batch_tokens: int | None = None
    """Tokens in a pass, where memory asked for fewer than were wanted."""


def random_states() -> dict[str, Tensor]:
    """Of this process's generators, by the device."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random_states(states: Mapping[str, Tensor]) -> None:
    """Put back what `random_states` gave."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


class Checkpoints:
    """The checkpoints of one run, under one directory.

    `fingerprint` names what the run depends on (data, base model …) by digest; a checkpoint of another is refused.
    """

    def __init__(self, root: Path, fingerprint: Mapping[str, str], say: Callable[[str], None]) -> None:
        self.root, self.fingerprint, self.say = root, dict(fingerprint), say
        root.mkdir(parents=True, exist_ok=True)
        for path in {*root.glob(".step-*.part"), *root.glob("step-*")} - set(committed(root)):
            shutil.rmtree(path)  # what a kill left: half written, or half removed

    def save(
        self,
        model: GPT,
        optimizers: Optimizers,
        progress: Progress,
        guard: Guard | None = None,
        milestone: bool = False,
        needed: Collection[int] = (),
    ) -> None:
        """Commit the state after an update; OSError when the disk is full, and then nothing has changed.

        1. Gather the tensors. 2. Make them a checkpoint.
        """
        tensors, written = self.gather(model, optimizers, progress)
        tensors |= {"guard": guard.tensors()} if guard else {}
        tensors |= {"best": progress.best} if progress.best else {}
        self.commit(progress, tensors, written, milestone, needed)

    def gather(self, model: GPT, optimizers: Optimizers, progress: Progress) -> tuple[Parts, Written]:
        """What differs from process to process where there are several: `model`, `optimizer` and `random`, or what
        of them stands in `aside` already.
        """
        return {"model": model.state_dict(), "optimizer": optimizers.tensors(model), "random": random_states()}, {}

    def commit(
        self,
        progress: Progress,
        tensors: Parts,
        written: Written,
        milestone: bool = False,
        needed: Collection[int] = (),
    ) -> None:
        """Make these files a checkpoint; `written` stand in `aside` already, as the marker is to describe them.

        1. Write aside, synced, digests taken on the way. 2. The marker. 3. Rename. 4. Remove the oldest, but for
        milestones and the steps that are `needed`.
        """
        target, aside = directory_of(self.root, progress.step), self.aside(progress)
        known = {name: value for name, value in vars(progress).items() if name != "best"}
        state = {**known, "fingerprint": self.fingerprint, "torch": torch.__version__}
        parts: dict[str, Mapping[str, Tensor] | bytes] = {
            **{f"{name}.safetensors": part for name, part in tensors.items()},
            "state.json": durable.canonical_json(state),
        }
        try:
            aside.mkdir(exist_ok=bool(written))
            files = {**written, **{name: _write_part(aside / name, part) for name, part in parts.items()}}
            durable.write_json(aside / MARKER, {"files": files, "milestone": milestone})
            durable.sync_directory(aside)
            if target.exists():
                remove(target)
            aside.rename(target)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        durable.sync_directory(self.root)
        prune(self.root, KEPT, needed)

    def aside(self, progress: Progress) -> Path:
        """Where a checkpoint grows until it is whole."""
        return self.root / f".{directory_of(self.root, progress.step).name}.part"

    def restore(self, model: GPT, optimizers: Optimizers, guard: Guard | None = None) -> Progress | None:
        """Load the newest checkpoint whose digests hold; None when there is none.

        Damaged ones are removed, and said. ValueError when it belongs to other data.
        """
        for directory in committed(self.root):
            if self.holds(directory):
                progress = self.progress(directory)
                tensors = state_tensors(directory)
                model.load_state_dict(tensors["model"])
                optimizers.restore(model, tensors["optimizer"])
                restore_random_states(tensors["random"])
                if guard:
                    guard.restore(tensors["guard"])
                return progress
        return None

    def holds(self, directory: Path) -> bool:
        """Whether a checkpoint's digests hold; where not, it is removed, and said."""
        problem = damage(directory) or _wrong_digest(directory)
        if problem:
            self.say(f"checkpoint {directory.name} is damaged ({problem}); the one before it is used")
            remove(directory)
        return problem is None

    def progress(self, directory: Path) -> Progress:
        """Where a checkpoint stands; ValueError when it belongs to other data."""
        state: dict[str, Any] = json.loads((directory / "state.json").read_bytes())
        found = state["fingerprint"]
        other = sorted(k for k in found.keys() | self.fingerprint if found.get(k) != self.fingerprint.get(k))
        if other:
            raise ValueError(
                f"checkpoint {directory} was made with other {', '.join(other)} than this run's; "
                f"remove {self.root} to start over"
            )
        best = directory / "best.safetensors"
        known = {part.name: state[part.name] for part in fields(Progress) if part.name != "best"}
        return Progress(**known, best=read_tensors(best) if best.exists() else {})

    def steps(self) -> list[int]:
        """Of every checkpoint, the newest first."""
        return [step_of(directory) for directory in committed(self.root)]

    def drop_after(self, step: int) -> None:
        """Remove what is newer, the newest first: a kill in between leaves a run that comes to the same place again."""
        for directory in committed(self.root):
            if step_of(directory) > step:
                remove(directory)

    def latest(self) -> Path | None:
        """The newest checkpoint."""
        return next(iter(committed(self.root)), None)


def state_tensors(directory: Path) -> dict[str, dict[str, Tensor]]:
    """The whole tensors of a checkpoint, from one file each or from shards: `model`, `optimizer`, `random`, `guard`."""
    tensors = {path.stem: read_tensors(path) for path in directory.glob("*.safetensors") if path.stem != "best"}
    if (directory / SHARDS).is_dir():
        from gptcore.training.shard_files import read_shards  # torch's checkpoint engine takes a second to import

        tensors |= read_shards(directory / SHARDS)
    return tensors


def prune(root: Path, kept: int, needed: Collection[int] = ()) -> None:
    """Remove all checkpoints but the newest, the milestones and the steps that are needed."""
    for directory in committed(root)[kept:]:
        if step_of(directory) not in needed and not is_milestone(directory):
            remove(directory)


def _write_part(path: Path, part: Mapping[str, Tensor] | bytes) -> dict[str, Any]:
    """Write one synced file; its size and digest."""
    with path.open("wb") as file:
        if isinstance(part, bytes):
            file.write(part)
            file.flush()
            digest = durable.sha256_file(path)
        else:
            digest = write_tensors(file, part)
            file.flush()
        os.fsync(file.fileno())
        return {"bytes": file.tell(), "sha256": digest}


def _wrong_digest(directory: Path) -> str | None:
    files = json.loads((directory / MARKER).read_bytes())["files"]
    return next((f"digest of {n}" for n, f in files.items() if durable.sha256_file(directory / n) != f["sha256"]), None)


def remove(directory: Path) -> None:
    """Marker first, so that a kill halfway leaves no checkpoint that looks whole."""
    (directory / MARKER).unlink(missing_ok=True)
    shutil.rmtree(directory)
