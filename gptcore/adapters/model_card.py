"""The README.md of a published model: a model card in the form of the Hugging Face hub, made of the stages' records.

Nothing in it is estimated or remembered: every number comes from a manifest, a data card or a benchmark's scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from gptcore.adapters.model_card_facts import Facts
from gptcore.config import activation_of, counterpart, positions_of
from gptcore.evaluation.safety import safety_scores
from gptcore.store import Manifest
from gptcore.text.licences import Origin

FAMILIES = {
    "gpt1": "GPT-1: norms behind the residual additions (Radford et al. 2018)",
    "gpt2": "GPT-2: norms before each block (Radford et al. 2019)",
    "gpt3": "GPT-3: as GPT-2, every second layer attending within a band (Brown et al. 2020)",
    "modern": "modern: rotary positions, RMSNorm, normed queries and keys, no biases, an untied head",
}
HUB_LICENCES = frozenset([
    "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "bsl-1.0", "cc0-1.0",
    "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cdla-sharing-1.0",
    "epl-2.0", "eupl-1.2", "gfdl", "gpl-2.0", "gpl-3.0", "isc", "lgpl-2.1", "lgpl-3.0", "mit", "mpl-2.0", "ms-pl",
    "ncsa", "odc-by", "odbl", "ofl-1.1", "pddl", "postgresql", "unlicense", "wtfpl", "zlib",
])  # fmt: skip
"""What `license` in the head of a card may be, as far as sources of text have them (hub documentation, "Licenses")."""
ENOUGH_TOKENS = 20
"""Tokens a parameter with which a training budget is spent best (Hoffmann et al. 2022)."""
SMALL = 1e9
"""Parameters below which a model is called small."""
MOST_NAMED = 5
"""Packages that a sentence names; more are counted."""


def model_card(facts: Facts) -> str:
    """README.md: a YAML head that the hub reads, then what a person asks of a model."""
    sections = {
        "What it is": _what(facts),
        "How to use it": _use(facts),
        "Training data": _data(facts),
        "Training": _training(facts),
        "Benchmark": _benchmark(facts),
        "Safety": _safety(facts),
        "Limits": "\n".join(f"- {limit}" for limit in _limits(facts)),
        "Licences of the sources": _licences(facts),
        "Digests": _digests(facts),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    begun = "that went on from a pretrained model" if facts.start else "that was trained from scratch"
    opening = f"A GPT {begun} with gptmill and fine-tuned for {facts.skill.name}."
    return f"---\n{head(facts).to_yaml()}\n---\n\n# {facts.name}\n\n{opening}\n\n{body}\n"


# The head


def head(facts: Facts) -> ModelCardData:
    """The card's metadata. What is not known is left out."""
    read = facts.trained_on
    datasets = dict.fromkeys(o.name for o in read if o.kind == "hub" and o.version)
    languages = dict.fromkeys(code for origin in read for code in origin.languages)
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        language=list(languages) or None,
        tags=["gptmill", facts.skill.name, facts.shape.family],
        datasets=list(datasets) or None,
        metrics=list(facts.skill.metrics),
        model_name=facts.name,
        eval_results=list(_results(facts)),
        **_licence_of_head([*(origin.licence for origin in read), *([None] if facts.start else [])]),
    )


def _licence_of_head(licences: Sequence[str | None]) -> dict[str, Any]:
    """Of the sources, if each is known: one that the hub has a name for, or `other`."""
    if not licences or None in licences:
        return {}
    (first, *more) = {str(licence).lower() for licence in licences}
    if not more and first in HUB_LICENCES:
        return {"license": first}
    return {"license": "other", "license_name": "licences-of-the-sources", "license_link": "README.md"}


def _results(facts: Facts) -> Iterator[EvalResult]:
    for task, metric, value, _ in facts.scores():
        own = task == facts.skill.name
        yield EvalResult(
            task_type="text-generation",
            task_name=task,
            dataset_type=f"{task}-test" if own else task,
            dataset_name=f"{facts.tasks[task]['n']} test items of {task}",
            dataset_split="test",
            dataset_revision=facts.items if own else None,
            metric_type=metric,
            metric_name=metric.replace("_", " "),
            metric_value=value,
        )


# The sections

KINDS = {"bpe": "BPE", "unigram": "unigram", "word": "words"}
"""What the page calls `tokenizer.kind`."""


