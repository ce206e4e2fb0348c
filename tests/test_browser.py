"""What MLflow's pages and the report look like in a real Chromium; `make test-browser` runs it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import Finished
from tiny_pipeline import answer

from docs.make_pictures import chromium, comparison, curve, experiment_view, mlflow_server, tab
from gptcore.adapters.mlflow_lookup import default_uri
from gptcore.adapters.mlflow_runs import Tracker

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1500)]

HEADLINES = (
    "corpus/documents", "tokenizer/bytes_per_token", "pretrain/val_bits_per_byte", "qa/exact_match",
    "qa/exact_match_stderr", "qa/exact_match_base", "qa/exact_match_baseline", "qa/f1", "summarization/rougeL",
    "summarization/rougeL_stderr", "heldout/bits_per_byte_base",
)  # fmt: skip
SECTIONS = (
    "Asked for", "Training", "Benchmarks", "Safety", "Samples", "Published models", "Corpus", "Tokenizer", "Lineage",
    "Cost", "Reproduce",
)  # fmt: skip
DRAWN = """[...document.querySelectorAll('.js-plotly-plot')].map(plot => ({
    axis: plot._fullLayout.xaxis.title.text,
    lines: [...plot.querySelectorAll('path.js-line')].map(line => line.getBoundingClientRect().width),
    traces: plot.data.map(trace => ({run: trace.uuid, x: [...trace.x], y: [...trace.y]})),
}))"""
"""Every chart of a page: what plotly was given, and what it drew."""
METRICS = """async grid => {
    const found = {};
    const names = [...document.querySelectorAll('[role=grid]')].at(-2);
    const pause = () => new Promise(resolve => setTimeout(resolve, 50));
    const level = (a, b) => Math.abs(a.getBoundingClientRect().top - b.getBoundingClientRect().top) < 5;
    const end = grid.scrollHeight - grid.clientHeight;
    for (let y = 1; y < end + 150; y += 150) {
        grid.scrollTop = Math.min(y, end);
        await pause();
        grid.scrollTop = Math.min(y, end) - 1;
        for (let tries = 0; tries < 100 && Math.abs(names.scrollTop - grid.scrollTop) > 1; tries++) await pause();
        await pause();
        const cells = [...document.querySelectorAll('[role=grid] [role=rowgroup] > *')];
        for (const name of cells.filter(cell => cell.querySelector('a'))) {
            const values = cells.filter(cell => !cell.querySelector('a') && level(cell, name));
            values.sort((a, b) => a.getBoundingClientRect().left - b.getBoundingClientRect().left);
            if (values.length) found[name.innerText.trim()] = values.map(cell => cell.innerText.trim());
        }
    }
    return found;
}"""
"""The metrics of a comparison, and what stands level with each. The page holds those rows alone that are in sight, and
its names stay one scroll behind the values: hence a scroll of one pixel back."""


@dataclass(frozen=True)
class Two:
    """Two finished pipelines of one preset, other weights and other batches, and MLflow's server on them."""

    tracker: Tracker
    server: str
    experiment: str
    runs: list[str]
    reports: list[Path]

    def values(self, name: str) -> list[float]:
        """A metric of both parents."""
        return [self.tracker.client.get_run(run).data.metrics[name] for run in self.runs]

    def stage(self, number: int, name: str) -> str:
        """The id of a stage's run."""
        return str(self.tracker.client.get_run(self.runs[number]).data.tags[f"stage.{name}.run_id"])


@pytest.fixture(scope="module")
def two(tiny: Finished) -> Iterator[Two]:
    second = answer(tiny.run("--set", "pretrain.seed=4", "--set", "pretrain.batch_tokens=2048"))
    assert second["stages"]["tokens"]["status"] == "reused" and second["stages"]["pretrain"]["status"] == "ran"
    tracker = Tracker(default_uri(tiny.home), tiny.home, print)
    both = [tiny.first, second]
    reports = [Path(answered["stages"]["report"]["path"]) / "report.html" for answered in both]
    with mlflow_server(tiny.home) as server:
        yield Two(tracker, server, tracker.experiment("tiny"), [answered["run_id"] for answered in both], reports)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


def close(shown: str, value: float) -> bool:
    """Whether a number on a page is this one, to the digits shown."""
    return math.isclose(float(shown), value, rel_tol=1e-3, abs_tol=5e-4)


