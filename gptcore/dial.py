"""`pretrain.size`: one dial from which shape, steps, batch and rates follow. What the preset gives itself stands.

The answer depends on the preset and on static tables, for a budget in minutes on that of devices too. It is worked out
when a preset is loaded, so keys, plan and tracker see values only.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from gptcore.config import DIAL_FIELDS, Finetune, Model, Pretrain, Runtime, SizeName, Tokenizer
from gptcore.config_part import Positive
from gptcore.hardware import resolve_dtype
from gptcore.named_sizes import GPT3, LADDER, NAMED, NamedSize
from gptcore.sizes import FAMILIES, Shape, count, flops_per_token
from gptcore.speed import Machine, this_machine

TOKENS_PER_PARAMETER = 20
"""Hoffmann et al. 2022, table 3: what trains best for its FLOP."""
LEAST_UPDATES, LEAST_BATCH = 500, 1024
"""Where tokens are few, batches shrink until they give so many updates, but not below the smallest that was measured,
in tokens: both are quickstart's (benchmarks/RESULTS.md)."""
WARMUP_SHARE, WARMUP_TOKENS = 0.02, 375e6
"""Warm-up: quickstart's share of all updates, at most GPT-3's tokens (Brown et al. 2020, appendix B)."""
EVALUATIONS, EVALUATED_SHARE = 10, 0.01
"""Evaluations in a run, and what each reads at most as a share of the training tokens."""
FINETUNE_RATE, FINETUNE_BATCH = 0.5, 32_768
"""Fine-tuning's rates as a share of pretraining's (benchmarks/RESULTS.md), and its largest batch, as in gpt2-124m."""
BESIDE_MUON = 10 / 3
"""AdamW's rate for the tables beside Muon, over its rate alone; measured at 1.3 M parameters only."""

_PUBLISHED = list(GPT3.values())
RATES = [(1.3e6, 3e-3), *((size.parameters, size.learning_rate or 0.0) for size in _PUBLISHED)]
"""(parameters, AdamW's peak rate): benchmarks/RESULTS.md, then GPT-3's table 2.1; a line between logarithms."""
BATCHES = [(1.3e6, LEAST_BATCH), *((size.parameters, size.batch_tokens) for size in _PUBLISHED)]
"""(parameters, tokens in a batch), from the same places."""


class _Read(BaseModel):
    """The part of a preset that the dial looks at, before the whole is validated; None is what nobody gave."""

    model_config = ConfigDict(strict=True, defer_build=True)


class _Shape(_Read):
    family: str = Model.model_fields["family"].default
    context: Positive = Model.model_fields["context"].default
    n_layer: Positive | None = None
    n_head: Positive | None = None
    n_embd: Positive | None = None
    activation: str | None = None
    bias: bool | None = None
    positions: str | None = None
    n_kv_head: Positive | None = None
    window: Positive | None = None


class _Pretrain(_Read):
    size: SizeName | None = None
    budget_tokens: Positive | None = None
    budget_minutes: float | None = None
    optimizer: str = Pretrain.model_fields["optimizer"].default
    matrix_learning_rate: float = Pretrain.model_fields["matrix_learning_rate"].default
    dtype: str = Pretrain.model_fields["dtype"].default
    batch_tokens: Positive | None = None
    steps: Positive | None = None


class _Finetune(_Read):
    optimizer: str = Finetune.model_fields["optimizer"].default


class _Asked(_Read):
    model: _Shape = _Shape.model_construct()
    tokenizer: Tokenizer = Tokenizer.model_construct()
    pretrain: _Pretrain
    finetune: dict[str, _Finetune] = {}
    runtime: Runtime = Runtime.model_construct()


@dataclass(frozen=True)
class Choice:
    """A shape and the tokens it is to see."""

    shape: Shape
    tokens: int
    named: NamedSize | None