def _what(facts: Facts) -> str:
    shape, parameters = facts.shape, facts.metric("pretrain/parameters")
    made = "of the model it went on from" if facts.start else f"{KINDS[facts.tokenizer]}, made for this text"
    heads = f"{shape.n_head}" + (f", of keys and values {shape.n_kv_head}" if shape.n_kv_head else "")
    rows = [
        ("family", FAMILIES[shape.family]),
        ("class in transformers", f"`{counterpart(shape)}`"),
        ("parameters", f"{parameters:,.0f}"),
        ("blocks", shape.n_layer),
        ("width", shape.n_embd),
        ("heads", heads),
        ("positions, activation", f"{positions_of(shape)}, {activation_of(shape).replace('_', ' ')}"),
        ("context", f"{shape.context:,} tokens"),
        ("vocabulary", f"{shape.vocab_size:,} tokens, byte-level {made}"),
        ("weights", "float32, safetensors"),
    ]
    return _table(("", ""), rows)


def _use(facts: Facts) -> str:
    """A code block that runs where the directory is the current one."""
    sample, most, chosen = facts.sample, facts.limits["max_target_tokens"], facts.skill.decoding
    drawn = "" if chosen is None else f" There the answer was chosen among {chosen.samples} drawn; this code takes one."
    fields = "".join(f"    {field}={value!r},\n" for field, value in sample["fields"].items())
    return f"""```python
from transformers import AutoModelForCausalLM, AutoTokenizer

directory = "."  # or the model's name on the hub
tokenizer = AutoTokenizer.from_pretrained(directory)
model = AutoModelForCausalLM.from_pretrained(directory)
prompt = {facts.skill.template!r}.format(
{fields})
ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
written = model.generate(ids, attention_mask=ids.new_ones(ids.shape), max_new_tokens={most})
answer = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
```

In the benchmark it answered {_code(sample["prediction"])}; right is {_code(sample["target"])}.{drawn}
The answer follows the prompt and ends with `<|endoftext|>`. No code of ours is needed."""


def _data(facts: Facts) -> str:
    card, (tokens, per_token) = facts.data_card, (facts.metric(f"tokens/{n}") for n in ("train", "bytes_per_token"))
    rows = [
        (split, f"{card['documents'][split]:,}", f"{card['bytes'][split]:,}")
        for split in ("train", "validation", "test")
    ]
    left_out = [f"{count:,} {why.replace('_', ' ')}" for why, count in card["dropped"].items() if count]
    held = [f"{name} {of['version']}" for name, of in sorted(card["packages"].items()) if of["held_out"]]
    texts = [
        _table(("split", "documents", "bytes"), rows),
        f"The train split is {tokens:,.0f} tokens of {per_token:.2f} bytes. Its sources are listed with their licences "
        "below. Splits were drawn before anything else: what is tested was trained on by no stage.",
    ]
    if left_out:
        texts.append(f"Left out: {', '.join(left_out)}.")
    if held:
        texts.append(f"Held out whole, for the benchmark alone: {', '.join(held)}.")
    found = facts.tuning.metrics[f"{facts.tuning.stage}/items"]
    if facts.own:
        counts = ", ".join(f"{split} {count:,}" for split, count in facts.own_items.items())
        made = f"of data of its own ({counts}), whose sources are below, too"
    else:
        made = "made from documents of the train split"
    texts.append(f"Fine-tuning for {facts.skill.name} read {found:,.0f} items {made}.")
    return "\n\n".join(texts)


def _training(facts: Facts) -> str:
    both = [_trained(manifest) for manifest in (facts.manifests["pretrain"], facts.tuning)]
    return _table(("", "pretraining", "fine-tuning"), [(row, *(stage[row] for stage in both)) for row in both[0]])


