"""What the training stages of a preset will cost: FLOP, memory, disk, time. `plan` prints it before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gptcore.config import Finetune, Preset, Training, no_counterpart
from gptcore.hardware import resolve_dtype
from gptcore.named_sizes import NAMED
from gptcore.plan import StagePlan
from gptcore.sizes import (
    FLOAT32,
    Memory,
    Shape,
    checkpoint_bytes,
    count,
    evaluation_bytes,
    flops_per_token,
    training_memory,
)
from gptcore.speed import Machine

GPU_PASS_TOKENS, CPU_PASS_NUMBERS = 32_768, 1_800_000
"""Tokens of a pass where `runtime.micro_batch_tokens` says none; on a CPU times layers times width."""
LOOK_TOKENS = {"cpu": 4096, "cuda": 32_768}
"""Tokens of a pass in evaluations."""
CHECKPOINTS = 3
"""On disk at once: two kept, and the one being written."""


@dataclass(frozen=True)
class StageCost:
    """One training stage."""

    fresh: bool
    """Whether it is there already, and the rest of this is history."""
    steps: int
    batch_tokens: int
    flops: int
    """Of all updates, forward and backward."""
    memory: Memory
    """At its fullest."""
    memory_bytes: int
    """Of training or of an evaluation in its middle, whichever takes more."""
    disk_bytes: int
    """While it runs."""
    kept_bytes: int
    """Of that, what stays: the model, its last checkpoint, and the published copy of a tuned one."""
    estimated_s: float | None
    """Seconds by static tables; None where the device stands in none."""
    expected_s: float | None
    """Seconds: from past runs where there are any, else the estimate."""
    measured: bool
    """Whether there are."""

    def row(self) -> dict[str, Any]:
        """What `plan --json` prints."""
        return {**asdict(self), "tokens": self.steps * self.batch_tokens}


def model_row(preset: Preset) -> dict[str, Any]:
    """The network, for `plan --json`."""
    shape = Shape.of(preset.model, preset.tokenizer.vocab_size)
    found = count(shape)
    return {
        **asdict(shape),
        "size": preset.pretrain.size,
        "parameters": found.parameters,
        "multiplied": found.multiplied,
        "flops_per_token": flops_per_token(shape, shape.context),
    }


def costs(preset: Preset, plan: Mapping[str, StagePlan], machine: Machine) -> dict[str, StageCost]:
    """Every training stage, in order."""
    trainings: dict[str, Training] = {"pretrain": preset.pretrain}
    trainings |= {f"finetune-{skill}": tuning for skill, tuning in preset.finetune.items()}
    return {name: _cost(preset, config, plan[name], machine) for name, config in trainings.items()}


def _cost(preset: Preset, config: Training, planned: StagePlan, machine: Machine) -> StageCost:
    shape = Shape.of(preset.model, preset.tokenizer.vocab_size)
    dtype = resolve_dtype(config.dtype, machine.device)
    tuning = isinstance(config, Finetune)
    # Fine-tuning computes the head for answers only, one token in twenty.
    length = config.max_input_tokens + config.max_target_tokens if isinstance(config, Finetune) else shape.context
    token = flops_per_token(shape, length, head=not tuning)
    evaluations = max(1, -(-config.steps // config.eval_every))
    rate = machine.flops(dtype, shape.n_embd, preset.runtime.threads)
    tokens = config.steps * config.batch_tokens + evaluations * config.eval_tokens / 3  # a forward pass is a third
    estimate = round(token * tokens / rate, 1) if rate else None
    at_once = preset.runtime.micro_batch_tokens or _pass_tokens(shape, machine)
    at_once = min(max(at_once, shape.context), config.batch_tokens)
    memory = training_memory(shape, config.optimizer, at_once, dtype, machine.device)
    evaluated = evaluation_bytes(
        shape, config.optimizer, min(config.eval_tokens, LOOK_TOKENS[machine.device]), machine.device
    )
    checkpoint, weights = checkpoint_bytes(shape, config.optimizer), FLOAT32 * count(shape).parameters
    return StageCost(
        fresh=planned.manifest is not None,
        steps=config.steps,
        batch_tokens=config.batch_tokens,
        flops=token * config.steps * config.batch_tokens,
        memory=memory,
        memory_bytes=max(memory.total, evaluated),
        disk_bytes=CHECKPOINTS * checkpoint,
        kept_bytes=checkpoint + weights * (2 if tuning else 1),
        estimated_s=estimate,
        expected_s=estimate if planned.expected_s is None else planned.expected_s,
        measured=planned.expected_s is not None,
    )


def _pass_tokens(shape: Shape, machine: Machine) -> int:
    return GPU_PASS_TOKENS if machine.device == "cuda" else CPU_PASS_NUMBERS // (shape.n_layer * shape.n_embd)


def disk_bytes(found: Mapping[str, StageCost]) -> int:
    """Room that the stages still to run need, one after another; text and tokens not counted."""
    kept, most = 0, 0
    for cost in found.values():
        if not cost.fresh:
            most = max(most, kept + cost.disk_bytes)
            kept += cost.kept_bytes
    return max(most, kept)


def warnings(preset: Preset, found: Mapping[str, StageCost], machine: Machine, free_bytes: int) -> list[str]:
    """What will not fit by these estimates, and what was asked of `pretrain.size` and will not be."""
    lines = _beside_the_dial(preset, found["pretrain"])
    if unpublished := no_counterpart(preset.model):
        lines.append(unpublished)
    where = "this machine's RAM" if machine.device == "cpu" else "the GPU"
    for name, cost in found.items():
        if not cost.fresh and machine.memory_bytes and cost.memory_bytes > machine.memory_bytes:
            in_passes = cost.memory.activations + cost.memory.logits
            lines.append(
                f"{name} needs about {cost.memory_bytes / 1e9:,.1f} GB of memory, {where} has "
                f"{machine.memory_bytes / 1e9:,.1f} GB; lower runtime.micro_batch_tokens "
                f"(activations and logits are {in_passes / 1e9:,.1f} GB) or the size"
            )
    needed = disk_bytes(found)
    if needed > free_bytes:
        lines.append(
            f"models and checkpoints need about {needed / 1e9:,.1f} GB of disk, {free_bytes / 1e9:,.1f} GB are free; "
            "make room, or set GPTMILL_HOME elsewhere"
        )
    return lines


def _beside_the_dial(preset: Preset, cost: StageCost) -> list[str]:
    """A shape or a budget that what the preset gives itself, or fewer threads, does not keep."""
    asked, tokens, model = preset.pretrain, cost.steps * cost.batch_tokens, preset.model
    named = NAMED.get(asked.size or "")
    if named and (model.n_layer, model.n_head, model.n_embd) != (named.n_layer, named.n_head, named.n_embd):
        return [
            f"pretrain.size {asked.size} is {named.n_layer} layers of {named.n_embd} with {named.n_head} heads; "
            "fields of model that the preset gives stand against it"
        ]
    kept, words = True, ""
    if asked.budget_tokens:
        kept, words = 0.8 < tokens / asked.budget_tokens < 1.2, f"budget_tokens {asked.budget_tokens:,}"
    elif asked.budget_minutes and cost.estimated_s:
        kept, words = (
            0.8 < cost.estimated_s / asked.budget_minutes / 60 < 1.2,
            f"budget_minutes {asked.budget_minutes:g}",
        )
    if kept:
        return []
    return [
        f"pretrain.{words} is not what {cost.steps:,} updates of {cost.batch_tokens:,} tokens take; fields that the "
        "preset gives (steps, batch_tokens, the model's) and runtime.threads stand against it"
    ]
