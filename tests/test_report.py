"""The report page, from small stage directories made here."""

from __future__ import annotations

import json
import math
import re
import shlex
import statistics
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from gptcore.config import Corpus, Finetune, Preset, Pretrain
from gptcore.config_sources import Files, PythonDocs
from gptcore.durable import write_bytes, write_json
from gptcore.evaluation.comparison import Delta
from gptcore.evaluation.learning_curves import learning_curves
from gptcore.evaluation.report import build_report
from gptcore.evaluation.report_differences import difference, from_base
from gptcore.evaluation.report_lineage import differing, reproduction
from gptcore.evaluation.report_plots import POINTS, Bars, Line, bars, curves, thinned
from gptcore.evaluation.report_scores import extremes
from gptcore.evaluation.report_training import energy, over_time, over_tokens
from gptcore.evaluation.report_words import duration, number, size
from gptcore.html_page import Markup, page, table, text
from gptcore.presets import load_preset, preset_names
from gptcore.store import Manifest
from gptcore.work import Work

NASTY = "</script><b>bold & brave</b>\x00\ud800 'q' \"d\""
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Checks nesting and collects what a test asks for."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
                self.addresses.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            if name == "style" or name == "clip-path":
                self.addresses += re.findall(r"url\(([^)]*)\)", value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def visible(self) -> str:
        return " ".join(" ".join(self.words).split())


def preset(**changes: Any) -> Preset:
    return Preset(
        name="tiny",
        corpus=Corpus(sources=(PythonDocs(packages=("numpy",)),), held_out=("numpy",)),
        pretrain=Pretrain(steps=300, learning_rate=0.002),
        finetune={"qa": Finetune(steps=100), "summarization": Finetune(steps=120)},
        **changes,
    )


def manifest(stage: str, **changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "stage": stage,
        "key": "ab" * 32,
        "identity": {"stage": stage, "config": {}, "inputs": {}, "libraries": {"torch": "9.8.7"}},
        "output_digest": "cd" * 32,
        "files": {},
        "metrics": {},
        "seconds": 61.25,
        "attempts": 3,
        "finished": 1_760_000_000.0,
        "preset": "tiny",
        "code_digest": "e" * 64,
        "git": {"commit": "0123456789abcdef", "dirty": True},
        "execution": {"device": "auto", "resolved_device": "cpu", "threads": 2},
        "mlflow_run_id": "feedfacefeedface",
        "mlflow_parent_run_id": None,
    }
    return Manifest(**{**values, **changes})


def skill_scores(value: float, stderr: float, kinds: bool) -> dict[str, Any]:
    def metrics(shift: float) -> dict[str, float]:
        return {
            "exact_match": value + shift, "exact_match_stderr": stderr,
            "exact_match_baseline": 0.071, "exact_match_baseline_stderr": 0.008,
        }  # fmt: skip

    return {
        "task": "qa", "n": 500, "target_metric": "exact_match", "baseline": "most_frequent_answer",
        "metrics": {**metrics(0), "overlap_13gram": 0.014},
        "kinds": {k: {"n": n, "metrics": metrics(s)} for k, n, s in (("type", 300, 0.05), ("default", 200, -0.07))}
        if kinds else {},
        "overlap_13gram": {"n": 500, "with_13_words": 412, "overlapping": 7},
    }  # fmt: skip


SAFE = {"toxigen": {"task": "toxigen", "n": 6, "metrics": {"acc": 0.512, "acc_stderr": 0.031, "acc_norm": 0.4}}}


def heldout(value: float) -> dict[str, Any]:
    return {"task": "heldout", "n": 321, "bytes": 9, "metrics": {"bits_per_byte": value, "bits_per_byte_stderr": 0.011}}


def sample(number: int, score: float, baseline: float = 0.0, words: str = "int") -> dict[str, Any]:
    return {
        "id": f"doc{number:02d}#type:x", "kind": "type", "fields": {"context": f"x : {words}", "question": "which?"},
        "target": "int", "prediction": words, "scores": {"exact_match": score},
        "baseline": "str", "baseline_scores": {"exact_match": baseline},
    }  # fmt: skip


def whole_run(root: Path) -> dict[str, Path]:
    """A directory for every stage that the report reads."""
    inputs = {
        name: root / name
        for name in (
            "corpus",
            "tokenizer",
            "tokens",
            "pretrain",
            "finetune-qa",
            "benchmark-base",
            "benchmark-qa",
            "publish",
        )
    }
    tally = {
        "documents": {"train": 1200, "validation": 30, "test": 44},
        "bytes": {"train": 3_400_000, "validation": 70_000, "test": 90_000},
    }
    write_json(
        inputs["corpus"] / "data_card.json",
        {
            **tally, "found": 1500, "cut": 2, "dropped": {"duplicates": 226, "too_short": 0, "undecodable": 1},
            "sources": [{"kind": "python_docs", "version": {}, **tally}],
            "packages": {"numpy": {"version": "2.9.1", "held_out": True, **tally}},
            "licences": {"BSD-3-Clause": tally},
        },
    )  # fmt: skip
    write_json(
        inputs["tokenizer"] / "statistics.json",
        {"vocab_size": 2048, "bytes_per_token": 3.456, "fertility": 1.789, "special_tokens": {"<|endoftext|>": 2040},
         "measured_on": {"split": "validation", "tokens": 777}},
    )  # fmt: skip
    write_json(inputs["tokens"] / "index.json", {"splits": {"train": {"tokens": 1000, "bytes": 3000, "sources": {}}}})
    for stage, last in (("pretrain", 300), ("finetune-qa", 100)):
        lines = []
        for step in range(10, last + 1, 10):
            m = {f"{stage}/loss": 5 - step / 100, f"{stage}/tokens_per_second": 9000.0 + step}
            m[f"{stage}/tokens"] = step * 1024.0
            if step % 100 == 0:
                m |= {f"{stage}/val_loss": 5.2 - step / 100, f"{stage}/val_bits_per_byte": 2.5 - step / 400}
            stopped = 3_600_000 if step > 200 else 0  # for an hour
            lines.append(json.dumps({"t": 1000 * step + stopped, "step": step, "m": m}))
        write_bytes(inputs[stage] / "metrics.jsonl", "\n".join([*lines, '{"t": 1, "st']).encode())
    write_json(
        inputs["benchmark-base"] / "scores.json",
        {"model": "pretrain", "tasks": {"heldout": heldout(1.612), **SAFE, "qa": skill_scores(0.012, 0.005, True)}},
    )
    write_json(
        inputs["benchmark-qa"] / "scores.json",
        {"model": "finetune-qa", "tasks": {"heldout": heldout(1.734), "qa": skill_scores(0.483, 0.022, True)}},
    )
    samples = [sample(i, 1.0 if i % 2 else 0.0, words=NASTY if i == 0 else "int") for i in range(20)]
    write_bytes(inputs["benchmark-qa"] / "samples-qa.jsonl", "".join(json.dumps(s) + "\n" for s in samples).encode())
    write_json(
        inputs["publish"] / "published.json",
        {"qa": {"name": "tiny-qa", "version": "3", "uri": "models:/tiny-qa/3", "promoted": True,
                "reason": "promoted: better than version 2", "champion": "3",
                "champion_before": {"version": "2", "figures": {"qa/exact_match": asdict(Delta(
                    0.41, 0.483, 0.073, 0.02, "better", (0.034, 0.112), 0.0002, 0.0004, True, 500))}}}},
    )  # fmt: skip
    return inputs


def built(root: Path, inputs: dict[str, Path], manifests: dict[str, Manifest]) -> tuple[str, Page]:
    work = Work(root / "report", inputs)
    try:
        outcome = build_report(preset(), manifests, work)
    finally:
        work.metrics.close()
    written = (root / "report" / "report.html").read_bytes()
    assert outcome.results == () and outcome.metrics == {"report/bytes": len(written)}
    return written.decode(), Page(written.decode())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    root = tmp_path_factory.mktemp("run")
    manifests = {
        "corpus": manifest("corpus"),
        "pretrain": manifest(
            "pretrain",
            identity={"inputs": {"corpus": "beef" * 16}, "libraries": {"torch": "9.8.7"}},
            metrics={
                "pretrain/val_bits_per_byte": 1.7512,
                "pretrain/parameters": 1_310_000.0,
                "pretrain/tokens": 307_200.0,
            },
            joules=7_200.0,
            mlflow_parent_run_id="0ddba11c0ffee000",
        ),
        "report": manifest("report", key="99" * 32),
    }
    return built(root, whole_run(root), manifests)


def test_a_skills_own_data_stand_with_origin_and_licence(tmp_path: Path) -> None:
    inputs = {"items-capitals": tmp_path / "items-capitals"}
    counts = {"items": {"train": 1234, "validation": 5, "test": 67}, "left_out": {"equal_input": 89}}
    write_json(inputs["items-capitals"] / "counts.json", counts)
    identity = {
        "inputs": {},
        "libraries": {},
        "config": {
            "sources": [{"kind": "files", "paths": ["/secret/place/capitals.jsonl"], "licence": "CC0-1.0"}],
            "places": [{"split": None, "target": None}],
        },
        "sources": [{"kind": "files", "files": [["capitals.jsonl", "1" * 64]]}],
    }
    _, page = built(tmp_path, inputs, {"items-capitals": manifest("items-capitals", identity=identity)})
    words = page.visible
    assert "train 1,234 validation 5 test 67 equal input 89" in words
    assert f"capitals.jsonl files {'1' * 12} shared out CC0-1.0" in words and "/secret/place" not in words
    assert "own data" not in built(tmp_path, {}, {})[1].visible


def test_the_page_is_well_formed_and_needs_nothing_else(made: tuple[str, Page]) -> None:
    source, parsed = made
    assert source.startswith("<!DOCTYPE html>")
    assert len(parsed.ids) == len(set(parsed.ids))
    assert parsed.addresses, "the table of contents and the plots refer to something"
    assert all(address.startswith("#") and address[1:] in parsed.ids for address in parsed.addresses)
    assert not {"script", "link", "img", "iframe"} & set(parsed.tags)
    assert "@import" not in source and "@font-face" not in source
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?\s*(?:https?:)?//""", source)
    assert 'name="viewport"' in source


def test_the_numbers_stand_on_it(made: tuple[str, Page]) -> None:
    words = made[1].visible
    assert "0.483 ± 0.022" in words and "base model 0.012, most frequent answer 0.071; 500 items" in words
    assert "0.440 to 0.526" in words, "the 95 % interval"
    assert "1.612 ± 0.011" in words and "1.734 ± 0.011" in words
    assert "+0.471 ± 0.023 better than base" in words
    assert "+0.122 ± 0.016 worse than base" in words, "a tuned model is worse at held-out text: higher bits per byte"
    assert "7 of 500 items share a run of 13 words" in words
    assert "items in training text" in words and "1.4%" in words, "beside the score too"
    assert "type 300" in words and "default 200" in words
    for fact in ("1.751", "1,310,000 parameters", "3.4 MB", "duplicates 226", "numpy 2.9.1 yes", "3.456", "torch 9.8.7",
                 "models:/tiny-qa/3", "promoted: better than version 2", "61.2 s"):  # fmt: skip
        assert fact in words, fact
    assert "abababab cdcdcdcd" in words and "feedface" in words and "01234567 + changes" in words
    assert "corpus beefbeef" in words, "lineage names the input and its digest"
    assert "9999" not in words, "the report's own manifest has no place on it"


def test_the_difference_from_the_champion_of_before(made: tuple[str, Page]) -> None:
    words = made[1].visible
    assert "From champion version 2 to this one" in words
    assert "qa/exact_match 0.4100 0.4830 +0.0730 +0.0340 to +0.1120 500 better" in words


def measured(directory: Path, scores: list[float]) -> Path:
    """A benchmark of these answers to the same questions."""
    mean = statistics.fmean(scores)
    metrics = {"exact_match": mean, "exact_match_stderr": statistics.stdev(scores) / math.sqrt(len(scores))}
    result = {"task": "qa", "n": len(scores), "target_metric": "exact_match", "metrics": metrics}
    write_json(directory / "scores.json", {"tasks": {"qa": result}})
    lines = [json.dumps(sample(number, score)) + "\n" for number, score in enumerate(scores)]
    write_bytes(directory / "samples-qa.jsonl", "".join(lines).encode())
    return directory


def test_differences_from_the_base_model_are_item_by_item(tmp_path: Path) -> None:
    base, tuned = [1.0, 0.0] * 50, [1.0, 0.0] * 40 + [1.0] * 20  # ten more are right, none is lost
    directories = {"base": measured(tmp_path / "base", base), "qa": measured(tmp_path / "qa", tuned)}
    delta = from_base(directories)["qa"]["qa/exact_match"]
    paired = statistics.stdev(b - a for a, b in zip(base, tuned, strict=True)) / 10
    apart = math.hypot(*(statistics.stdev(scores) / 10 for scores in (base, tuned)))
    assert (delta.paired, delta.items, delta.verdict) == (True, 100, "better")
    assert delta.delta == pytest.approx(0.1) and delta.stderr == pytest.approx(paired) and apart > 2 * paired
    assert Page(difference(delta)).visible == f"+0.100 ± {paired:.3f} better than base"
    (directories["base"] / "samples-qa.jsonl").unlink()
    alone = from_base(directories)["qa"]["qa/exact_match"]
    assert alone.stderr == pytest.approx(apart) and alone.verdict == "no difference shown"
    assert "not shown to differ from base; not item by item" in Page(difference(alone)).visible
    assert from_base({"qa": directories["qa"], "base": tmp_path / "nothing"}) == {}
    assert Page(difference(None)).visible == "\u2013"


def test_what_was_not_measured_is_said(made: tuple[str, Page], tmp_path: Path) -> None:
    assert "summarization \u2013 not measured" in made[1].visible
    empty = built(tmp_path, {"corpus": tmp_path / "nothing"}, {})[1].visible
    assert empty.count("Not measured.") >= 4
    assert "Nothing was published." in empty and "No finished stage." in empty


def test_text_from_outside_is_escaped(made: tuple[str, Page]) -> None:
    source, parsed = made
    assert "<b>bold" not in source and "\x00" not in source
    assert "</script><b>bold & brave</b>␀? 'q' \"d\"" in parsed.visible


def test_a_broken_file_is_no_missing_one(tmp_path: Path) -> None:
    inputs = whole_run(tmp_path)
    (inputs["corpus"] / "data_card.json").write_text("{")
    with pytest.raises(ValueError, match=r"data_card.json is broken.*gptmill verify corpus"):
        built(tmp_path, inputs, {})


def test_curves_tell_tokens_and_time_without_pauses(tmp_path: Path) -> None:
    loss = {"training": learning_curves(whole_run(tmp_path)["pretrain"], "pretrain")["loss"], "validation": []}
    (tokens,), (time,) = over_tokens(loss), over_time(loss)
    assert tokens.x[-1] == pytest.approx(300 * 1024 / 1e6) and tokens.y[-1] == time.y[-1] == 2.0
    # Thirty times 10,240 tokens at 9,010 to 9,300 a second; an hour's pause is logged between two of the lines.
    assert time.x[-1] == pytest.approx(sum(10_240 / (9000 + step) for step in range(10, 301, 10)) / 60)
    assert list(time.x) == sorted(time.x)


def test_a_training_without_a_log_says_so(tmp_path: Path) -> None:
    inputs = whole_run(tmp_path)
    (inputs["pretrain"] / "metrics.jsonl").unlink()
    words = built(tmp_path, inputs, {})[1].visible
    assert "pretrain: no curve was recorded." in words and "finetune-qa: loss on answers" in words


def test_safety_says_what_it_means(made: tuple[str, Page], tmp_path: Path) -> None:
    assert (
        "base toxigen/acc 0.512 ± 0.031 0.451 to 0.573 sentences rightly told to be hateful or not" in made[1].visible
    )
    empty = built(tmp_path, {"corpus": tmp_path / "nothing"}, {})[1].visible
    assert "No benchmark of safety was run" in empty


def test_cost_names_what_could_not_be_read(made: tuple[str, Page]) -> None:
    words = made[1].visible
    assert "pretrain 61.2 s 3 307,200 7.2 kJ" in words
    assert "It could not be read for corpus: no counter of the machine was readable." in words
    assert energy(None) == "&ndash;" and energy(812.4) == "812 J" and energy(4_320_000) == "1.20 kWh"


def test_both_ways_to_reproduce_stand_on_it(made: tuple[str, Page]) -> None:
    assert "gptmill reproduce 0ddba11c" in made[1].visible and "# tiny.yaml" in made[1].visible


def test_best_and_worst_samples() -> None:
    samples = [sample(0, 1.0, 1.0), sample(1, 1.0, 0.0), sample(2, 0.0, 0.0), sample(3, 0.0, 1.0), sample(4, 0.5)]
    best, worst = extremes(samples, "exact_match")
    assert [s["id"][:5] for s in best] == ["doc01", "doc00"], "where the baseline is wrong comes first"
    assert [s["id"][:5] for s in worst] == ["doc03", "doc02"], "where the baseline is right comes first"
    best, worst = extremes(samples[:1], "exact_match")
    assert len(best) == 1 and not worst


def test_only_differences_are_listed() -> None:
    rows = {field: (value, usual) for field, value, usual in differing(preset())}
    assert rows["pretrain.learning_rate"] == (0.002, 0.001)
    assert rows["finetune.qa.steps"] == (100, 1000)
    assert "pretrain.weight_decay" not in rows and not any(field.startswith("runtime") for field in rows)


@pytest.mark.parametrize("name", preset_names())
def test_the_command_asks_for_the_same_preset(name: str) -> None:
    assert reproduction(load_preset(name)) == f"gptmill run {name}"
    wanted = load_preset(name, ["pretrain.learning_rate=0.00123", "corpus.held_out=[numpy]", "publish.name=it's"])
    command = reproduction(wanted)
    overrides = [argument.removeprefix("--set ") for argument in command.split(" \\\n  ")[1:]]
    assert load_preset(name, [shlex.split(override)[0] for override in overrides]) == wanted


def test_a_preset_of_ones_own_is_given_as_yaml(tmp_path: Path) -> None:
    mine = preset()
    yaml_text = reproduction(mine).partition("# tiny.yaml\n")[2]
    (tmp_path / "tiny.yaml").write_text(yaml_text)
    assert load_preset(str(tmp_path / "tiny.yaml")) == mine
    sourced = mine.model_copy(update={"corpus": Corpus(sources=(Files(kind="files", paths=("a.txt",)),))})
    (tmp_path / "tiny.yaml").write_text(reproduction(sourced).partition("# tiny.yaml\n")[2])
    assert load_preset(str(tmp_path / "tiny.yaml")) == sourced


def test_plots_keep_their_text_and_follow_the_page() -> None:
    svg = curves(
        "a", [Line("one & two", [1, 2, 3], [3.0, 1.0, 2.0]), Line("val", [1, 3], [2.0, 2.0], True)], "step", "loss"
    )
    parsed = Page(svg)
    assert "one & two" in parsed.visible and "loss" in parsed.visible
    assert "currentColor" in svg and "#000000" not in svg and "font-family" not in svg and "<style" not in svg
    other = bars(
        "b", ["type", "<kind>"], [Bars("m", [0.5, None], [0.1, None]), Bars("base", [0.1, 0.2], [None, 0.1])], "f1"
    )
    assert "<kind>" in Page(other).visible
    assert not set(parsed.ids) & set(Page(other).ids)
    assert not re.search(r'(width|height)="\d+(\.\d+)?pt"', svg)


def test_long_curves_are_averaged() -> None:
    assert thinned([1.0, 2.0, 3.0]) == [1.0, 2.0, 3.0]
    long = thinned([float(i) for i in range(10 * POINTS + 5)])
    assert len(long) <= POINTS and long[0] == 5.0 and long[-1] > 10 * POINTS - 10
    assert thinned([]) == []


def test_words() -> None:
    assert [number(v) for v in (None, 3.0, 1234567.0, 0.5, 0.01234, 12345.6)] == [
        "&ndash;",
        "3",
        "1,234,567",
        "0.500",
        "0.01234",
        "12,346",
    ]
    assert [duration(s) for s in (1.25, 200, 7500)] == ["1.2 s", "3 min 20 s", "2 h 05 min"]
    assert [size(b) for b in (12, 3400, 5.6e7, 2e9)] == ["12 bytes", "3.4 kB", "56.0 MB", "2.0 GB"]


def test_page_pieces_escape_all_but_markup() -> None:
    made = table(["<a>", Markup("<i>b</i>")], [["x & y", 1]], {1}, "c < d")
    assert "&lt;a&gt;" in made and "<i>b</i>" in made and "x &amp; y" in made and "c &lt; d" in made
    assert '<td class="number">1</td>' in made
    assert text('"') == "&quot;"
    Page(page("t", "o", [("A b", "c")]).decode())
