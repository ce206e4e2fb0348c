"""Groups that sum up, and choices without a context, as lm-eval ships them: the scores of lm-eval's `hf` model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from finished_stages import train_tiny_tokenizer, write_model
from lm_eval.models.huggingface import HFLM
from standard_data import blimp, words, write_rows

from gptcore.adapters.benchmark import standard
from gptcore.adapters.hf import export_hf
from gptcore.adapters.lm_eval import GptmillLM
from gptcore.config import Benchmark
from gptcore.evaluation.task_catalogue import OWN_TASKS, Catalogue
from gptcore.evaluation.task_data import needs
from gptcore.model.weights import load_model
from gptcore.text.tokenizer import TextTokenizer

Results = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[GptmillLM, HFLM]:
    root = tmp_path_factory.mktemp("models")
    write_model(root / "model", train_tiny_tokenizer(root), "qa", family="gpt2")
    export_hf(root / "model", root / "hf")
    ours = GptmillLM(load_model(root / "model"), TextTokenizer.load(root / "model"), batch_items=7)
    return ours, HFLM(str(root / "hf"), device="cpu", dtype="float32", batch_size=4)


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTMILL_HOME", str(tmp_path / "home"))


def mmlu(i: int) -> dict[str, Any]:
    return {"question": f"{words(i, 3 + i % 4)}?", "choices": [words(i + k, 2) for k in range(4)], "answer": i % 4}


def write_mmlu(root: Path, name: str) -> list[str]:
    """What a group reads, subjects of unequal sizes, with a README as on the hub; their configs."""
    configs, readme = [need.config or "" for need in needs(Catalogue(root).tasks(name))], "---\nconfigs:\n"
    for number, config in enumerate(configs):
        readme += f"- config_name: {config}\n  data_files:\n"
        for split, count in (("dev", 5), ("validation", 3), ("test", 2 + number % 5)):
            rows = [mmlu(7 * number + i + len(split)) for i in range(count)]
            write_rows(root / "cais" / "mmlu" / config / f"{split}-00000-of-00001.jsonl", rows)
            readme += f"  - split: {split}\n    path: {config}/{split}-*\n"
    (root / "cais" / "mmlu" / "README.md").write_text(f"{readme}---\n# MMLU\n")
    return configs


def both(models: tuple[GptmillLM, HFLM], name: str, config: Benchmark, folders: list[Path]) -> tuple[Results, Results]:
    """Results by task, after a look at every answer."""
    ours, theirs = ({task["task"]: task for task in standard(lm, name, config, folders)} for lm in models)
    assert list(ours) == list(theirs)
    for task, result in ours.items():
        assert len(result["samples"]) == len(theirs[task]["samples"])
        for mine, other in zip(result["samples"], theirs[task]["samples"], strict=True):
            assert mine["scores"] == other["scores"]
            for (nats, greedy), (their_nats, their_greedy) in zip(mine["responses"], other["responses"], strict=True):
                assert float(nats) == pytest.approx(float(their_nats), abs=1e-3)
                assert str(greedy) == str(their_greedy)
    return ours, theirs


def test_mmlu(models: tuple[GptmillLM, HFLM], tmp_path: Path) -> None:
    """A group of groups of tags, each with a sum weighed by size."""
    configs = write_mmlu(tmp_path, "mmlu_social_sciences")
    config = Benchmark(data_dir=str(tmp_path), num_fewshot=2)
    ours, theirs = both(models, "mmlu_social_sciences", config, [OWN_TASKS])
    assert len(configs) == 12 == len(ours) - 1
    for name, result in ours.items():
        assert result["metrics"] == theirs[name]["metrics"] and result["n"] == theirs[name]["n"], name
    whole, members = ours["mmlu_social_sciences"], [ours[f"mmlu_{config}"] for config in configs]
    assert whole["n"] == sum(member["n"] for member in members)
    right = sum(member["n"] * member["metrics"]["acc"] for member in members)
    assert whole["metrics"]["acc"] == pytest.approx(right / whole["n"], abs=1e-5)
    assert 0 < whole["metrics"]["acc"] < 1 and whole["metrics"]["acc_stderr"] > 0
    assert sorted(whole["members"]) == sorted(f"mmlu_{config}" for config in configs)


def test_groups_in_groups(models: tuple[GptmillLM, HFLM], tmp_path: Path) -> None:
    """By size and not by size, over the same members; one of them with a metric that the others lack."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name, count in (("small", 3), ("large", 9)):
        write_rows(tmp_path / f"{name}.jsonl", [mmlu(i * 3 + count) for i in range(count)])
        (folder / f"{name}.yaml").write_text(
            f"task: {name}\ntag: both_sizes\ndataset_path: json\ndataset_kwargs:\n"
            f"  data_files: {{test: {tmp_path}/{name}.jsonl}}\n  cache_dir: {tmp_path}/tables\n"
            "output_type: multiple_choice\ntest_split: test\ndoc_to_text: '{{question}}'\ndoc_to_choice: choices\n"
            "doc_to_target: answer\nmetric_list:\n- {metric: acc}\n- {metric: acc_norm}\n"
        )
    for name, member, weigh in (("inner", "both_sizes", "true"), ("outer", "inner", "false")):
        (folder / f"{name}.yaml").write_text(
            f"group: {name}\ntask: [{member}]\naggregate_metric_list:\n- {{metric: acc, weight_by_size: {weigh}}}\n"
            f"- {{metric: acc_norm, weight_by_size: {weigh}}}\n"
        )
    ours, theirs = both(models, "outer", Benchmark(), [folder])
    assert {name: task["metrics"] for name, task in ours.items()} == {
        name: task["metrics"] for name, task in theirs.items()
    }
    assert set(ours) == {"outer", "inner", "small", "large"} and ours["outer"]["n"] == ours["inner"]["n"] == 12
    accs = [ours[name]["metrics"]["acc_norm"] for name in ("small", "large")]
    assert ours["inner"]["metrics"]["acc_norm"] == pytest.approx((3 * accs[0] + 9 * accs[1]) / 12, abs=1e-5)
    assert ours["outer"]["metrics"]["acc_norm"] == pytest.approx(sum(accs) / 2, abs=1e-5)
    assert ours["outer"]["members"] == ours["inner"]["members"] == ["large", "small"]


@pytest.mark.parametrize("shots", [0, 3])
def test_two_sentences_and_no_context(models: tuple[GptmillLM, HFLM], shots: int, tmp_path: Path) -> None:
    """blimp takes no examples, whatever is asked for; a sentence's first token is scored too."""
    rows = [blimp(i) for i in range(20)]
    write_rows(tmp_path / "nyu-mll" / "blimp" / "adjunct_island" / "train.jsonl", rows)
    config = Benchmark(data_dir=str(tmp_path), num_fewshot=shots)
    ours, theirs = both(models, "blimp_adjunct_island", config, [OWN_TASKS])
    (found,) = ours.values()
    assert found["metrics"] == theirs["blimp_adjunct_island"]["metrics"] and 0 < found["metrics"]["acc"] < 1
    lm = models[0]
    for row, sample in zip(rows, found["samples"], strict=True):
        for text, (nats, _) in zip((row["sentence_good"], row["sentence_bad"]), sample["responses"], strict=True):
            after = lm.text.encode(f" {text}")  # the delimiter before a choice
            assert float(nats) == pytest.approx(lm.continuations([([lm.eot_token_id], after)])[0][0], abs=1e-4)