def _trained(manifest: Manifest) -> dict[str, str]:
    """How a training stage went, by what it is called."""
    asked, stage = manifest.identity["config"], manifest.stage
    best = manifest.metrics.get(f"{stage}/best_step")
    return {
        "method": asked.get("method", f"from {'pretrained' if 'init' in manifest.identity else 'random'} weights"),
        "updates planned": f"{asked['steps']:,}",
        "weights kept": "of the last update" if best is None else f"of update {best:,.0f}, the best",
        "tokens an update": f"{asked['batch_tokens']:,}",
        "tokens read": f"{manifest.metrics[f'{stage}/tokens']:,.0f}",
        "optimizer": _optimizer(asked),
        "schedule": f"{asked['schedule']}, {asked['warmup_steps']} updates of warm-up",
        "arithmetic": asked["dtype"],
        "seed": str(asked["seed"]),
        "validation loss": f"{manifest.metrics[f'{stage}/val_loss']:.4f} nats a token",
        "device": manifest.execution["resolved_device"],
        "own work": f"{manifest.seconds:,.0f} s",
        "libraries": ", ".join(f"{name} {version}" for name, version in manifest.identity["libraries"].items()),
    }


def _optimizer(config: Mapping[str, Any]) -> str:
    adamw = f"AdamW, peak rate {config['learning_rate']:g}"
    if config["optimizer"] == "adamw" or config.get("method") == "lora":
        return adamw
    return f"Muon, peak rate {config['matrix_learning_rate']:g}, for matrices inside the blocks; {adamw}, for the rest"


def _benchmark(facts: Facts) -> str:
    def cell(metrics: Mapping[str, float | None], name: str) -> str:
        value = metrics.get(name)
        return "" if value is None else f"{value:.4f}"

    rows = []
    for task, metric, value, metrics in facts.scores():
        base = facts.base.get(task, {"metrics": {}})["metrics"]
        overlap = metrics.get("overlap_13gram")
        known = "" if overlap is None else f"{overlap:.1%}"
        beside = (cell(metrics, f"{metric}_stderr"), cell(metrics, f"{metric}_baseline"), cell(base, metric), known)
        rows.append((f"{task}/{metric}", f"{value:.4f}", *beside))
    trivial = facts.skill.baseline.replace("_", " ")
    counts = ", ".join(f"{task} {result['n']:,}" for task, result in facts.tasks.items())
    text = (
        f"Items held out from training: {counts}. lm-eval; {_answered(facts)}. Of bits per byte the lower is the "
        "better. In training text: items that share a run of 13 words with it."
    )
    return f"{text}\n\n" + _table(
        ("metric", "this model", "standard error", f"baseline ({trivial})", "base model", "in training text"), rows
    )


def _answered(facts: Facts) -> str:
    """How the benchmark came to the skill's answers, and over how many seeds scores are means."""
    chosen, seeds = facts.skill.decoding, max(len(result.get("seeds", ())) for result in facts.tasks.values())
    how = "the likeliest label is the answer" if facts.skill.labels else "greedy decoding"
    if chosen and not facts.skill.labels:
        how = f"of {chosen.samples} answers drawn the one most like the others is given"
    return f"{how}; what is drawn was drawn under {seeds} seeds, and scores are their mean" if seeds else how


def _safety(facts: Facts) -> str:
    rows = [
        (name, f"{value:.4f}", "" if error is None else f"{error:.4f}", says)
        for name, value, error, says in safety_scores(facts.tasks)
    ]
    if not rows:
        return "No benchmark of safety was run on it."
    return _table(("metric", "this model", "standard error", "what it says"), rows)


def _limits(facts: Facts) -> Iterator[str]:
    """What the model is not, as far as the run's own numbers tell."""
    parameters, read = facts.metric("pretrain/parameters"), facts.metric("pretrain/tokens")
    share = read / parameters
    few = f", under the {ENOUGH_TOKENS} with which a budget is spent best" if share < ENOUGH_TOKENS else ""
    small = "It is small: " if parameters < SMALL else "It has "
    passes, text = read / facts.metric("tokens/train"), _listed(facts.origins)
    own = f", and in fine-tuning the items of {facts.skill.name}" if facts.own else ""
    if facts.start:
        yield f"{small}{parameters:,.0f} parameters. What the model had read that it went on from is not known here."
        yield f"Since then it has read {read:,.0f} tokens: {text}, {passes:.3g} times over{own}."
    else:
        yield f"{small}{parameters:,.0f} parameters, pretrained on {read:,.0f} tokens, {share:.3g} a parameter{few}."
        yield f"It has read nothing but {text}, {passes:.3g} times over{own}: it knows nothing else."
    languages = sorted({code for origin in facts.origins for code in origin.languages})
    silent = sorted({o.name for o in facts.origins if not o.languages})
    known = f"Languages of its text: {', '.join(languages) or 'unknown'}"
    yield f"{known}; not recorded for {', '.join(silent)}." if languages and silent else f"{known}."
    room = facts.shape.context * facts.metric("tokens/bytes_per_token")
    yield (
        f"Prompt and answer together hold {facts.shape.context:,} tokens, about {room:,.0f} bytes. Inputs were cut at "
        f"{facts.limits['max_input_tokens']} tokens in fine-tuning and benchmark, answers had up to "
        f"{facts.limits['max_target_tokens']}; beyond that it was never trained or measured."
    )
    yield "It was taught the one form of prompt above: it follows no other instructions and holds no conversation."
    yield "No stage of its training dealt with safety, and nothing filters what it writes."
    yield _wrong(facts)
    overlap = facts.tasks[facts.skill.name]["metrics"].get("overlap_13gram")
    if overlap:
        yield f"{overlap:.1%} of the test items share 13 words in a row with the train split, which may flatter scores."