def dialled(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A preset's values with what `pretrain.size` decides filled in; untouched where they cannot be.

    ValueError where a budget in minutes meets a device that no table knows.
    """
    pretrain = values["pretrain"]
    try:
        Pretrain(**{name: pretrain[name] for name in DIAL_FIELDS if name in pretrain})
        asked = _Asked.model_validate(values)
    except ValidationError:
        return values  # the validation of the whole preset names what is wrong
    if asked.model.family not in FAMILIES:
        return values
    choice = choose(asked)
    shape, filled = choice.shape, dict(values)
    filled["model"] = {
        "n_layer": shape.n_layer,
        "n_head": shape.n_head,
        "n_embd": shape.n_embd,
        **values.get("model", {}),
    }
    filled["pretrain"] = {**_updates(asked, choice), **pretrain}
    filled["finetune"] = {
        skill: {**_tuning(asked, tuning.optimizer, choice, filled["pretrain"]), **values["finetune"][skill]}
        for skill, tuning in asked.finetune.items()
    }
    return filled


def choose(asked: _Asked) -> Choice:
    """The published shape; or of the ladder's the largest that sees 20 tokens a parameter, else the smallest."""
    wish, named = asked.pretrain, NAMED.get(asked.pretrain.size or "")
    rungs = [(named.n_layer, named.n_head, named.n_embd)] if named else list(LADDER)
    if asked.model.n_head and not asked.model.n_embd:  # widths that the preset's heads divide, where there are any
        rungs = [rung for rung in rungs if rung[2] % asked.model.n_head == 0] or rungs
    machine = this_machine(asked.runtime) if wish.budget_minutes is not None else None
    choices = []
    for rung in rungs:
        shape = _shape(asked, *rung)
        enough = TOKENS_PER_PARAMETER * count(shape).parameters
        tokens = wish.budget_tokens or (_affordable(shape, wish, machine) if machine else enough)
        choices.append((tokens >= enough, Choice(shape, tokens, named)))
    fitting = [choice for fits, choice in choices if fits]
    return fitting[-1] if fitting else choices[0][1]


def _shape(asked: _Asked, n_layer: int, n_head: int, n_embd: int) -> Shape:
    """A rung, where the preset gives nothing itself. Heads follow a width that it gives: of 64 or a little more."""
    given = asked.model
    if given.n_embd and given.n_embd != n_embd:
        n_embd = given.n_embd
        n_head = max(h for h in range(1, max(1, n_embd // 64) + 1) if n_embd % h == 0)
    chosen = {"n_layer": given.n_layer or n_layer, "n_head": given.n_head or n_head, "n_embd": n_embd}
    return Shape(**{**given.model_dump(), **chosen}, vocab_size=asked.tokenizer.vocab_size)


def _affordable(shape: Shape, wish: _Pretrain, machine: Machine) -> int:
    """Tokens that the minutes allow, evaluations (a forward pass: a third) included."""
    assert wish.budget_minutes is not None
    dtype = resolve_dtype(wish.dtype, machine.device)
    rate = machine.flops(dtype, shape.n_embd)
    if rate is None:
        raise ValueError(
            f"pretrain.budget_minutes {wish.budget_minutes:g}: no table says how fast {machine.name or 'this GPU'} "
            f"computes in {dtype}; give pretrain.budget_tokens instead"
        )
    token = flops_per_token(shape, shape.context) * (1 + EVALUATIONS * EVALUATED_SHARE / 3)
    return max(1, int(60 * wish.budget_minutes * rate / token))


def _updates(asked: _Asked, choice: Choice) -> dict[str, Any]:
    """What pretraining takes over from the dial."""
    wish, context, n = asked.pretrain, choice.shape.context, count(choice.shape).parameters
    batch = wish.batch_tokens or _batch(choice, n)
    steps = wish.steps or max(1, choice.tokens // batch)
    tokens = steps * batch
    return {
        "batch_tokens": batch,
        "steps": steps,
        "learning_rate": _rate(choice, wish.optimizer, n),
        "warmup_steps": min(int(WARMUP_SHARE * steps), round(WARMUP_TOKENS / batch)),
        "eval_every": max(1, steps // EVALUATIONS),
        "eval_tokens": max(context, min(Pretrain.model_fields["eval_tokens"].default, int(EVALUATED_SHARE * tokens))),
    }


def _tuning(asked: _Asked, optimizer: str, choice: Choice, pretrain: Mapping[str, Any]) -> dict[str, Any]:
    """What fine-tuning takes over: half the rates, the batch up to a limit."""
    rate = _rate(choice, optimizer, count(choice.shape).parameters)
    return {
        "learning_rate": _rounded(FINETUNE_RATE * rate),
        "matrix_learning_rate": FINETUNE_RATE * asked.pretrain.matrix_learning_rate,
        "batch_tokens": min(pretrain["batch_tokens"], FINETUNE_BATCH),
    }


def _batch(choice: Choice, n: int) -> int:
    """Tokens in a batch, whole sequences: published, or a power of two of them near the line; less for few tokens."""
    context = choice.shape.context
    if choice.named:
        rows = max(1, choice.named.batch_tokens // context)
    else:
        rows = 1 << max(0, round(math.log2(_line(BATCHES, n) / context)))
    return context * max(1, min(rows, max(LEAST_BATCH, choice.tokens // LEAST_UPDATES) // context))


def _rate(choice: Choice, optimizer: str, n: int) -> float:
    """AdamW's peak rate: published, or on the line; higher beside Muon, which leaves it the tables."""
    published = choice.named.learning_rate if choice.named else None
    return _rounded((published or _line(RATES, n)) * (BESIDE_MUON if optimizer == "muon" else 1.0))


def _rounded(rate: float) -> float:
    """Two digits: no rate is known better, and every machine's logarithms agree on them."""
    return float(f"{rate:.2g}")


def _line(points: Sequence[tuple[float, float]], at: float) -> float:
    """The value at `at` on the line through the points in double-logarithmic paper; beyond the ends that of the end."""
    i = bisect(points, at, key=lambda point: point[0])
    if i in (0, len(points)):
        return points[min(i, len(points) - 1)][1]
    (x0, y0), (x1, y1) = points[i - 1], points[i]
    share = math.log(at / x0) / math.log(x1 / x0)
    return math.exp(math.log(y0) * (1 - share) + math.log(y1) * share)
