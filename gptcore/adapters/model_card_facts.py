"""What a model card tells of, gathered from the finished stages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcore.config import Skill
from gptcore.durable import sha256_file
from gptcore.model.gpt import GPTConfig
from gptcore.model.weights import read_config
from gptcore.store import MANIFEST, Manifest
from gptcore.text.documents import SPLITS
from gptcore.text.licences import Origin, origins, own_origins
from gptcore.text.skill_items import COUNTS, stage_of

NOT_SCORES = ("_stderr", "_seed_std", "_base", "_baseline", "overlap_13gram")
"""Endings of what stands in other columns, and of what tells of the test items, not of the model."""


@dataclass(frozen=True)
class Facts:
    """What a card tells of, as the finished stages left it."""

    name: str
    """The model's."""
    skill: Skill
    shape: GPTConfig
    limits: dict[str, int]
    """max_input_tokens, max_target_tokens."""
    manifests: dict[str, Manifest]
    """By stage, each after what it reads."""
    sources: list[dict[str, Any]]
    """`corpus.sources` of the preset."""
    data_card: dict[str, Any]
    origins: tuple[Origin, ...]
    """Of the corpus."""
    own: tuple[Origin, ...]
    """Of the skill's own data; none where its items are made from the corpus."""
    own_items: dict[str, int]
    """Items of these by split."""
    tasks: dict[str, Any]
    """The benchmark's results by task."""
    base: dict[str, Any]
    """The base model's."""
    sample: dict[str, Any]
    """The shortest test item, with its answer."""
    weights: str
    """sha256 of model.safetensors."""
    items: str
    """Digest of the test items."""

    @property
    def tuning(self) -> Manifest:
        """Of the fine-tuning."""
        return self.manifests[f"finetune-{self.skill.name}"]

    @property
    def tokenizer(self) -> str:
        """`tokenizer.kind`, which keys leave out where it is bpe."""
        kind: str = self.manifests["tokenizer"].identity["config"].get("kind", "bpe")
        return kind

    @property
    def start(self) -> dict[str, str]:
        """sha256 by file name of the pretrained model that pretraining started from; nothing for random weights."""
        parts = self.manifests["pretrain"].identity.get("init", {})
        return {name: digest for part in parts.values() for name, digest in part.items()}

    @property
    def trained_on(self) -> tuple[Origin, ...]:
        """Of all that weights were made from."""
        return (*self.origins, *(origin for origin in self.own if origin.split in (None, "train")))

    def metric(self, name: str) -> float:
        """A stage's headline metric, by its stable name."""
        return self.manifests[name.partition("/")[0]].metrics[name]

    def scores(self) -> Iterator[tuple[str, str, float, Mapping[str, float | None]]]:
        """(task, metric, value, all of the task's metrics), the skill's own task first."""
        for task in sorted(self.tasks, key=lambda name: (name != self.skill.name, name)):
            metrics = self.tasks[task]["metrics"]
            for metric, value in sorted(metrics.items()):
                if value is not None and not metric.endswith(NOT_SCORES):
                    yield task, metric, value, metrics


def gather(name: str, skill: Skill, items: str, inputs: Mapping[str, Path], hf_dir: Path) -> Facts:
    """Read what a card needs. items: digest of the test items; hf_dir: holds the weights.

    Inputs: `corpus`, `tokenizer`, `tokens`, `pretrain`, the skill's finetune and benchmark and the base's, its items if
    it has data of its own, each with its manifest. FileNotFoundError where one is absent, ValueError where a manifest
    is none.
    """
    tuned, measured = f"finetune-{skill.name}", f"benchmark-{skill.name}"
    made = stage_of(skill)
    stages = (*([made] if made else []), "corpus", "tokenizer", "tokens", "pretrain", tuned, "benchmark-base", measured)
    manifests = {stage: Manifest.parse((inputs[stage] / MANIFEST).read_bytes()) for stage in stages}
    sources = manifests["corpus"].identity["config"]["sources"]
    data_card = json.loads((inputs["corpus"] / "data_card.json").read_bytes())
    own: tuple[Origin, ...] = ()
    counts: dict[str, int] = {}
    if made:
        asked, versions = manifests[made].identity["config"], manifests[made].identity["sources"]
        own = tuple(own_origins(asked["sources"], versions, asked["places"]))
        found = json.loads((inputs[made] / COUNTS).read_bytes())["items"]
        counts = {split: found[split] for split in SPLITS}
    limits = json.loads((inputs[tuned] / "skill.json").read_bytes())
    samples = [
        json.loads(line) for line in (inputs[measured] / f"samples-{skill.name}.jsonl").read_bytes().splitlines()
    ]
    return Facts(
        name,
        skill,
        read_config(inputs[tuned] / "config.json"),
        {name: limits[name] for name in ("max_input_tokens", "max_target_tokens")},
        manifests,
        sources,
        data_card,
        tuple(origins(sources, data_card)),
        own,
        counts,
        json.loads((inputs[measured] / "scores.json").read_bytes())["tasks"],
        json.loads((inputs["benchmark-base"] / "scores.json").read_bytes())["tasks"],
        min(samples, key=lambda sample: sum(map(len, sample["fields"].values()))),
        sha256_file(hf_dir / "model.safetensors"),
        items,
    )
