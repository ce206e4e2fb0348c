"""The lm-eval adapter against direct computation, and the benchmark stage on a tiny corpus and model."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gptcore import durable
from gptcore.adapters import lm_eval as adapter
from gptcore.adapters.benchmark import benchmark, standard
from gptcore.adapters.lm_eval import GptmillLM
from gptcore.adapters.lm_eval_tasks import standard_texts
from gptcore.config import Benchmark, Finetune, Runtime, Skill
from gptcore.config import Tokenizer as TokenizerConfig
from gptcore.evaluation import scoring
from gptcore.model.families import build
from gptcore.model.generate import Answer, generate
from gptcore.model.gpt import GPT, GPTConfig
from gptcore.model.weights import save_model
from gptcore.presets import load_skill
from gptcore.text.documents import Document, read_documents, write
from gptcore.text.skills import encode_example, items
from gptcore.text.tokenizer import TextTokenizer, train_tokenizer
from gptcore.work import Outcome, Work

CONTEXT = 96
VERBS = ("Sort", "Join", "Cut", "Read", "Keep", "Send", "Fold", "Turn")


def docstring(i: int) -> str:
    verb = VERBS[i % len(VERBS)]
    return (
        f"{verb} the list of items {i}.\n\nThe items come one after another and each is looked at {i} times before it "
        f"goes on to the next place, where it waits.\n\nParameters\n----------\nlist_{i} : list of int, default None\n"
        f"    The {verb.lower()} list.\nsize_{i} : int\n    How much to take.\n\nReturns\n-------\nstr\n    Number {i}."
    )


def corpus_line(i: int) -> bytes:
    package = "held" if i % 3 == 0 else "train"
    return write(Document(f"python_docs/{i}", "python_docs", f"m{i}", package, f"m{i}.function", docstring(i)))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("corpus")
    (directory / "documents").mkdir()
    lines = {i: corpus_line(i) for i in range(90)}
    (directory / "documents" / "train-00000.jsonl").write_bytes(b"".join(v for k, v in lines.items() if k % 3))
    (directory / "documents" / "test-00000.jsonl").write_bytes(b"".join(v for k, v in lines.items() if not k % 3))
    return directory


@pytest.fixture(scope="module")
def model_directory(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, larger than at the start of training so that predictions differ."""
    directory = tmp_path_factory.mktemp("model")
    work = Work(directory, {"corpus": corpus})
    train_tokenizer(TokenizerConfig(vocab_size=300), work)
    work.metrics.close()
    model = build(GPTConfig("gpt2", 2, 2, 32, CONTEXT, 300)).initialise(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    save_model(model, directory)
    return directory


@pytest.fixture
def lm(model_directory: Path) -> GptmillLM:
    from gptcore.model.weights import load_model

    return GptmillLM(load_model(model_directory), TextTokenizer.load(model_directory), batch_items=7)


class Request:
    """What lm-eval hands over, as far as a model looks at it."""

    task_name = "test"

    def __init__(self, *args: Any) -> None:
        self.args = args


@torch.inference_mode()
def directly(lm: GptmillLM, before: list[int], after: list[int]) -> tuple[float, bool]:
    """One forward pass a token, nothing batched or padded."""
    nats, greedy = 0.0, True
    ids = before.copy()
    for token in after:
        logits = lm.model(torch.tensor([ids[-CONTEXT:]]))[0, -1].double()
        nats += float(logits.log_softmax(-1)[token])
        greedy = greedy and int(logits.argmax()) == token
        ids.append(token)
    return nats, greedy


def test_loglikelihood_equals_direct_computation(lm: GptmillLM) -> None:
    pairs = [("Sort the list", " of items"), ("", "Return a number"), ("The items come one after another", ". x")]
    found = lm.loglikelihood([Request(*pair) for pair in pairs])  # type: ignore[list-item, unused-ignore]
    for (before, after), (nats, greedy) in zip(pairs, found, strict=True):
        whole = lm.text.encode(before + after)
        start = len(lm.text.encode(before))
        context = whole[:start] or [lm.text.eot]
        expected, likeliest = directly(lm, context, whole[start:])
        assert nats == pytest.approx(expected, abs=1e-3)
        assert greedy == likeliest


def test_greedy_continuations_are_recognised(lm: GptmillLM) -> None:
    prompt = lm.text.encode("Sort the list")
    answer = generate(lm.model, [prompt], 6)[0][0].tokens
    other = [*answer[:-1], (answer[-1] + 1) % 300]
    assert [greedy for _, greedy in lm.continuations([(prompt, answer), (prompt, other)])] == [True, False]


def test_long_contexts_lose_their_beginning(lm: GptmillLM) -> None:
    before, after = lm.text.encode(docstring(3) * 3), lm.text.encode(" list")
    ((nats, _),) = lm.continuations([(before, after)])
    with torch.inference_mode():
        ids = (before + after)[-(CONTEXT + 1) :]
        logits = lm.model(torch.tensor([ids[:-1]]))[0, -len(after) :].double().log_softmax(-1)
    assert nats == pytest.approx(float(logits.gather(1, torch.tensor(after)[:, None]).sum()), abs=1e-3)
    with pytest.raises(ValueError, match=f"exceeds the model's context of {CONTEXT}"):
        lm.continuations([([1], [2] * (CONTEXT + 1))])


def test_rolling_scores_every_token_once(lm: GptmillLM) -> None:
    texts = [docstring(1), "Short.", docstring(2) * 2, ""]
    totals = lm.loglikelihood_rolling([Request(text) for text in texts])  # type: ignore[list-item, unused-ignore]
    assert totals[3] == 0
    for text, total in zip(texts, totals, strict=True):
        ids = lm.text.encode(text)
        expected, done = 0.0, 0
        while done < len(ids):  # full windows one after another; the last one reaches back for a full context
            end = min(done + CONTEXT, len(ids))
            start = end - CONTEXT if done else 0
            seen = [lm.text.eot, *ids][start : start + min(CONTEXT, len(ids))]
            with torch.inference_mode():
                logits = lm.model(torch.tensor([seen]))[0].double().log_softmax(-1)
            count = end - done
            picked = logits[-count:].gather(1, torch.tensor(ids[done:end])[:, None])
            expected += float(picked.sum())
            done = end
        assert total == pytest.approx(expected, abs=1e-2), text


def test_batching_does_not_change_scores(lm: GptmillLM, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [([5, 6, 7 + i], [9 + i] * (1 + i % 4)) for i in range(20)]
    together = lm.continuations(pairs)
    monkeypatch.setitem(scoring.LOGITS, "cpu", 1)
    monkeypatch.setitem(scoring.TOKENS, "cpu", 1)
    alone = lm.continuations(pairs)
    assert [nats for nats, _ in together] == pytest.approx([nats for nats, _ in alone], abs=1e-4)


def test_generation_takes_ids_text_and_stop_strings(lm: GptmillLM, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[int, int] = {}

    def watched(
        model: GPT, prompts: list[list[int]], limits: list[int], stop: set[int], **more: Any
    ) -> list[list[Answer]]:
        asked.update((len(prompt), limit) for prompt, limit in zip(prompts, limits, strict=True))
        return generate(model, prompts, limits, stop, **more)

    monkeypatch.setattr(adapter, "generate", watched)
    ids = lm.text.encode("Sort the list")
    answer = lm.text.decode(generate(lm.model, [ids], 8, {lm.text.eot})[0][0].tokens)
    stop = answer[2]
    requests = [
        Request("ignored", {"until": [], "max_gen_toks": 8, "prompt_ids": ids}),
        Request("Sort the list", {"until": [stop], "max_gen_toks": 8}),
        Request(docstring(4) * 3, {"until": "\n\n", "max_gen_toks": 500}),
    ]
    found = lm.generate_until(requests)  # type: ignore[arg-type, unused-ignore]
    assert found[0] == answer
    assert found[1] == answer[: answer.index(stop)]
    assert asked == {len(ids): 8, CONTEXT // 2: CONTEXT // 2}, "half for the prompt's end, half for the answer"
    with pytest.raises(ValueError, match="only greedy generation"):
        lm.generate_until([Request("x", {"do_sample": True})])  # type: ignore[list-item, unused-ignore]


SKILLS = {name: load_skill(name) for name in ("qa", "summarization")}
TUNING = {
    "qa": Finetune(max_input_tokens=70, max_target_tokens=6),
    "summarization": Finetune(max_input_tokens=70, max_target_tokens=8),
}


def run(
    directory: Path, corpus: Path, model: Path, stage: str = "pretrain", config: Benchmark | None = None, **more: Any
) -> Outcome:
    work = Work(directory, {"corpus": corpus, stage: model}, Runtime(threads=1, batch_items=16), **more)
    try:
        return benchmark(config or Benchmark(items=40, heldout_documents=20), TUNING, SKILLS, stage, work)
    finally:
        work.metrics.close()


def results(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.glob("s*.json*")) if path.is_file()}


@pytest.fixture(scope="module")
def base(corpus: Path, model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    directory = tmp_path_factory.mktemp("benchmark")
    return directory, run(directory, corpus, model_directory)


def test_base_model_is_measured_on_everything(base: tuple[Path, Outcome]) -> None:
    directory, outcome = base
    scores = json.loads((directory / "scores.json").read_bytes())
    assert scores["model"] == "pretrain"
    assert list(scores["tasks"]) == ["heldout", "qa", "summarization"]
    qa = scores["tasks"]["qa"]
    assert qa["n"] == 40 and sum(part["n"] for part in qa["kinds"].values()) == 40
    assert set(qa["metrics"]) >= {"exact_match", "exact_match_stderr", "f1", "exact_match_baseline", "overlap_13gram"}
    assert qa["metrics"]["exact_match_baseline"] > 0, "`list of int` and `int` are frequent here"
    assert outcome.metrics["heldout/bits_per_byte_base"] == scores["tasks"]["heldout"]["metrics"]["bits_per_byte"]
    assert outcome.metrics["heldout/bits_per_byte_base_stderr"] > 0
    assert {
        "qa/exact_match_base",
        "qa/exact_match_base_stderr",
        "qa/exact_match_type_base",
        "qa/exact_match_baseline",
        "qa/exact_match_baseline_stderr",
        "qa/overlap_13gram",
        "summarization/rougeL_base",
        "summarization/rougeL_baseline",
    } <= set(outcome.metrics)
    for name, task in scores["tasks"].items():
        assert len((directory / f"samples-{name}.jsonl").read_text().splitlines()) == task["n"]


def test_bits_per_byte_follows_from_the_model(base: tuple[Path, Outcome], lm: GptmillLM, corpus: Path) -> None:
    directory, outcome = base
    samples = [json.loads(line) for line in (directory / "samples-heldout.jsonl").read_text().splitlines()]
    texts = {f"python_docs/{i}": docstring(i) for i in range(90)}
    nats = lm.loglikelihood_rolling([Request(texts[sample["id"]]) for sample in samples])  # type: ignore[list-item, unused-ignore]
    size = sum(len(texts[sample["id"]].encode()) for sample in samples)
    assert outcome.metrics["heldout/bits_per_byte_base"] == pytest.approx(-sum(nats) / math.log(2) / size, abs=1e-5)
    assert len(samples) == 20


def test_predictions_are_the_models_own(base: tuple[Path, Outcome], lm: GptmillLM, corpus: Path) -> None:
    directory, _ = base
    found = {item.id: item for item in items(SKILLS["qa"], read_documents(corpus, "test"))}
    samples = [json.loads(line) for line in (directory / "samples-qa.jsonl").read_text().splitlines()]
    for sample in samples[:5]:
        item = found[sample["id"]]
        prompt, _ = encode_example(SKILLS["qa"], item.fields, None, lm.text, 70)
        ((answer,),) = generate(lm.model, [prompt], 6, {lm.text.eot})
        assert sample["prediction"] == lm.text.decode(answer.tokens)
        assert (sample["fields"], sample["target"], sample["kind"]) == (item.fields, item.target, item.kind)


def test_tuned_model_is_measured_on_its_skill_and_twice_the_same(
    corpus: Path, model_directory: Path, tmp_path: Path
) -> None:
    first = run(tmp_path / "a", corpus, model_directory, "finetune-qa")
    run(tmp_path / "b", corpus, model_directory, "finetune-qa")
    assert results(tmp_path / "a") == results(tmp_path / "b")
    assert sorted(results(tmp_path / "a")) == ["samples-heldout.jsonl", "samples-qa.jsonl", "scores.json"]
    assert "qa/exact_match" in first.metrics and "qa/exact_match_stderr" in first.metrics
    assert "heldout/bits_per_byte_qa" in first.metrics
    assert not any(
        name.startswith("summarization") or "_base" in name.replace("_baseline", "") for name in first.metrics
    )


class Killed(Exception):
    """Stands for a kill between two units."""


def test_a_finished_task_is_not_measured_again(
    base: tuple[Path, Outcome], corpus: Path, model_directory: Path, tmp_path: Path
) -> None:
    seen: list[str] = []

    def until_summaries(done: float, total: float, unit: str, **shown: Any) -> None:
        seen.append(str(shown["task"]))
        if shown["task"] == "summarization" and len(seen) < 100:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path, corpus, model_directory, on_progress=until_summaries)
    assert not (tmp_path / "scores.json").exists()
    (tmp_path / ".scores.json.1.part").write_text("half")
    seen[:] = ["x"] * 100
    outcome = run(tmp_path, corpus, model_directory, on_progress=until_summaries)
    assert set(seen[100:]) == {"summarization"}
    assert results(tmp_path) == results(base[0])
    assert outcome.metrics == base[1].metrics


def test_a_test_split_without_items_is_refused(model_directory: Path, tmp_path: Path) -> None:
    empty = tmp_path / "corpus"
    (empty / "documents").mkdir(parents=True)
    with pytest.raises(ValueError, match="no test documents; set corpus"):
        run(tmp_path / "a", empty, model_directory)
    plain = Document("files/1", "files", "files/1", None, None, "A plain text without any convention to learn from.")
    (empty / "documents" / "test-00000.jsonl").write_bytes(write(plain))
    with pytest.raises(ValueError, match="no items for the skill qa"):
        run(tmp_path / "b", empty, model_directory)


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A multiple-choice task and a group around it, as lm-eval's own are written, on a local file."""
    monkeypatch.setenv("GPTMILL_HOME", str(tmp_path / "home"))
    rows = [{"q": f"{verb} the", "choices": [" list", " zebra", " qqq"], "gold": i % 3} for i, verb in enumerate(VERBS)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    durable.write_bytes(
        tmp_path / "choice.yaml",
        f"""
task: local_choice
dataset_path: json
dataset_kwargs:
  data_files: {{test: {tmp_path / "rows.jsonl"}}}
  cache_dir: {tmp_path / "cache"}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{q}}}}"
doc_to_choice: choices
doc_to_target: gold
target_delimiter: ""
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
""".encode(),
    )
    (tmp_path / "group.yaml").write_text(
        "group: local_group\ntask: [local_choice]\naggregate_metric_list:\n  - {metric: acc, weight_by_size: true}\n"
    )
    (tmp_path / "gone.yaml").write_text(
        (tmp_path / "choice.yaml").read_text().replace("local_choice", "gone").replace("rows.jsonl", "gone.jsonl")
    )
    yield tmp_path


def test_the_texts_of_a_standard_task_are_all_that_its_documents_hold(tasks: Path) -> None:
    ((name, texts),) = standard_texts("local_choice", [tasks])
    assert name == "local_choice"
    assert list(texts) == [f"{verb} the\n list\n zebra\n qqq" for verb in VERBS]
    assert [name for name, _ in standard_texts("local_group", [tasks])] == ["local_choice"]
    with pytest.raises(ValueError, match="'gone' cannot be loaded; is its data within reach"):
        standard_texts("gone", [tasks])


def test_standard_multiple_choice_task(lm: GptmillLM, tasks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Benchmark(limit=6)
    (found,) = standard(lm, "local_choice", config, [tasks])
    choices = [" list", " zebra", " qqq"]
    right = []
    for i, verb in enumerate(VERBS[:6]):
        before = lm.text.encode(f"{verb} the")
        scores = [directly(lm, before, lm.text.encode(f"{verb} the{c}")[len(before) :])[0] for c in choices]
        right.append(float(scores.index(max(scores)) == i % 3))
    assert found["n"] == 6
    assert found["metrics"]["acc"] == pytest.approx(sum(right) / 6, abs=1e-5)
    assert found["metrics"]["acc_stderr"] >= 0
    assert [sample["scores"]["acc"] for sample in found["samples"]] == right
    assert capsys.readouterr().out == "", "stdout belongs to the command line"


def test_groups_bring_their_members(lm: GptmillLM, tasks: Path) -> None:
    found = standard(lm, "local_group", Benchmark(), [tasks])
    by_name = {task["task"]: task for task in found}
    assert set(by_name) == {"local_group", "local_choice"}
    assert by_name["local_group"]["metrics"]["acc"] == by_name["local_choice"]["metrics"]["acc"]


def test_every_task_tells_what_of_it_was_trained_on(
    corpus: Path, model_directory: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [json.loads(line) for line in (tasks / "rows.jsonl").read_text().splitlines()]
    for number, document in ((1, 4), (5, 10)):  # both are trained on
        rows[number]["q"] = f"{docstring(document)} So"
    rows[2]["q"] = " ".join(f"word{n}" for n in range(20))
    rows[3]["choices"] = [" list", " items come one after another and each is looked at 7 times before", " qqq"]
    rows[7]["q"] = docstring(8)  # past the limit: not measured
    (tasks / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = [{**row, "q": f"{docstring(4)} {row['q']}"} for row in rows]
    (tasks / "again.jsonl").write_text("".join(json.dumps(row) + "\n" for row in again))
    choice, group = (tasks / "choice.yaml").read_text(), (tasks / "group.yaml").read_text()
    (tasks / "again.yaml").write_text(choice.replace("local_choice", "local_again").replace("rows.", "again."))
    (tasks / "group.yaml").write_text(group.replace("[local_choice]", "[local_choice, local_again]"))
    monkeypatch.setattr("gptcore.adapters.benchmark.OWN_TASKS", tasks)
    read = []

    def counted(corpus: Path, split: str) -> Iterator[Document]:
        read.append(split)
        return read_documents(corpus, split)

    monkeypatch.setattr("gptcore.adapters.benchmark.read_documents", counted)
    config = Benchmark(items=40, heldout_documents=20, limit=6, tasks=("local_group",))
    outcome = run(tmp_path / "out", corpus, model_directory, config=config)
    found = json.loads((tmp_path / "out" / "scores.json").read_bytes())["tasks"]
    assert found["local_choice"]["overlap_13gram"] == {"n": 6, "with_13_words": 4, "overlapping": 3}
    assert found["local_choice"]["metrics"]["overlap_13gram"] == 0.5
    assert outcome.metrics["local_choice/overlap_13gram"] == 0.5, "whatever the model"
    assert "overlap_13gram" not in found["heldout"]["metrics"]
    assert found["local_again"]["overlap_13gram"] == {"n": 6, "with_13_words": 6, "overlapping": 6}
    assert found["local_group"]["overlap_13gram"] == {"n": 12, "with_13_words": 10, "overlapping": 9}, "its members'"
    assert outcome.metrics["local_group/overlap_13gram"] == 0.75 and found["local_group"]["n"] == 12
    assert not any("texts" in task for task in found.values())
    assert found["qa"]["overlap_13gram"]["n"] == 40 and read.count("train") <= 3, (
        "once for all tasks, and the baselines"
    )


def test_unknown_and_unreachable_tasks_are_named(lm: GptmillLM, tasks: Path) -> None:
    with pytest.raises(ValueError, match="unknown benchmark task 'no_such_task'"):
        standard(lm, "no_such_task", Benchmark(), [tasks])
    with pytest.raises(ValueError, match="benchmark task 'gone' cannot be loaded; is its data within reach"):
        standard(lm, "gone", Benchmark(), [tasks])


def test_importing_scores_and_skills_needs_no_torch() -> None:
    import subprocess

    code = (
        "import sys, gptcore.text.skills, gptcore.evaluation.scores, gptcore.evaluation.overlap, "
        "gptcore.evaluation.baselines; print([m for m in ('torch', 'lm_eval', 'nltk') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_skill_names_known_metrics() -> None:
    from gptcore.evaluation.scores import METRICS

    skill: Skill
    for skill in SKILLS.values():
        assert set(skill.metrics) <= set(METRICS) and skill.target_metric in skill.metrics
