"""What `gptmill compare` finds, without a tracker."""

from __future__ import annotations

import json
import math

import pytest

from gptcore.evaluation.comparison import compare, deltas, direction, ordered, verdict


def test_config_lists_only_what_differs() -> None:
    found = compare(({"a": 1, "b": 2, "gone": 3}, {"a": 1, "b": 5, "new": None}), ({}, {}), ({}, {}))
    assert found.config == {"b": (2, 5), "gone": (3, None)}
    assert found.first_stage is None and found.metrics == {}


def test_first_stage_is_the_first_in_pipeline_order() -> None:
    before = {"report": "0", "benchmark-qa": "1", "pretrain": "2", "tokens": "3", "corpus": "4", "finetune-qa": "5"}
    after = {**before, "benchmark-qa": "x", "finetune-qa": "x", "pretrain": "x"}
    assert compare(({}, {}), (before, after), ({}, {})).first_stage == "pretrain"
    assert compare(({}, {}), (before, before), ({}, {})).first_stage is None


def test_stages_of_one_run_alone_are_no_difference_of_results() -> None:
    found = compare(({}, {}), ({"corpus": "1", "pretrain": "2"}, {"corpus": "1", "tokens": "3"}), ({}, {}))
    assert found.first_stage is None
    assert found.only_in == (["pretrain"], ["tokens"])


def test_order_of_stages() -> None:
    names = ["report", "publish", "benchmark-qa", "benchmark-base", "finetune-qa", "tokens", "tokenizer", "corpus"]
    assert ordered(names) == [
        "corpus", "tokenizer", "tokens", "finetune-qa", "benchmark-base", "benchmark-qa", "publish", "report",
    ]  # fmt: skip


def test_order_of_stages_is_the_pipelines() -> None:
    from gptcore.config import Finetune, Preset
    from gptcore.stages import stages

    preset = Preset(name="x", finetune={"qa": Finetune(), "summarization": Finetune()})
    names = list(stages(preset))
    kinds = list(dict.fromkeys(name.partition("-")[0] for name in names))
    assert kinds == list(dict.fromkeys(name.partition("-")[0] for name in ordered(reversed(names))))


def test_standard_errors_add_in_squares() -> None:
    found = deltas({"m/f1": 0.5, "m/f1_stderr": 0.03, "only": 1.0}, {"m/f1": 0.61, "m/f1_stderr": 0.04})
    assert list(found) == ["m/f1"]
    assert found["m/f1"].delta == pytest.approx(0.11) and found["m/f1"].stderr == pytest.approx(0.05)
    assert found["m/f1"].verdict == "better", "2.2 standard errors"


@pytest.mark.parametrize(
    ("name", "delta", "stderr", "word"),
    [
        ("qa/exact_match", 0.101, 0.05, "better"),
        ("qa/exact_match", -0.101, 0.05, "worse"),
        ("qa/exact_match", 0.1, 0.05, "no difference shown"),  # exactly two is not more than two
        ("qa/exact_match_type_base", -0.2, 0.05, "worse"),
        ("heldout/bits_per_byte", -0.2, 0.05, "better"),
        ("heldout/bits_per_byte_base", 0.2, 0.05, "worse"),
        ("pretrain/val_bits_per_byte", -0.2, None, "no standard error"),
        ("pretrain/val_loss", 0.2, 0.01, "worse"),
        ("summarization/rougeL", 0.2, 0.01, "better"),
        ("hellaswag/acc_norm", 0.2, 0.0, "better"),
        ("corpus/documents", 12.0, None, "differs"),
        ("corpus/documents", 0.0, None, "equal"),
        ("qa/f1", 0.0, 0.05, "equal"),
        ("qa/overlap_13gram", 0.1, 0.001, "differs"),
    ],
)
def test_verdicts(name: str, delta: float, stderr: float | None, word: str) -> None:
    assert verdict(name, delta, stderr) == word


def test_an_unknown_standard_error_is_none() -> None:
    for broken in ({}, {"x/f1_stderr": math.nan}):
        assert deltas({"x/f1": 1.0, **broken}, {"x/f1": 2.0, "x/f1_stderr": 0.1})["x/f1"].stderr is None


def test_directions_of_the_headline_metrics_are_known() -> None:
    assert direction("pretrain/tokens_per_second") == 1
    assert direction("finetune-qa/val_loss") == -1
    assert direction("tokenizer/vocab_size") is None


def test_the_row_is_json() -> None:
    found = compare(({"a": [1]}, {"a": None}), ({"corpus": "1"}, {"corpus": "2"}), ({"x/f1": 1.0}, {"x/f1": 2.0}))
    row = json.loads(json.dumps(found.row()))
    assert row["config"] == {"a": [[1], None]} and row["first_stage"] == "corpus"
    assert row["metrics"]["x/f1"] == {"a": 1.0, "b": 2.0, "delta": 1.0, "stderr": None, "verdict": "no standard error"}
