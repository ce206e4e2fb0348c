"""Our adapter beside lm-eval's own `hf` model on the exported directory: the same scores, flags and generations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from finished_stages import TEXT, train_tiny_tokenizer, write_model
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from gptcore.adapters.hf import export_hf
from gptcore.adapters.lm_eval import GptmillLM
from gptcore.adapters.lm_eval_tasks import MemoryTask, SkillTask, run_tasks
from gptcore.model.weights import load_model
from gptcore.presets import load_skill
from gptcore.text.skills import Item, encode_example
from gptcore.text.tokenizer import TextTokenizer

FAMILIES: dict[str, dict[str, Any]] = {"gpt1": {}, "gpt2": {}, "gpt3": {"window": 8}, "modern": {"n_kv_head": 1}}
WORDS = TEXT.split()
TOLERANCE = 1e-3
"""Nats of a continuation, or of a whole text."""


class Published(HFLM):  # type: ignore[misc]
    """lm-eval's model, without the prompts' ids that our skill tasks carry: it encodes their text by itself."""

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        for request in requests:
            text, arguments = request.args
            request.arguments = (text, {name: value for name, value in arguments.items() if name != "prompt_ids"})
        found: list[str] = super().generate_until(requests, disable_tqdm=True)
        return found


class Pair:
    """One model twice."""

    def __init__(self, directory: Path) -> None:
        self.text = TextTokenizer.load(directory)
        self.ours = GptmillLM(load_model(directory), self.text, batch_items=3)
        # Batches of other sizes than ours: nobody's padding may show in a score.
        self.theirs = Published(str(directory / "hf"), device="cpu", dtype="float32", batch_size=4)

    def samples(self, make: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """What both leave of a task; made twice, for a task keeps its requests."""
        name = make().config.task
        both = (run_tasks(lm, {"tasks": {name: make()}}, seed=1)["samples"][name] for lm in (self.ours, self.theirs))
        ours, theirs = both
        assert len(ours) == len(theirs) > 0
        return ours, theirs


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    root = tmp_path_factory.mktemp(f"lm-{request.param}")
    directory = root / "model"
    write_model(directory, train_tiny_tokenizer(root), "qa", family=request.param, **FAMILIES[request.param])
    export_hf(directory, directory / "hf")
    return Pair(directory)


def nats(samples: list[dict[str, Any]]) -> list[float]:
    return [float(response[0][0]) for sample in samples for response in sample["resps"]]


def test_it_knows_the_same_limits(pair: Pair) -> None:
    assert pair.theirs.max_length == pair.ours.context == 64
    assert pair.theirs.eot_token_id == pair.ours.eot_token_id == pair.theirs.prefix_token_id


def test_multiple_choice(pair: Pair) -> None:
    documents = [
        {
            "question": " ".join(WORDS[i : i + 3 + 12 * (i % 7)]),  # some longer than the context
            "choices": [" ".join(WORDS[j : j + 1 + j % 3]) for j in (i, i + 1, i + 5)],
            "gold": i % 3,
        }
        for i in range(14)
    ]
    choice: dict[str, Any] = {
        "task": "choice",
        "output_type": "multiple_choice",
        "doc_to_text": "question",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    ours, theirs = pair.samples(lambda: MemoryTask("heldout", documents, **choice))
    assert any(len(pair.text.encode(document["question"])) > 64 for document in documents)
    assert nats(ours) == pytest.approx(nats(theirs), abs=TOLERANCE)
    flags = [[[response[0][1] for response in sample["resps"]] for sample in samples] for samples in (ours, theirs)]
    assert flags[0] == flags[1]
    assert [(s["acc"], s["acc_norm"]) for s in ours] == [(s["acc"], s["acc_norm"]) for s in theirs]
    assert len({s["acc"] for s in ours}) == 2, "some right, some wrong: else the comparison says little"


def test_what_greedy_decoding_gives_is_recognised(pair: Pair) -> None:
    """Flags of continuations that are greedy, which chance rarely makes of a random model."""
    prompts = [" ".join(WORDS[i : i + 4]) for i in range(6)]
    told = [f"{prompt}{answer}" for prompt, answer in zip(prompts, generated(pair.ours, prompts, 4), strict=True)]
    requests = [
        request("loglikelihood", (prompt, text[len(prompt) :])) for prompt, text in zip(prompts, told, strict=True)
    ]
    ours, theirs = (lm.loglikelihood(requests, disable_tqdm=True) for lm in (pair.ours, pair.theirs))
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], abs=TOLERANCE)
    assert [flag for _, flag in ours] == [flag for _, flag in theirs]
    assert any(flag for _, flag in ours)


def test_rolling_perplexity(pair: Pair) -> None:
    documents = [{"id": i, "text": " ".join(WORDS[i : i + 5 + 30 * i])} for i in range(6)]
    metrics = [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")]
    ours, theirs = pair.samples(lambda: MemoryTask("heldout", documents, metric_list=metrics))
    found, expected = ([s["resps"][0][0] for s in samples] for samples in (ours, theirs))
    assert max(len(pair.text.encode(document["text"])) for document in documents) > 3 * 64, "several windows"
    assert found == pytest.approx(expected, abs=TOLERANCE)
    results = [
        run_tasks(lm, {"tasks": {"heldout": MemoryTask("heldout", documents)}}, 1) for lm in (pair.ours, pair.theirs)
    ]
    values = [result["results"]["heldout"]["bits_per_byte,none"] for result in results]
    assert values[0] == pytest.approx(values[1], abs=1e-5)


@pytest.mark.parametrize("skill", ["qa", "summarization"])
def test_skills(pair: Pair, skill: str) -> None:
    """Generated answers to prompts of unequal lengths, our ids against their encoding of the same text."""
    # lm-eval's model knows no choice among several answers drawn: both give the likeliest tokens.
    chosen, items = load_skill(skill).model_copy(update={"decoding": None}), []
    for i in range(9):
        words = " ".join(WORDS[i : i + 2 + i % 6])
        fields = {"document": words} if skill == "summarization" else {"context": words, "question": "What is axis?"}
        items.append(Item(f"item-{i}", "g", skill, fields, WORDS[i]))

    def encode(item: Item) -> list[int]:
        return encode_example(chosen, item.fields, None, pair.text, 52)[0]

    ours, theirs = pair.samples(lambda: SkillTask(chosen, items, encode, 12))
    assert [s["filtered_resps"] for s in ours] == [s["filtered_resps"] for s in theirs]
    assert len({s["filtered_resps"][0] for s in ours}) > 1
    for metric in chosen.metrics:
        assert [s[metric] for s in ours] == [s[metric] for s in theirs]


def test_text_prompts_lose_their_beginning_and_stop_at_strings(pair: Pair) -> None:
    prompts = [" ".join(WORDS[: 2 + 20 * i]) for i in range(4)]
    plain = generated(pair.ours, prompts, 16)
    assert plain == generated(pair.theirs, prompts, 16)
    stop = next(answer for answer in plain if len(answer) > 2)[1:3]
    stopped = generated(pair.ours, prompts, 16, stop)
    assert stopped == generated(pair.theirs, prompts, 16, stop) != plain


def test_where_they_differ(pair: Pair) -> None:
    """By design: the name of a special token in a text is text to us, and the token itself to transformers.

    So a document that spells one out scores otherwise there. And a text prompt whose answer may fill the context gets
    one of half of it from us, and an error from lm-eval's model.
    """
    text = "Return the axis <|endoftext|> of an array."
    assert len(pair.ours.tok_encode(text)) > len(pair.theirs.tok_encode(text))
    ours, theirs = (
        lm.loglikelihood_rolling([request("loglikelihood_rolling", (text,))]) for lm in (pair.ours, pair.theirs)
    )
    assert abs(ours[0] - float(theirs[0])) > 1
    assert generated(pair.ours, ["Return"], 64)
    with pytest.raises(AssertionError, match="must be less than"):
        generated(pair.theirs, ["Return"], 64)


def request(kind: str, arguments: tuple[Any, ...]) -> Instance:
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)  # type: ignore[arg-type]


def generated(lm: Any, prompts: list[str], limit: int, *stops: str) -> list[str]:
    arguments = {"max_gen_toks": limit, "until": list(stops), "do_sample": False}
    found: list[str] = lm.generate_until([request("generate_until", (prompt, dict(arguments))) for prompt in prompts])
    return found