def test_a_comparison_shows_both_pipelines_with_their_headlines(browser: Any, two: Two) -> None:
    page = tab(browser, 1500, 1400)
    page.goto(comparison(two.server, two.experiment, two.runs))
    page.get_by_role("heading", name="Comparing 2 Runs from 1 Experiment").wait_for()
    page.get_by_role("switch", name="Metrics - Show diff only").wait_for()
    for run in two.runs:
        assert page.get_by_role("link", name=run).is_visible()
        assert page.get_by_text(f"tiny {run[:8]}").first.is_visible(), "told apart by name"
    assert page.get_by_role("row", name="pretrain.batch_tokens 1024 2048").is_visible()
    shown = page.locator("[role=grid]").last.evaluate(METRICS)
    for name in HEADLINES:
        assert len(shown[name]) == 2, name
        assert all(map(close, shown[name], two.values(name))), (name, shown[name], two.values(name))
    assert len(set(shown["pretrain/val_bits_per_byte"])) == 2, "two models"
    page.context.close()


@pytest.mark.parametrize(("axis", "title"), [("step", "Step"), ("relative", "Relative Time")])
@pytest.mark.parametrize("name", ["pretrain/loss", "pretrain/val_bits_per_byte", "finetune-qa/loss"])
def test_curves_of_two_pipelines_overlay(browser: Any, two: Two, name: str, axis: str, title: str) -> None:
    page = tab(browser, 1500, 900)
    page.goto(curve(two.server, two.experiment, two.runs, name, axis))
    page.locator(".js-plotly-plot path.js-line").nth(1).wait_for(state="attached")
    (chart,) = page.evaluate(DRAWN)
    assert chart["axis"] == title
    for run in two.runs:
        assert page.get_by_text(f"tiny {run[:8]} ({name})").is_visible(), "the legend tells the two apart"
    assert len(chart["lines"]) >= 2 and all(width > 50 for width in chart["lines"]), "lines, not points"
    drawn = {trace["run"]: trace for trace in chart["traces"]}
    assert set(drawn) == set(two.runs)
    for run in two.runs:
        points = sorted(two.tracker.client.get_metric_history(run, name), key=lambda p: (p.step, p.timestamp))
        assert len(points) >= 2
        first = min(point.timestamp for point in points)
        expected = [p.step if axis == "step" else (p.timestamp - first) / 1000 for p in points]
        assert drawn[run]["x"] == pytest.approx(expected) and drawn[run]["y"] == pytest.approx(
            [p.value for p in points]
        )
    if axis == "step" and name.startswith("pretrain"):
        ends = [max(drawn[run]["x"]) for run in two.runs]
        assert ends == pytest.approx([60 * 1024, 60 * 2048], abs=1), "an axis of tokens, not of updates"
    page.context.close()


def test_samples_are_a_table_of_the_run(browser: Any, two: Two) -> None:
    run = two.stage(1, "benchmark-qa")
    path = Path(two.tracker.client.download_artifacts(run, "tables/qa.json"))
    table = json.loads(path.read_text(encoding="utf-8"))
    assert len(table["data"]) == 20
    page = tab(browser, 2400, 1400)  # as wide as its ten columns
    page.goto(f"{two.server}/#/experiments/{two.experiment}/runs/{run}/artifacts/tables/qa.json")
    page.get_by_role("columnheader", name="prediction").wait_for()
    heads = [head.strip() for head in page.get_by_role("columnheader").all_inner_texts()]
    assert heads == table["columns"]
    rows = [[" ".join(cell.split()) for cell in row.get_by_role("cell").all_inner_texts()]
            for row in page.get_by_role("row").all()[1:]]  # fmt: skip
    at = {name: table["columns"].index(name) for name in ("id", "question", "target", "prediction")}
    score = table["columns"].index("f1")
    assert len(rows) == 20
    for shown, row in zip(rows, table["data"], strict=True):
        for name, column in at.items():
            assert shown[column] == " ".join(str(row[column]).split()), name
        assert float(shown[score]) == pytest.approx(row[score])
    page.context.close()


def test_tables_of_two_runs_stand_side_by_side(browser: Any, two: Two) -> None:
    page = tab(browser, 1900, 1200)
    page.goto(experiment_view(two.server, two.experiment, "ARTIFACT", "tags.`gptmill.stage` = 'benchmark-qa'"))
    for number in range(2):
        page.locator(".ag-row button").nth(number).wait_for()
    for number in (1, 0):  # the lower one first: opening moves what is below
        page.locator(".ag-row button").nth(number).click()
    page.get_by_role("link", name="benchmark-qa").nth(1).wait_for()
    page.locator("[id*=table], button").filter(has_text="Table").last.click()
    page.get_by_role("option").filter(has_text="tables/qa.json").click()
    page.keyboard.press("Escape")
    page.get_by_role("columnheader", name="benchmark-qa").nth(1).wait_for()
    page.context.close()