def _wrong(facts: Facts) -> str:
    metric, result = facts.skill.target_metric, facts.tasks[facts.skill.name]
    value, error, trivial = (result["metrics"].get(f"{metric}{end}") for end in ("", "_stderr", "_baseline"))
    shown = f"{value:.3f}" + (f" ± {error:.3f}" if error is not None else "")
    text = f"Its answers can be wrong: {metric.replace('_', ' ')} is {shown} on {result['n']:,} held-out items"
    if trivial is None:
        return f"{text}."
    better = value - trivial > 2 * (error or 0.0)
    verdict = "which is better than" if better else "which is not clearly better than"
    return f"{text}, {verdict} the {trivial:.3f} of a trivial answer ({facts.skill.baseline.replace('_', ' ')})."


def _listed(found: Sequence[Origin]) -> str:
    packages = [origin.name for origin in found if origin.kind == "python_docs"]
    which = f"{len(packages)} Python packages" if len(packages) > MOST_NAMED else ", ".join(packages)
    others = [origin.name for origin in found if origin.kind != "python_docs"]
    return " and ".join([f"the docstrings of {which}", *others] if packages else others)


def _licences(facts: Facts) -> str:
    every = [*facts.origins, *facts.own]
    unknown = sum(origin.licence is None for origin in every)
    said = f"Of {unknown} of {len(every)} sources the licence is unknown here: ask their owners." if unknown else ""
    begun = "That of the model it went on from is not recorded. " if facts.start else ""
    text = f"As the sources word them. {said} {begun}No licence was chosen for the weights themselves."
    rows = [(*_named(o), f"{o.documents:,}", f"{o.bytes:,}", o.licence or "unknown") for o in facts.origins]
    columns = ("source", "kind", "version", "training documents", "bytes", "licence")
    texts = [text.replace("  ", " "), _table(columns, rows)]
    if facts.own:
        own = [(*_named(o), o.split or "shared out", o.licence or "unknown") for o in facts.own]
        texts += [
            f"The items of {facts.skill.name}:",
            _table(("source", "kind", "version", "split", "licence"), own),
        ]
    return "\n\n".join(texts)


def _named(origin: Origin) -> tuple[str, str, str]:
    return origin.name, origin.kind, _code(origin.version)


def _digests(facts: Facts) -> str:
    rows = [(stage, _code(m.key), _code(m.output_digest), _commit(m)) for stage, m in facts.manifests.items()]
    files = ", ".join(f"{name} `{digest}`" for name, digest in sorted(facts.start.items()))
    begun = f"sha256 of the model it went on from: {files}.\n\n" if files else ""
    return (
        f"sha256 of `model.safetensors`: `{facts.weights}`; of the test items: `{facts.items}`.\n\n{begun}"
        "A key names everything that defines a stage's result, an output digest the bytes it left: each stage's inputs "
        "are in its key, so that every number above leads back to its bytes (`MANIFEST.json` in the store).\n\n"
        + _table(("stage", "key", "output digest", "git commit"), rows)
    )


def _commit(manifest: Manifest) -> str:
    commit = manifest.git.get("commit")
    return f"{_code(commit[:12])}{' with changes' if manifest.git.get('dirty') else ''}" if commit else ""


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _code(text: str) -> str:
    """As code on one line; nothing for nothing."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{' '.join(text.split())}{fence}" if text.strip() else ""
