"""A skill of labels: its benchmark, a loaded model's answers and the command line say the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gptcore import durable, load
from gptcore.adapters.benchmark import benchmark
from gptcore.config import Benchmark, Finetune, Skill, Tokenizer
from gptcore.evaluation.labels import likeliest, probabilities
from gptcore.model.families import build
from gptcore.model.gpt import GPTConfig
from gptcore.model.weights import save_model
from gptcore.presets import load_skill, validated
from gptcore.text.documents import Document, write
from gptcore.text.skills import encode_prompt, encode_target
from gptcore.text.tokenizer import TextTokenizer, train_tokenizer
from gptcore.work import Work


def reviews() -> Skill:
    values = load_skill("sentiment").model_dump(mode="json")
    return validated(Skill, {**values, "labels": {"pos": "good", "neg": "quite bad"}}, "skill sentiment")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, items and a random model that the skill is said to be tuned for."""
    folder = tmp_path_factory.mktemp("labels")
    (folder / "corpus" / "documents").mkdir(parents=True)
    lines = [write(Document(f"files/{n}", "files", f"{n}", None, None, f"Review {n} of a book.")) for n in range(60)]
    for split, part in (("train", lines[:40]), ("test", lines[40:])):
        (folder / "corpus" / "documents" / f"{split}-00000.jsonl").write_bytes(b"".join(part))
    for split, count in (("train", 30), ("validation", 0), ("test", 20)):
        items = [
            {"id": f"{split}{n}", "group": f"{split}{n}", "kind": "sentiment", "fields": {"text": f"{split} text {n}"},
             "target": "good" if n % 3 else "quite bad"}
            for n in range(count)
        ]  # fmt: skip
        durable.write_bytes(
            folder / "items" / "items" / f"{split}.jsonl", "".join(json.dumps(item) + "\n" for item in items).encode()
        )
    model = folder / "model"
    work = Work(model, {"corpus": folder / "corpus"})
    train_tokenizer(Tokenizer(vocab_size=270), work)
    work.metrics.close()
    network = build(GPTConfig("gpt2", 2, 2, 32, 64, 270)).initialise(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4)
    save_model(network, model)
    limits = {"max_input_tokens": 40, "max_target_tokens": 8}
    durable.write_json(model / "skill.json", {**reviews().model_dump(mode="json"), **limits})
    return folder


def test_the_likeliest_label_has_the_largest_share() -> None:
    shares = probabilities(["a", "b"], [-1000.0, -1001.0])
    assert sum(shares.values()) == pytest.approx(1) and shares["a"] == pytest.approx(0.7311, abs=1e-4)
    assert likeliest(shares) == "a" and likeliest({"x": 0.5, "y": 0.5}) == "x"


def test_a_benchmark_of_labels_is_what_the_loaded_model_says(made: Path, tmp_path: Path) -> None:
    skill = reviews()
    inputs = {"corpus": made / "corpus", "finetune-sentiment": made / "model", "items-sentiment": made / "items"}
    work = Work(tmp_path, inputs)
    tuning = Finetune(max_input_tokens=40, max_target_tokens=8)
    config = Benchmark(items=20, heldout_documents=5)
    outcome = benchmark(config, {"sentiment": tuning}, {"sentiment": skill}, "finetune-sentiment", work)
    work.metrics.close()
    samples = [json.loads(line) for line in (tmp_path / "samples-sentiment.jsonl").read_bytes().splitlines()]
    assert len(samples) == 20
    loaded = load(made / "model")
    fields: list[dict[str, str]] = [sample["fields"] for sample in samples]
    answers, shares = loaded.answer(fields), loaded.label_probabilities(fields)
    assert answers == [sample["prediction"] for sample in samples]
    for sample, share in zip(samples, shares, strict=True):
        assert sample["probabilities"] == pytest.approx(share, abs=1e-3)
    found: dict[str, Any] = outcome.metrics
    right = [answer == sample["target"] for answer, sample in zip(answers, samples, strict=True)]
    assert found["sentiment/accuracy"] == pytest.approx(sum(right) / 20)
    assert found["sentiment/accuracy_baseline"] == pytest.approx(sum(s["target"] == "good" for s in samples) / 20)
    assert {f"sentiment/{m}{e}" for m in ("macro_f1", "matthews") for e in ("", "_stderr", "_baseline")} <= set(found)


def test_shares_are_those_of_whole_labels_after_the_prompt(made: Path) -> None:
    loaded, skill = load(made / "model"), reviews()
    (shares,) = loaded.label_probabilities([{"text": "a text"}])
    tokenizer = TextTokenizer.load(made / "model")
    prompt = encode_prompt(skill, {"text": "a text"}, tokenizer, 40).tokens
    assert prompt[-1] == tokenizer.special["<|answer|>"]
    nats = []
    for label in ("good", "quite bad"):
        ids = encode_target(label, tokenizer)
        row = torch.tensor([[*prompt, *ids]])
        with torch.inference_mode():
            logits = loaded.model.logits(loaded.model.hidden(row)).log_softmax(-1)
        nats.append(sum(float(logits[0, len(prompt) - 1 + at, id]) for at, id in enumerate(ids)))
    assert shares == pytest.approx(probabilities(["good", "quite bad"], nats), abs=1e-4)


def test_apply_prints_labels_with_their_shares(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from flows.command_line import main

    given = ["--field", "text=a text", "--model", str(made / "model")]
    assert main(["apply", "sentiment", *given]) == 0
    first, second = (line.rsplit(" ", 1) for line in capsys.readouterr().out.splitlines())
    assert {first[0], second[0]} == {"good", "quite bad"} and float(first[1]) >= float(second[1])
    assert main(["apply", "qa", *given]) == 2
    assert "this model is tuned for sentiment, not for qa" in capsys.readouterr().err
    assert main(["apply", "sentiment", "--field", "text", "--model", str(made / "model")]) == 2
    assert "must look like NAME=TEXT" in capsys.readouterr().err
