"""What `gptmill compare` finds, without a tracker."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from gptcore.evaluation.comparison import compare, deltas, direction, ordered
from gptcore.evaluation.paired import PairedDifference


def test_config_lists_only_what_differs() -> None:
    found = compare(({"a": 1, "b": 2, "gone": 3}, {"a": 1, "b": 5, "new": None}), ({}, {}), {})
    assert found.config == {"b": (2, 5), "gone": (3, None)}
    assert found.first_stage is None and found.metrics == {}


def test_first_stage_is_the_first_in_pipeline_order() -> None:
    before = {"report": "0", "benchmark-qa": "1", "pretrain": "2", "tokens": "3", "corpus": "4", "finetune-qa": "5"}
    after = {**before, "benchmark-qa": "x", "finetune-qa": "x", "pretrain": "x"}
    assert compare(({}, {}), (before, after), {}).first_stage == "pretrain"
    assert compare(({}, {}), (before, before), {}).first_stage is None


def test_stages_of_one_run_alone_are_no_difference_of_results() -> None:
    found = compare(({}, {}), ({"corpus": "1", "pretrain": "2"}, {"corpus": "1", "tokens": "3"}), {})
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
        ("qa/exact_match", 0.097, 0.05, "no difference shown"),  # 1.94 standard errors: 1.96 are needed
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
    error = {} if stderr is None else {f"{name}_stderr": stderr / math.sqrt(2)}
    assert deltas({name: 1.0, **error}, {name: 1.0 + delta, **error})[name].verdict == word


def item_by_item(delta: float, p: float, **more: Any) -> PairedDifference:
    values = {"a": 0.3, "b": 0.3 + delta, "delta": delta, "stderr": 0.02, "items": 500, "units": 200}
    return PairedDifference(**{**values, "interval": (delta - 0.04, delta + 0.04), "p": p, **more})


def test_over_the_same_items_a_smaller_difference_is_shown() -> None:
    a = {"qa/f1": 0.30, "qa/f1_stderr": 0.02, "qa/overlap_13gram": 0.25}
    b = {"qa/f1": 0.34, "qa/f1_stderr": 0.02, "qa/overlap_13gram": 0.25}
    apart = deltas(a, b)["qa/f1"]
    assert (apart.verdict, apart.paired, apart.items) == ("no difference shown", False, None)
    assert apart.p == pytest.approx(0.1573, abs=1e-4), "sqrt 2 standard errors, both sides"
    assert apart.interval == pytest.approx((0.04 - 1.96 * 0.0283, 0.04 + 1.96 * 0.0283), abs=1e-4)
    together = deltas(a, b, {"qa/f1": item_by_item(0.04, 0.003)})["qa/f1"]
    assert (together.verdict, together.paired, together.items) == ("better", True, 500)
    assert (together.p, together.p_corrected, together.stderr) == (0.003, 0.003, 0.02)
    assert together.overlap == (0.25, 0.25)


def test_what_is_compared_together_is_judged_together() -> None:
    """Ten metrics at 0.02: any one alone would count as shown."""
    names = [f"task{number}/acc" for number in range(10)]
    metrics = dict.fromkeys(names, 0.3) | {"corpus/documents": 5.0, "qa/f1_baseline": 0.1}
    found = {name: item_by_item(0.05, 0.02) for name in [*names, "qa/f1_baseline"]}
    judgement = deltas(metrics, metrics | {"corpus/documents": 6.0}, found)
    assert {judgement[name].verdict for name in names} == {"no difference shown"}
    assert [judgement[name].p_corrected for name in names] == pytest.approx([0.2] * 10), "counts and baselines aside"
    assert judgement["corpus/documents"].verdict == judgement["qa/f1_baseline"].verdict == "differs"
    assert deltas(metrics, metrics, {names[0]: item_by_item(-0.05, 0.02)})[names[0]].verdict == "worse"


def test_a_mean_that_is_equal_is_not_equal_items() -> None:
    metrics = {"qa/f1": 0.3}
    assert deltas(metrics, metrics, {"qa/f1": item_by_item(0.0, 1.0)})["qa/f1"].verdict == "no difference shown"
    same = item_by_item(0.0, 1.0, equal=True, stderr=0.0)
    assert deltas(metrics, metrics, {"qa/f1": same})["qa/f1"].verdict == "equal"


def test_why_something_is_not_paired_is_kept() -> None:
    metrics = {"qa/f1": 0.3, "qa/f1_stderr": 0.1}
    assert (
        deltas(metrics, metrics, {"qa/f1": "it has no items of its own"})["qa/f1"].note == "it has no items of its own"
    )
    partly = item_by_item(0.1, 0.5, left_out=(0, 20))
    assert deltas(metrics, metrics, {"qa/f1": partly})["qa/f1"].note == "20 items that only one has are left out"


def test_an_unknown_standard_error_is_none() -> None:
    for broken in ({}, {"x/f1_stderr": math.nan}):
        assert deltas({"x/f1": 1.0, **broken}, {"x/f1": 2.0, "x/f1_stderr": 0.1})["x/f1"].stderr is None


def test_directions_of_the_headline_metrics_are_known() -> None:
    assert direction("pretrain/tokens_per_second") == 1
    assert direction("finetune-qa/val_loss") == -1
    assert direction("tokenizer/vocab_size") is None


def test_the_row_is_json() -> None:
    found = compare(({"a": [1]}, {"a": None}), ({"corpus": "1"}, {"corpus": "2"}), deltas({"x/f1": 1.0}, {"x/f1": 2.0}))
    row = json.loads(json.dumps(found.row()))
    assert row["config"] == {"a": [[1], None]} and row["first_stage"] == "corpus"
    said = {"a": 1.0, "b": 2.0, "delta": 1.0, "stderr": None, "verdict": "no standard error", "paired": False}
    assert said.items() <= row["metrics"]["x/f1"].items()
    assert {name for name, value in row["metrics"]["x/f1"].items() if value is None} == {
        "stderr", "interval", "p", "p_corrected", "items", "note",
    }  # fmt: skip
