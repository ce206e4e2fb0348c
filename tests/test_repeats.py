"""`benchmark.seeds`: what is drawn is measured several times, everything else once; and what follows from it."""

from __future__ import annotations

import json
import math
import random
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished_stages import TEXT, train_tiny_tokenizer, write_model
from sacrebleu import corpus_bleu
from test_measured import noisy, one, qa, qa_metrics, sentence, stage

from gptcore.adapters.benchmark import benchmark, standard
from gptcore.adapters.lm_eval import GptmillLM
from gptcore.adapters.mlflow_tables import sample_table
from gptcore.config import Benchmark, Finetune, Runtime
from gptcore.config_skill import Decoding
from gptcore.evaluation.comparison import differences, direction
from gptcore.evaluation.measured import figures, grouped_differences, paired_differences, recorded
from gptcore.evaluation.paired import PairedDifference
from gptcore.evaluation.repeats import each_once, over_seeds
from gptcore.evaluation.report_scores import benchmarks, samples_of
from gptcore.evaluation.seeds import seed_groups
from gptcore.model.weights import load_model
from gptcore.presets import ConfigError, load_preset, load_skill
from gptcore.stages import identity, stages
from gptcore.text.documents import Document, write
from gptcore.text.tokenizer import TextTokenizer
from gptcore.work import Outcome, Work

WORDS = TEXT.split()


# One result of several


def test_mean_error_and_spread() -> None:
    runs = {
        seed: {
            "task": "qa", "n": 2, "metrics": {"f1": f1, "f1_stderr": error, "f1_baseline": 0.1, "overlap_13gram": 0.5},
            "kinds": {"type": {"n": 1, "metrics": {"f1": f1 / 2, "f1_stderr": None}}},
            "samples": [{"id": "a"}, {"id": "b"}],
        }
        for seed, f1, error in ((4, 0.2, 0.03), (5, 0.5, 0.04), (6, 0.8, 0.05))
    }  # fmt: skip
    found = over_seeds(runs)
    error = math.sqrt((0.03**2 + 0.04**2 + 0.05**2) / 3 + 0.3**2 / 3)
    assert found["metrics"] == {
        "f1": 0.5, "f1_stderr": round(error, 6), "f1_seed_std": 0.3, "f1_baseline": 0.1, "overlap_13gram": 0.5,
    }  # fmt: skip
    assert found["kinds"]["type"]["metrics"] == {"f1": 0.25, "f1_stderr": None, "f1_seed_std": 0.15}
    assert found["seeds"] == {"4": {"f1": 0.2}, "5": {"f1": 0.5}, "6": {"f1": 0.8}} and found["n"] == 2
    assert [(s["id"], s["seed"]) for s in found["samples"]] == [(i, s) for s in (4, 5, 6) for i in "ab"]
    assert [s["seed"] for s in each_once(found["samples"])] == [4, 4] and each_once([]) == []
    assert over_seeds({4: runs[4]}) == runs[4], "one seed changes nothing"


def test_a_value_that_is_none_or_infinite_stays() -> None:
    runs = {seed: {"metrics": {"a": value, "b": math.inf, "b_stderr": 1.0}, "samples": []} for seed, value in
            ((1, 0.5), (2, None))}  # fmt: skip
    assert over_seeds(runs)["metrics"] == {"a": 0.5, "b": math.inf, "b_stderr": None}


@pytest.mark.parametrize("common", [0.0, 0.05], ids=["draws of each item", "draws that all items share"])
def test_the_error_covers_other_items_and_other_draws(common: float) -> None:
    """Against the spread of the mean over worlds of other items and other draws: too large by what is said."""
    draw, seeds, items = np.random.default_rng(7), 4, 100
    means, squares = [], []
    for _ in range(3000):
        chance = draw.random(items)
        right = (draw.random((seeds, items)) < chance) + draw.normal(0, common, (seeds, 1))
        runs: dict[int, Any] = {}
        for seed, scores in enumerate(right):
            error = float(scores.std(ddof=1)) / math.sqrt(items)
            runs[seed] = {"metrics": {"acc": float(scores.mean()), "acc_stderr": error}, "samples": []}
        metrics = over_seeds(runs)["metrics"]
        means.append(metrics["acc"])
        squares.append(metrics["acc_stderr"] ** 2)
    of_draws_on_items = 1 / 6 / items  # the mean of chance * (1 - chance)
    assert statistics.fmean(squares) == pytest.approx(statistics.variance(means) + of_draws_on_items, rel=0.07)


