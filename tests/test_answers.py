"""A skill's decoding: the same answers from the benchmark's adapter, from a loaded model and by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gptcore import load
from gptcore.adapters.lm_eval import GptmillLM
from gptcore.adapters.lm_eval_tasks import SkillTask, run_tasks
from gptcore.config import Runtime, Skill, Tokenizer
from gptcore.config_skill import Decoding
from gptcore.evaluation.answers import answers
from gptcore.evaluation.consensus import most_alike
from gptcore.model.families import build
from gptcore.model.generate import generate
from gptcore.model.gpt import GPTConfig
from gptcore.model.sampling import Sampling
from gptcore.model.weights import load_model, save_model
from gptcore.presets import ConfigError, load_skill, validated
from gptcore.text.documents import Document, write
from gptcore.text.skills import Item, encode_example
from gptcore.text.tokenizer import TextTokenizer, train_tokenizer
from gptcore.work import Work

TEXTS = ["Folds the list that it is given.", "Turns each of the items round.", "Sends a word to the next place."]


@pytest.fixture(scope="module")
def skill() -> Skill:
    return load_skill("summarization").model_copy(
        update={"decoding": Decoding(samples=6, temperature=0.8, lead_weight=0.5)}
    )


@pytest.fixture(scope="module")
def directory(skill: Skill, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights, tuned for the skill by name only."""
    corpus, directory = tmp_path_factory.mktemp("corpus"), tmp_path_factory.mktemp("model")
    (corpus / "documents").mkdir()
    lines = [write(Document(f"a/{i}", "files", f"a{i}", None, None, f"{text} {i}")) for i, text in enumerate(TEXTS)]
    (corpus / "documents" / "train-00000.jsonl").write_bytes(b"".join(lines))
    work = Work(directory, {"corpus": corpus}, Runtime(threads=1))
    train_tokenizer(Tokenizer(vocab_size=270), work)
    work.metrics.close()
    model = build(GPTConfig("gpt2", 2, 2, 32, 96, 270)).initialise(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    save_model(model, directory)
    use = skill.model_dump(mode="json") | {"max_input_tokens": 60, "max_target_tokens": 12}
    (directory / "skill.json").write_text(json.dumps(use))
    return directory


def test_benchmark_and_loaded_model_answer_alike(skill: Skill, directory: Path) -> None:
    model, tokenizer = load_model(directory), TextTokenizer.load(directory)
    items = [Item(str(i), "a", "summarization", {"document": text}, "right") for i, text in enumerate(TEXTS)]
    prompts = [encode_example(skill, item.fields, None, tokenizer, 60)[0] for item in items]
    drawn = generate(model, prompts, 12, {tokenizer.eot}, Sampling(temperature=0.8), samples=6)
    by_hand = [
        most_alike([tokenizer.decode(answer.tokens) for answer in group], text.rstrip("."), 0.5)
        for group, text in zip(drawn, TEXTS, strict=True)
    ]
    assert answers(model, tokenizer, prompts, 12, skill.decoding, TEXTS) == by_hand
    assert answers(model, tokenizer, prompts[1:2], [12], skill.decoding, TEXTS[1:2]) == by_hand[1:2]
    greedy = answers(model, tokenizer, prompts, 12)
    assert greedy != by_hand
    assert greedy == [tokenizer.decode(a.tokens) for (a,) in generate(model, prompts, 12, {tokenizer.eot})]

    task = SkillTask(skill, items, lambda item: prompts[int(item.id)], 12)
    samples = run_tasks(GptmillLM(model, tokenizer, 2), {"tasks": {"s": task}}, 1)["samples"]["s"]
    assert [sample["filtered_resps"][0] for sample in samples] == by_hand
    assert load(directory).answer([item.fields for item in items]) == [text.strip() for text in by_hand]


def test_one_answer_alone_is_no_vote() -> None:
    values = load_skill("qa").model_dump() | {"decoding": {"samples": 1}}
    with pytest.raises(ConfigError, match=r"decoding\.samples.*2"):
        validated(Skill, values, "skill qa")


def test_a_skill_without_decoding_is_what_it_was() -> None:
    assert "decoding" not in load_skill("qa").model_dump()