WIDTHS = [390, 1280]


@dataclass(frozen=True)
class Opened:
    """The second run's report, with what happened while it was opened."""

    page: Any
    width: int
    asked: list[str]
    complaints: list[str]


@pytest.fixture(scope="module", params=WIDTHS)
def report(request: pytest.FixtureRequest, browser: Any, two: Two) -> Iterator[Opened]:
    """On a phone and on a desk, from disk, without a network."""
    width = request.param
    phone = {"is_mobile": True, "has_touch": True, "device_scale_factor": 2} if width < 500 else {}
    context = browser.new_context(viewport={"width": width, "height": 844}, offline=True, **phone)
    page, asked, complaints = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(two.reports[1].as_uri(), wait_until="load")
    yield Opened(page, width, asked, complaints)
    context.close()


def test_the_report_asks_for_nothing_else(report: Opened, two: Two) -> None:
    assert report.asked == [two.reports[1].as_uri()]
    assert report.complaints == []


def test_the_report_is_as_wide_as_the_window(report: Opened) -> None:
    assert report.page.evaluate("document.documentElement.scrollWidth") <= report.width
    assert report.page.evaluate("innerWidth") == report.width, "a phone would show it smaller"
    beyond = report.page.evaluate(
        """[...document.body.querySelectorAll('h1, h2, h3, p, nav, dl, pre, figure, .card, .wide, .sample')]
        .filter(e => { const box = e.getBoundingClientRect(); return box.left < 0 || box.right > innerWidth + 0.5 })
        .map(e => e.outerHTML.slice(0, 100))"""
    )
    assert beyond == []


def test_every_section_of_the_report_holds_something(report: Opened) -> None:
    found = report.page.evaluate(
        """[...document.querySelectorAll('h2')].map(h => {
            let height = 0, words = '';
            for (let e = h.nextElementSibling; e && e.tagName !== 'H2'; e = e.nextElementSibling) {
                height += e.getBoundingClientRect().height; words += e.innerText + ' ';
            }
            return [h.textContent, height, words];
        })"""
    )
    sections = {title: (height, words) for title, height, words in found}
    assert set(SECTIONS) <= set(sections)
    assert all(height > 15 and words.strip() for height, words in sections.values())
    assert not [title for title, (_, words) in sections.items() if "Not measured" in words]
    assert "against the champion of before" in sections["Published models"][1]
    assert "exact_match" in sections["Benchmarks"][1] and "- base" in sections["Benchmarks"][1]
    links = report.page.locator("nav a").all()
    assert len(links) == len(sections)
    for link in links:
        link.click()
        heading = report.page.locator(f"[id='{link.get_attribute('href')[1:]}']")
        assert -1 <= heading.bounding_box()["y"] < 844, "a link of the contents leads to its section"


def test_the_reports_plots_are_drawn(report: Opened) -> None:
    plots = report.page.evaluate(
        """[...document.querySelectorAll('figure svg')].map(svg => {
            const box = svg.getBoundingClientRect();
            const small = [...svg.querySelectorAll('text')].map(t => t.getBoundingClientRect().height);
            const long = [...svg.querySelectorAll('path')].map(p => p.getTotalLength());
            return {width: box.width, height: box.height, text: Math.min(...small), ink: Math.max(...long),
                    words: svg.textContent};
        })"""
    )
    assert len(plots) >= 6, "bits per byte against tokens and time, throughput, two tunings, kinds of questions"
    for plot in plots:
        assert plot["width"] > 300 and plot["height"] > 150 and plot["ink"] > 100
        assert plot["text"] >= 9, "pixels high: readable on a phone"
    words = [plot["words"] for plot in plots]
    assert any("million tokens" in of and "bits per byte" in of for of in words)
    assert any("minutes of training" in of and "bits per byte" in of for of in words)


def test_words_of_the_report_can_be_read(report: Opened) -> None:
    """No text is under 11 px."""
    sizes = report.page.evaluate(
        """[...document.body.querySelectorAll('*')]
        .filter(e => !e.closest('svg') && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()))
        .map(e => [parseFloat(getComputedStyle(e).fontSize), e.outerHTML.slice(0, 80)])"""
    )
    assert len(sizes) > 200 and [one for one in sizes if one[0] < 11] == []