# Standard tasks


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    write_model(root / "model", train_tiny_tokenizer(root), "summarization")
    return root / "model"


@pytest.fixture
def lm(model: Path) -> GptmillLM:
    return GptmillLM(load_model(model), TextTokenizer.load(model), batch_items=7)


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of one form: a task whose examples are drawn, one with the first ones, one of whole texts; and their groups."""
    monkeypatch.setenv("GPTMILL_HOME", str(tmp_path / "home"))
    rows = [
        {"q": f"{WORDS[i]} {WORDS[i + 3]}", "choices": [f" {WORDS[i + k]}" for k in (1, 5, 8)], "gold": i % 3}
        for i in range(24)
    ]
    for name, part in (("pool", rows[:10]), ("rows", rows[10:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    data = (
        "dataset_path: json\ndataset_kwargs:\n"
        f"  data_files: {{train: {tmp_path}/pool.jsonl, test: {tmp_path}/rows.jsonl}}\n"
        f"  cache_dir: {tmp_path / 'cache'}\ntest_split: test\n"
    )
    choice = (
        f"{data}output_type: multiple_choice\nfewshot_split: train\ndoc_to_text: '{{{{q}}}}'\ndoc_to_choice: choices\n"
        "doc_to_target: gold\ntarget_delimiter: ''\nmetric_list:\n- {metric: acc}\n- {metric: brier_score}\n"
    )
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "drawn.yaml").write_text(f"task: drawn\n{choice}")
    (folder / "first.yaml").write_text(f"task: first\n{choice}fewshot_config: {{sampler: first_n}}\n")
    (folder / "never.yaml").write_text(f"task: never\nnum_fewshot: 0\n{choice}")
    (folder / "texts.yaml").write_text(
        f"task: texts\n{data}output_type: loglikelihood_rolling\nfewshot_split: train\ndoc_to_text: ''\n"
        "doc_to_target: '{{q}}'\nmetric_list:\n- {metric: bits_per_byte}\n"
    )
    summed = "aggregate_metric_list:\n- {metric: acc, weight_by_size: true}\n"
    (folder / "all.yaml").write_text(f"group: all_of_them\ntask: [drawn, first, never]\n{summed}")
    (folder / "still.yaml").write_text(f"group: still\ntask: [first, never]\n{summed}")
    return folder


class Counted(GptmillLM):
    """Counts what is asked of it."""

    asked = 0

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        self.asked += len(requests)
        return super().loglikelihood(requests, disable_tqdm)


def test_examples_that_are_drawn_are_drawn_again(lm: GptmillLM, tasks: Path) -> None:
    (found,) = standard(lm, "drawn", Benchmark(num_fewshot=2, seed=3, seeds=4), [tasks])
    alone = {seed: standard(lm, "drawn", Benchmark(num_fewshot=2, seed=seed), [tasks])[0] for seed in range(3, 7)}
    assert found["n"] == 14 and len(found["samples"]) == 4 * 14 and len(found["texts"]) == 14
    for seed, run in alone.items():
        assert [{**sample, "seed": seed} for sample in run["samples"]] == [
            sample for sample in found["samples"] if sample["seed"] == seed
        ]
    nats = {tuple(map(str, sample["responses"])) for sample in found["samples"] if sample["id"] == 0}
    assert len(nats) == 4, "other examples, other log-likelihoods"
    values = [run["metrics"]["brier_score"] for run in alone.values()]
    assert found["metrics"]["brier_score"] == pytest.approx(statistics.fmean(values), abs=1e-6)
    assert found["metrics"]["brier_score_seed_std"] == pytest.approx(statistics.stdev(values), abs=1e-6) != 0
    assert found["seeds"] == {
        str(s): {n: run["metrics"][n] for n in ("acc", "brier_score")} for s, run in alone.items()
    }


def test_what_draws_nothing_is_measured_once(model: Path, tasks: Path) -> None:
    lm = Counted(load_model(model), TextTokenizer.load(model), batch_items=7)
    for name, shots in (("first", 2), ("never", 2), ("texts", 0), ("still", 2), ("drawn", 0)):
        lm.asked = 0
        found = standard(lm, name, Benchmark(num_fewshot=shots, seeds=3), [tasks])
        assert found == standard(lm, name, Benchmark(num_fewshot=shots), [tasks])
        assert all("seed" not in sample for task in found for sample in task["samples"])
        assert lm.asked == 2 * 3 * 14 * (2 if name == "still" else name != "texts")


def test_a_group_is_summed_up_under_every_seed(model: Path, tasks: Path) -> None:
    lm = Counted(load_model(model), TextTokenizer.load(model), batch_items=7)
    found = {task["task"]: task for task in standard(lm, "all_of_them", Benchmark(num_fewshot=2, seeds=3), [tasks])}
    assert lm.asked == 3 * 14 * (3 + 1 + 1), "only what draws is asked again"
    alone = [
        {
            task["task"]: task["metrics"]
            for task in standard(lm, "all_of_them", Benchmark(num_fewshot=2, seed=s), [tasks])
        }
        for s in (1, 2, 3)
    ]
    whole = found["all_of_them"]
    assert whole["members"] == ["drawn", "first", "never"] and whole["n"] == 42
    values = [metrics["all_of_them"]["acc"] for metrics in alone]
    assert whole["metrics"]["acc"] == pytest.approx(statistics.fmean(values), abs=2e-6)
    assert whole["metrics"]["acc_seed_std"] == pytest.approx(statistics.stdev(values), abs=2e-6)
    assert whole["metrics"]["acc_stderr"] == pytest.approx(
        math.sqrt(
            statistics.fmean(m["all_of_them"]["acc_stderr"] ** 2 for m in alone) + statistics.variance(values) / 3
        ),
        abs=2e-6,
    )
    assert "acc_seed_std" in found["drawn"]["metrics"] and "acc_seed_std" not in found["first"]["metrics"]


# The stage


SKILLS = {
    "summarization": load_skill("summarization").model_copy(update={"decoding": Decoding(samples=3, temperature=0.9)}),
    "qa": load_skill("qa"),
}
TUNING = {name: Finetune(max_input_tokens=40, max_target_tokens=8) for name in SKILLS}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("corpus")
    (directory / "documents").mkdir()
    for split, numbers in (("train", range(20)), ("test", range(20, 40))):
        lines = [
            write(
                Document(
                    f"d/{i}", "python_docs", f"m{i // 2}", "held", f"m{i // 2}.f{i}",
                    f"{WORDS[i]} the sum of array {i} at once.\n\nIt is taken along an axis, and then it goes "
                    f"on to the next place, where it waits.\n\nParameters\n----------\naxis_{i} : int\n    The axis.\n",
                )
            )
            for i in numbers
        ]  # fmt: skip
        (directory / "documents" / f"{split}-00000.jsonl").write_bytes(b"".join(lines))
    return directory


def measured(at: Path, corpus: Path, model: Path, stage: str, config: Benchmark, **more: Any) -> Outcome:
    work = Work(at, {"corpus": corpus, stage: model}, Runtime(threads=1, batch_items=16), **more)
    try:
        return benchmark(config, TUNING, SKILLS, stage, work)
    finally:
        work.metrics.close()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


SMALL = Benchmark(items=12, heldout_documents=6)
REPEATED = SMALL.model_copy(update={"seeds": 3})


@pytest.fixture(scope="module")
def tuned(corpus: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    at = tmp_path_factory.mktemp("tuned")
    return at, measured(at, corpus, model, "finetune-summarization", REPEATED)


def test_answers_that_are_drawn_are_drawn_again(
    tuned: tuple[Path, Outcome], corpus: Path, model: Path, tmp_path: Path
) -> None:
    at, outcome = tuned
    scores = json.loads((at / "scores.json").read_bytes())["tasks"]
    task, samples = scores["summarization"], lines(at / "samples-summarization.jsonl")
    assert (
        task["n"] == 12 == task["overlap_13gram"]["n"] and len(samples) == 36 and list(task["seeds"]) == ["1", "2", "3"]
    )
    assert len({sample["prediction"] for sample in samples if sample["id"] == samples[0]["id"]}) > 1
    rouges = [seed["rougeL"] for seed in task["seeds"].values()]
    assert task["metrics"]["rougeL"] == pytest.approx(statistics.fmean(rouges), abs=1e-6)
    assert outcome.metrics["summarization/rougeL_seed_std"] == pytest.approx(statistics.stdev(rouges), abs=1e-6)
    assert not [name for name in outcome.metrics if "baseline_seed_std" in name or "overlap_13gram_seed" in name]
    assert "seeds" not in scores["heldout"] and len(lines(at / "samples-heldout.jsonl")) == 6
    for seed in (1, 2):
        config = SMALL.model_copy(update={"seed": seed})
        measured(tmp_path / str(seed), corpus, model, "finetune-summarization", config)
        alone = lines(tmp_path / str(seed) / "samples-summarization.jsonl")
        assert [{**sample, "seed": seed} for sample in alone] == [s for s in samples if s["seed"] == seed]


def test_likeliest_answers_are_given_once(corpus: Path, model: Path, tmp_path: Path) -> None:
    for stage_name in ("pretrain", "finetune-qa"):
        once = measured(tmp_path / f"{stage_name}-1", corpus, model, stage_name, SMALL)
        thrice = measured(tmp_path / f"{stage_name}-3", corpus, model, stage_name, REPEATED)
        assert once.metrics == thrice.metrics
        one_, three = (tmp_path / f"{stage_name}-{n}" for n in (1, 3))
        assert (one_ / "scores.json").read_bytes() == (three / "scores.json").read_bytes()


class Killed(Exception):
    """Stands for a kill."""


def test_a_kill_between_seeds_changes_no_byte(
    tuned: tuple[Path, Outcome], corpus: Path, model: Path, tmp_path: Path
) -> None:
    heard: list[float] = []

    def on_progress(done: float, total: float, unit: str, **shown: Any) -> None:
        if shown["task"] == "summarization":
            heard.append(done)
            if len(heard) == 2:  # the second seed's
                raise Killed

    with pytest.raises(Killed):
        measured(tmp_path, corpus, model, "finetune-summarization", REPEATED, on_progress=on_progress)
    assert not (tmp_path / "scores.json").exists()
    outcome = measured(tmp_path, corpus, model, "finetune-summarization", REPEATED, on_progress=on_progress)
    assert len(heard) == 2 + 3, "the task is one unit"
    for name in ("scores.json", "samples-summarization.jsonl", "samples-heldout.jsonl"):
        assert (tmp_path / name).read_bytes() == (tuned[0] / name).read_bytes()
    assert outcome.metrics == tuned[1].metrics


def test_the_report_shows_the_spread_and_every_item_once(tuned: tuple[Path, Outcome]) -> None:
    at, _ = tuned
    scores = {"summarization": json.loads((at / "scores.json").read_bytes())["tasks"]}
    page = str(benchmarks(scores, {}))
    spread = scores["summarization"]["summarization"]["metrics"]["rougeL_seed_std"]
    assert "summarization: 12 items under 3 seeds" in page and f"; sd {spread:.3f}" in page and "between seeds" in page
    assert "rougeL_seed_std" not in page
    ids = [sample["id"] for sample in each_once(lines(at / "samples-summarization.jsonl"))]
    for side in str(samples_of({"benchmark-summarization": at}, scores)).split("summarization: worst"):
        assert sorted(side.count(f"{i}<") for i in ids) == [0] * 8 + [1] * 4
    assert "seed" in sample_table(lines(at / "samples-summarization.jsonl"))["columns"]


# Comparison


def under_seeds(draws: list[list[dict[str, Any]]], start: int = 1) -> list[dict[str, Any]]:
    return [{**sample, "seed": seed} for seed, samples in enumerate(draws, start) for sample in samples]


def test_seeds_of_an_item_are_no_items(tmp_path: Path) -> None:
    """Answers that are the same under all seeds tell no more than one of them."""
    draw = random.Random(1)
    first, second = qa(draw, 0.3), qa(draw, 0.6)
    for sample in (*first, *second):
        del sample["group"]
    once = [stage(tmp_path / f"one-{n}", qa=(qa_metrics(s), s)) for n, s in enumerate((first, second))]
    five = [
        stage(tmp_path / f"five-{n}", qa=(qa_metrics(s), under_seeds([s] * 5))) for n, s in enumerate((first, second))
    ]
    expected = one(*once, "qa/exact_match")
    found = one(*five, "qa/exact_match")
    assert (found.items, found.units, found.left_out) == (40, 40, (0, 0))
    mixed = one(once[0], five[1], "qa/exact_match")
    for other in (found, mixed):
        assert other == replace(expected, stderr=pytest.approx(expected.stderr))
    few = under_seeds([first[:9]] * 5)
    nine = stage(tmp_path / "nine", qa=(qa_metrics(few), few))
    assert paired_differences(nine, nine, "qa")["qa/exact_match"] == "9 items are in both, at least 10 are needed"


def test_the_mean_over_seeds_is_compared(tmp_path: Path) -> None:
    """Other numbers of seeds, other seeds, groups of items, items that only one has."""
    draw = random.Random(2)
    few, many = [qa(draw, 0.4) for _ in range(2)], [qa(draw, 0.7)[5:] for _ in range(3)]
    a = stage(tmp_path / "a", qa=(qa_metrics(under_seeds(few)), under_seeds(few)))
    b = stage(tmp_path / "b", qa=(qa_metrics(under_seeds(many, 7)), under_seeds(many, 7)))
    found = one(a, b, "qa/exact_match")
    assert (found.items, found.units, found.left_out) == (35, 18, (5, 0))
    kept = {f"d{n}" for n in range(5, 40)}
    means = [
        statistics.fmean(s["scores"]["exact_match"] for s in samples if s["id"] in kept)
        for samples in (under_seeds(few), under_seeds(many))
    ]
    assert (found.a, found.b) == pytest.approx(means)
    assert found.p < 0.05 and found.interval[0] < found.delta < found.interval[1]


def test_groups_of_runs_that_repeat_too(tmp_path: Path) -> None:
    """Two training seeds each, measured under two and under three seeds."""
    draw, runs, means = random.Random(3), [], []
    for which, (chance, seeds) in enumerate(((0.3, 2), (0.3, 3), (0.7, 2), (0.7, 3))):
        samples = under_seeds([qa(draw, chance) for _ in range(seeds)])
        means.append(statistics.fmean(sample["scores"]["exact_match"] for sample in samples))
        runs.append(stage(tmp_path / str(which), qa=(qa_metrics(samples), samples)))
    found = grouped_differences(runs[:2], runs[2:], "qa")["qa/exact_match"]
    assert isinstance(found, PairedDifference) and (found.items, found.units) == (40, 20)
    assert (found.a, found.b) == pytest.approx((statistics.fmean(means[:2]), statistics.fmean(means[2:])))


def test_figures_that_are_no_means_are_the_mean_of_the_seeds(tmp_path: Path) -> None:
    wanted = [sentence(random.Random(n)) for n in range(30)]
    recorded_values = []
    for which, chance, seeds in (("a", 0.6, 3), ("b", 0.2, 3)):
        draw, samples, values = random.Random(which), [], []
        for seed in range(seeds):
            given = [noisy(draw, text, chance * (1 + seed) / 2) for text in wanted]
            values.append(corpus_bleu(given, [wanted]).score)
            samples += [
                {"id": n, "seed": seed, "target": w, "prediction": g, "scores": {}}
                for n, (w, g) in enumerate(zip(wanted, given, strict=True))
            ]
        recorded_values.append(statistics.fmean(values))
        stage(tmp_path / which, task=({"bleu": round(recorded_values[-1], 6)}, samples))
    found = one(tmp_path / "a", tmp_path / "b", "task/bleu", "base")
    assert (found.a, found.b) == pytest.approx(recorded_values, abs=1e-4) and found.items == 30
    assert found.interval[0] < found.delta < found.interval[1] and found.interval[0] > 0


def test_the_spread_is_no_figure_of_its_own(tuned: tuple[Path, Outcome]) -> None:
    at, outcome = tuned
    assert "summarization/rougeL_seed_std" in recorded(at)
    assert not [name for name in figures(at, None) if "seed_std" in name]
    assert direction("summarization/rougeL_seed_std") is None and direction("summarization/rougeL_stderr") is None
    found = differences([outcome.metrics], [outcome.metrics], paired_differences(at, at, "summarization"))
    assert "summarization/rougeL" in found and not [name for name in found if "seed_std" in name]
    assert found["summarization/rougeL"].items == 12


# The config


def keys(*sets: str) -> dict[str, dict[str, Any]]:
    preset = load_preset("quickstart", list(sets))
    return {
        name: identity(one_stage, preset, dict.fromkeys(one_stage.inputs, "0"), [{"commit": "x"}])
        for name, one_stage in stages(preset).items()
        if name not in ("publish", "report")
    }


def test_one_seed_changes_no_key() -> None:
    before = keys()
    assert keys("benchmark.seeds=1") == before and "seeds" not in before["benchmark-qa"]["config"]
    changed = keys("benchmark.seeds=3")
    assert {name for name in before if before[name] != changed[name]} == {
        "benchmark-base", "benchmark-summarization", "benchmark-qa"
    }  # fmt: skip


@pytest.mark.parametrize("value", [0, 101])
def test_how_many_are_refused(value: int) -> None:
    with pytest.raises(ConfigError, match=rf"benchmark\.seeds.*(1|100).*{value}|benchmark\.seeds.*{value}.*(1|100)"):
        load_preset("quickstart", [f"benchmark.seeds={value}"])


def test_how_often_a_model_is_measured_is_no_seed_of_its_training() -> None:
    config = {"pretrain.seed": 1, "benchmark.seeds": 3}
    assert seed_groups([config, {"pretrain.seed": 1}, {"pretrain.seed": 2}]) == [[0], [1, 2]]
