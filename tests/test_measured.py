"""Two benchmark stages compared item by item, whatever their figures are made of."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sacrebleu import corpus_bleu, corpus_chrf
from sklearn.metrics import f1_score, matthews_corrcoef

from gptcore.config_skill import METRICS, Skill
from gptcore.evaluation.comparison import direction
from gptcore.evaluation.headline import headline_name, own_model
from gptcore.evaluation.measured import paired_differences
from gptcore.evaluation.paired import PairedDifference
from gptcore.evaluation.scores import score
from gptcore.evaluation.skill_scores import summed

Samples = list[dict[str, Any]]


def stage(directory: Path, **tasks: tuple[Mapping[str, float | None], Samples]) -> Path:
    """A finished benchmark stage: metrics and samples of each task."""
    directory.mkdir(parents=True)
    results: dict[str, dict[str, Any]] = {
        task: {"task": task, "n": len(samples), "metrics": dict(m)} for task, (m, samples) in tasks.items()
    }
    for task in {"qa", "skill"} & results.keys():
        results[task]["target_metric"] = "exact_match"
    (directory / "scores.json").write_text(json.dumps({"model": "finetune-qa", "tasks": results}))
    for task, (_, samples) in tasks.items():
        lines = "".join(f"{json.dumps(sample)}\n" for sample in samples)
        (directory / f"samples-{task}.jsonl").write_text(lines)
    return directory


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def qa(draw: random.Random, chance: float, count: int = 40) -> Samples:
    return [
        {
            "id": f"d{number}",
            "group": f"m{number // 2}",
            "fields": {"question": f"q{number}"},
            "target": "int",
            "scores": {"exact_match": float(draw.random() < chance)},
            "baseline_scores": {"exact_match": 0.0},
        }
        for number in range(count)
    ]


def qa_metrics(samples: Samples) -> dict[str, float | None]:
    value = round(mean([sample["scores"]["exact_match"] for sample in samples]), 6)
    return {"exact_match": value, "exact_match_stderr": 0.1, "exact_match_baseline": 0.0, "overlap_13gram": 0.25}


def one(a: Path, b: Path, name: str, model: str = "qa") -> PairedDifference:
    found = paired_differences(a, b, model)[name]
    assert isinstance(found, PairedDifference), found
    return found


def test_a_skill_and_held_out_text(tmp_path: Path) -> None:
    draw = random.Random(1)
    answers = [qa(draw, chance) for chance in (0.2, 0.9)]
    texts: list[list[dict[str, Any]]] = [
        [{"id": f"t{n}", "bytes": 100 + n, "bits": (100 + n) * (better + 0.01 * n)} for n in range(30)]
        for better in (2.0, 1.9)
    ]
    ratios = [math.fsum(s["bits"] for s in text) / sum(s["bytes"] for s in text) for text in texts]
    a, b = (
        stage(tmp_path / which, qa=(qa_metrics(answer), answer), heldout=({"bits_per_byte": round(ratio, 6)}, text))
        for which, answer, text, ratio in zip("ab", answers, texts, ratios, strict=True)
    )
    found = paired_differences(a, b, "qa")
    assert list(found) == ["heldout/bits_per_byte_qa", "qa/exact_match", "qa/exact_match_baseline"]
    better = one(a, b, "qa/exact_match")
    assert better.p < 0.001 and better.interval[0] > 0.3 and (better.items, better.units) == (40, 20)
    lower = one(a, b, "heldout/bits_per_byte_qa")
    assert lower.delta == pytest.approx(-0.1) and lower.stderr == pytest.approx(0, abs=1e-9) and lower.p < 0.001
    assert one(a, b, "qa/exact_match_baseline").equal
    assert list(paired_differences(a, b, "base")) == ["heldout/bits_per_byte_base", "qa/exact_match_base",
                                                      "qa/exact_match_baseline"]  # fmt: skip


def test_items_are_the_same_by_id_and_content(tmp_path: Path) -> None:
    draw = random.Random(2)
    first, second = qa(draw, 0.3), qa(draw, 0.6)
    random.Random(3).shuffle(second)
    a = stage(tmp_path / "a", qa=(qa_metrics(first), first))
    b = stage(tmp_path / "b", qa=(qa_metrics(second), second))
    whole = one(a, b, "qa/exact_match")
    assert whole.items == 40 and whole.left_out == (0, 0), "their order is no matter"
    assert whole.delta == pytest.approx(qa_metrics(second)["exact_match"] - qa_metrics(first)["exact_match"])  # type: ignore[operator]

    for sample in second[:15]:
        sample["target"] = "another"
    changed = one(a, stage(tmp_path / "c", qa=(qa_metrics(second), second)), "qa/exact_match")
    assert changed.items == 25 and changed.left_out == (15, 15)
    by_id = {sample["id"]: sample["scores"]["exact_match"] for sample in first}
    shared = [sample["scores"]["exact_match"] - by_id[sample["id"]] for sample in second[15:]]
    assert changed.delta == pytest.approx(mean(shared)), "of the shared items alone"

    for sample in second[:35]:
        sample["fields"] = {"question": "another"}
    few = paired_differences(a, stage(tmp_path / "d", qa=(qa_metrics(second), second)), "qa")["qa/exact_match"]
    assert few == "5 items are in both, at least 10 are needed"


def test_kinds_of_items(tmp_path: Path) -> None:
    draw = random.Random(4)
    directories = []
    for which, chance in (("a", 0.2), ("b", 0.8)):
        samples = qa(draw, chance)
        for number, sample in enumerate(samples):
            sample["kind"] = "type" if number < 25 else "default"
        directory = stage(tmp_path / which, qa=(qa_metrics(samples), samples))
        scores = json.loads((directory / "scores.json").read_text())
        kinds = {kind: [s for s in samples if s["kind"] == kind] for kind in ("type", "default")}
        scores["tasks"]["qa"]["kinds"] = {kind: {"metrics": qa_metrics(part)} for kind, part in kinds.items()}
        (directory / "scores.json").write_text(json.dumps(scores))
        directories.append(directory)
    a, b = directories
    assert one(a, b, "qa/exact_match_type").items == 25
    assert one(a, b, "qa/exact_match_default").items == 15


def standard(values: Sequence[Any], metric: str, **more: Any) -> Samples:
    return [
        {"id": number, "filter": "none", "target": "x", "scores": {metric: value}, **more}
        for number, value in enumerate(values)
    ]


WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "rain", "falls", "on", "old", "stone"]


def sentence(draw: random.Random) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(8))


def noisy(draw: random.Random, text: str, chance: float) -> str:
    return " ".join(draw.choice(WORDS) if draw.random() < chance else word for word in text.split())


def cases(draw: random.Random, chance: float) -> dict[str, tuple[float, list[Any]]]:
    """The figure as lm-eval or its libraries count it, and what stands in the samples."""
    logs = [-draw.uniform(1, 3) * (1 + chance) for _ in range(40)]
    weighed = [[log * 20, 20.0 + number] for number, log in enumerate(logs)]
    ratio = sum(log for log, _ in weighed) / sum(weight for _, weight in weighed)
    gold = [number % 2 for number in range(40)]
    labels = [[wanted, 1 - wanted if draw.random() < chance else wanted] for wanted in gold]
    given = [label[1] for label in labels]
    # what is wanted must be the same in both, what is given not
    wanted = [sentence(random.Random(number)) for number in range(40)]
    texts = [[text, noisy(draw, text, chance)] for text in wanted]
    answers = [text[1] for text in texts]
    right = [float(draw.random() > chance) for _ in range(40)]
    return {
        "acc": (mean(right), right),
        "perplexity": (math.exp(-mean(logs)), logs),
        "word_perplexity": (math.exp(-ratio), weighed),
        "bits_per_byte": (-ratio / math.log(2), weighed),
        "f1": (float(f1_score(gold, given)), labels),
        "mcc": (float(matthews_corrcoef(gold, given)), labels),
        "bleu": (corpus_bleu(answers, [wanted]).score, texts),
        "chrf": (corpus_chrf(answers, [wanted]).score, texts),
    }


@pytest.mark.parametrize("metric", cases(random.Random(0), 0.5))
def test_figures_that_are_no_means(metric: str, tmp_path: Path) -> None:
    draw = random.Random(5)
    recorded = []
    for which, chance in (("a", 0.5), ("b", 0.05)):
        value, values = cases(draw, chance)[metric]
        recorded.append(value)
        stage(tmp_path / which, task=({metric: round(value, 6)}, standard(values, metric)))
    found = one(tmp_path / "a", tmp_path / "b", f"task/{metric}", "base")
    assert (found.a, found.b) == pytest.approx(recorded, abs=1e-4)
    assert found.delta == pytest.approx(recorded[1] - recorded[0], abs=1e-4)
    assert found.interval[0] < found.delta < found.interval[1] and found.p < 0.05
    assert found.interval[0] * found.interval[1] > 0, "the second is better without doubt"


def test_figures_of_answers_as_texts_or_labels(tmp_path: Path) -> None:
    draw = random.Random(6)
    for which, chance in (("a", 0.5), ("b", 0.2)):
        wanted = ["xyz"[number % 3] for number in range(60)]
        given = [draw.choice("xyz") if draw.random() < chance else label for label in wanted]
        lines = [sentence(random.Random(number)) for number in range(60)]
        written = [noisy(draw, line, chance) for line in lines]
        labelled = [
            {"id": n, "target": w, "prediction": g, "scores": {}}
            for n, (w, g) in enumerate(zip(wanted, given, strict=True))
        ]
        translated = [
            {"id": n, "target": w, "prediction": g, "scores": {}}
            for n, (w, g) in enumerate(zip(lines, written, strict=True))
        ]
        stage(
            tmp_path / which,
            sentiment=({"macro_f1": float(f1_score(wanted, given, average="macro"))}, labelled),
            translation=({"bleu": corpus_bleu(written, [lines], tokenize="char").score / 100}, translated),
        )
    found = paired_differences(tmp_path / "a", tmp_path / "b", "base")
    assert all(isinstance(difference, PairedDifference) and difference.delta > 0.1 for difference in found.values())


def test_figures_of_many_labels(tmp_path: Path) -> None:
    draw = random.Random(9)
    known = [f"label {number}" for number in range(90)]
    recorded: dict[str, list[float]] = {"macro_f1": [], "matthews": []}
    for which, chance in (("a", 0.5), ("b", 0.2)):
        wanted = [known[number % len(known)] for number in range(300)]
        given = [draw.choice(known) if draw.random() < chance else label for label in wanted]
        recorded["macro_f1"].append(float(f1_score(wanted, given, average="macro")))
        recorded["matthews"].append(float(matthews_corrcoef(wanted, given)))
        rows = enumerate(zip(wanted, given, strict=True))
        samples = [{"id": n, "target": w, "prediction": g, "scores": {}} for n, (w, g) in rows]
        stage(tmp_path / which, intent=({name: values[-1] for name, values in recorded.items()}, samples))
    for name, values in recorded.items():
        found = one(tmp_path / "a", tmp_path / "b", f"intent/{name}", "base")
        assert (found.a, found.b) == pytest.approx(values)
        assert 0 < found.interval[0] < found.delta < found.interval[1] and found.p < 0.01


def test_filters_are_figures_of_their_own(tmp_path: Path) -> None:
    draw = random.Random(7)
    for which in "ab":
        values = [[float(draw.random() < 0.5) for _ in range(20)] for _ in range(2)]
        samples = [
            {"id": number, "filter": taken, "target": "x", "scores": {"exact_match": value}}
            for taken, column in zip(("strict-match", "flexible"), values, strict=True)
            for number, value in enumerate(column)
        ]
        metrics = {"exact_match_strict-match": mean(values[0]), "exact_match_flexible": mean(values[1])}
        stage(tmp_path / which, gsm=(metrics, samples))
    for name in ("gsm/exact_match_strict-match", "gsm/exact_match_flexible"):
        assert one(tmp_path / "a", tmp_path / "b", name, "base").items == 20


def test_what_cannot_be_paired_says_why(tmp_path: Path) -> None:
    samples = standard([0.5] * 20, "acc")
    a = stage(tmp_path / "a", odd=({"acc": 0.9}, samples), group=({"acc": 0.5}, []), few=({"acc": 0.5}, samples[:9]))
    found = paired_differences(a, a, "base")
    assert found == {
        "few/acc": "9 items are in both, at least 10 are needed",
        "group/acc": "it has no items of its own",
        "odd/acc": "how the figure follows from its items is not known",
    }
    assert paired_differences(a, tmp_path / "nowhere", "base") == {}
    one_group = [{**sample, "group": "same"} for sample in samples]
    b = stage(tmp_path / "b", task=({"acc": 0.5}, one_group))
    assert paired_differences(b, b, "base") == {"task/acc": "all items are of one group"}


def test_names_are_those_of_mlflow() -> None:
    skill, standard = {"target_metric": "exact_match"}, {"n": 3}
    own = own_model("qa", skill)
    assert headline_name("qa", "exact_match", "", "qa", own) == "qa/exact_match"
    assert headline_name("qa", "exact_match_stderr", "_type", "base", own) == "qa/exact_match_type_base_stderr"
    assert headline_name("qa", "f1_baseline_stderr", "", "base", own) == "qa/f1_baseline_stderr"
    assert headline_name("qa", "overlap_13gram", "", "base", own) == "qa/overlap_13gram"
    own = own_model("heldout", {"n": 3})
    assert headline_name("heldout", "bits_per_byte", "", "qa", own) == "heldout/bits_per_byte_qa"
    assert headline_name("heldout", "bits_per_byte", "", "base", own) == "heldout/bits_per_byte_base"
    own = own_model("hellaswag", standard)
    assert headline_name("hellaswag", "acc_norm_stderr", "", "base", own) == "hellaswag/acc_norm_stderr"
    assert headline_name("hellaswag", "acc_norm", "", "qa", own) == "hellaswag/acc_norm_qa"


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_of_a_skill_is_compared_item_by_item(metric: str, tmp_path: Path) -> None:
    """As the benchmark itself writes them, the trivial answers too, with a direction."""
    assert direction(f"skill/{metric}") == 1
    draw = random.Random(8)
    skill = Skill.model_construct(name="skill", metrics=(metric,), language=None)
    for which, chance in (("a", 0.5), ("b", 0.1)):
        labels = metric in ("accuracy", "macro_f1", "matthews")
        samples: Samples = []
        for number in range(30):
            wanted = "xyz"[number % 3] if labels else sentence(random.Random(number))
            given = ("yzx"[number % 3] if draw.random() < chance else wanted) if labels else noisy(draw, wanted, chance)
            trivial = "x" if labels else sentence(random.Random(0))
            scores, column = score([metric], given, wanted), score([metric], trivial, wanted)
            answers = {"target": wanted, "prediction": given, "baseline": trivial}
            samples.append({"id": number, **answers, "scores": scores, "baseline_scores": column})
        stage(tmp_path / which, skill=(summed(skill, samples, 1)["metrics"], samples))
    found = paired_differences(tmp_path / "a", tmp_path / "b", "skill")
    assert set(found) == {f"skill/{metric}", f"skill/{metric}_baseline"}
    assert isinstance(found[f"skill/{metric}_baseline"], PairedDifference), found
    difference = one(tmp_path / "a", tmp_path / "b", f"skill/{metric}", "skill")
    assert metric == "parses" or difference.delta > 0
