"""The finetune stages: a base model taught one skill."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gptcore import durable
from gptcore.config import Finetune, Skill
from gptcore.model.weights import load_model, read_config
from gptcore.text.skill_items import items_of, stage_of
from gptcore.text.skills import encode_prompt, encode_target, sample_items
from gptcore.text.tokenizer import TextTokenizer
from gptcore.training.batches import Batch, Example, ExampleBatches
from gptcore.training.device import arithmetic, torch_dtype
from gptcore.training.fitting import sharing
from gptcore.training.heldout import evaluate_examples
from gptcore.training.launch import launch, several
from gptcore.training.loop import Job, train
from gptcore.training.lora import ADAPTER_FILES, Adapter
from gptcore.training.packing import PackedBatches
from gptcore.training.pretrain import finish
from gptcore.training.rows import Rows, beside_their_like
from gptcore.training.team import team_of
from gptcore.work import Outcome, Work

HELD_OUT_SHARE = 0.02
"""Of the training items, where the validation split has none."""


def finetune(config: Finetune, skill: Skill, work: Work) -> Outcome:
    """Teach the model of the input `pretrain` the skill, with items from the input `corpus`.

    The prompt is masked out of the loss. LoRA's factors are merged into the weights, and left in `adapter/` too.
    ValueError when there are no items, they cannot fit the model's context, or LoRA's targets are none of its matrices.
    """
    base = work.inputs["pretrain"]
    if several(config, work):
        shared = sharing(config, read_config(base / "config.json"), work)
        if config.method == "lora" and shared != "ddp":
            raise ValueError(
                f"finetune.{skill.name}: method lora with parallel {shared}: an adapter's factors are not shared out; "
                "take parallel ddp, or method full"
            )
        return launch("finetune", {"config": config, "skill": skill}, config, shared, work)
    team = team_of(work)
    tokenizer = TextTokenizer.load(base)
    with arithmetic(work.runtime) as device:
        model = load_model(base)
        longest = config.max_input_tokens + config.max_target_tokens
        if longest > model.config.context:
            raise ValueError(
                f"finetune.{skill.name}: max_input_tokens + max_target_tokens {longest} exceeds the base model's "
                f"context of {model.config.context}"
            )
        data = examples(config, skill, tokenizer, model.config.context, work)
        adapter = Adapter(model, config) if config.method == "lora" else None
        team.place(model, device)
        dtype = torch_dtype(config.dtype, device)
        job = Job(
            name=f"finetune-{skill.name}",
            config=config,
            next_batch=_batches(config, data.train, model.config.context, work),
            evaluate=lambda: evaluate_examples(model, data.validation, dtype),
            fingerprint={"items": _digest(data), "base model": durable.sha256_file(base / "model.safetensors")},
        )
        metrics = train(model, job, work)
    if adapter:
        if team.writes:
            adapter.save(work.directory)
        adapter.merge()
    metrics[f"{job.name}/items"] = float(sum(len(example.turns) for example in data.train))
    limits = {"max_input_tokens": config.max_input_tokens, "max_target_tokens": config.max_target_tokens}
    if team.writes:
        durable.write_json(work.directory / "skill.json", skill.model_dump(mode="json") | limits)
    return finish(model, work, base, metrics, "skill.json", *(ADAPTER_FILES if adapter else ()))


def _batches(config: Finetune, train: list[Example], context: int, work: Work) -> Callable[[int], Batch]:
    if config.packing:
        packed = PackedBatches(train, context, config.batch_tokens, config.steps, config.seed)
        work.say(f"{len(train)} examples packed, none cut or left out: {packed.empty:.1%} of the places are empty")
        return packed
    return ExampleBatches(train, config.batch_tokens, config.steps, config.seed)


@dataclass(frozen=True)
class Data:
    """What fine-tuning reads."""

    train: list[Example]
    validation: list[Example]


def examples(config: Finetune, skill: Skill, tokenizer: TextTokenizer, context: int, work: Work) -> Data:
    """Encode the items of both splits, as many as the run can see; one that is too long is left out, and counted.

    context: tokens of a row at most, where items share one.
    """
    key = f"finetune-{config.seed}"

    def encoded(split: str, most_items: int, most_tokens: int, most_alike: int, shared: bool = False) -> list[Example]:
        """An even sample, in hash order, until it holds so many tokens."""
        found = sample_items(items_of(skill, work.inputs, split), most_items, key)
        if shared:
            found = beside_their_like(found, skill.truncate)
        rows, tokens, too_long = Rows(context if shared else 0), 0, 0
        alike: Counter[str] = Counter()
        for item in found:
            if tokens >= most_tokens:
                break
            if any(item.target in field for field in item.fields.values()):
                alike[item.target] += 1
                if alike[item.target] > most_alike:
                    continue
            try:
                prompt = encode_prompt(skill, item.fields, tokenizer, config.max_input_tokens)
            except ValueError:  # the question alone is over the limit
                too_long += 1
                continue
            target = encode_target(item.target, tokenizer)
            if len(target) > config.max_target_tokens:
                too_long += 1
                continue
            tokens += rows.add(prompt, target)
        if too_long:
            work.say(f"{too_long} of {len(found)} {skill.name} items of the {split} split left out: too long")
        if shared:
            work.say(f"{rows.items} items in {len(rows.examples)} rows of one text each")
        return rows.examples

    train_items = encoded(
        "train",
        config.max_items or sys.maxsize,
        config.steps * config.batch_tokens,
        config.max_per_answer or sys.maxsize,
        config.share_context,
    )
    validation = encoded("validation", sys.maxsize, config.eval_tokens, sys.maxsize)
    if not validation:
        held = max(1, round(len(train_items) * HELD_OUT_SHARE))
        validation, train_items = train_items[:held], train_items[held:]
        work.say(f"the validation split has no {skill.name} items: {len(validation)} training items are held out")
    if not train_items:
        own = stage_of(skill)
        raise ValueError(
            f"skill {skill.name} finds no training items in the {own or 'corpus'} ({work.inputs[own or 'corpus']}); "
            f"add sources whose text holds some, or raise finetune.{skill.name}.max_target_tokens"
        )
    return Data(train_items, validation)


def _digest(data: Data) -> str:
    digest = hashlib.sha256()
    for part in (data.train, data.validation):
        for ids in (ids for example in part for turn in example.turns for ids in (turn.prompt, turn.target)):
            digest.update(np.array([len(ids), *ids], dtype=np.int32).tobytes())
    return digest.hexdigest()
