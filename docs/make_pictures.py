"""Takes the README's pictures in a real Chromium: `python docs/make_pictures.py HOME RUN RUN`.

Two pipeline runs compared in MLflow, the curves of both, and the top of the first one's report. tests/test_browser.py
drives the same pages. It needs the extra `browser` and a Chromium on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flows.commands.servers import HOST, START_WITHIN_S, servers

IMAGES = Path(__file__).with_name("images")
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
NO_CHROMIUM = f"no Chromium was found ({', '.join(PROGRAMS)}): apt-get install -y chromium, or set CHROMIUM=PROGRAM"
NO_LIBRARY = 'playwright is not installed: pip install -c constraints.txt -e ".[browser]"'
PATIENCE_MS = 60_000
"""For a page to show what is waited for; one second on two idle cores."""
ASSISTANT_CLOSED = """
localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
"""
"""MLflow opens a panel over a third of the window at the first visit, unless it was closed before."""
HEADLINE = "qa/exact_match"
"""Comes first in the picture."""
CURVES = "pretrain/(loss|val_)"
PIPELINES = "tags.`gptmill.role` = 'pipeline'"


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser, of playwright. Raises RuntimeError with the way out where something is missing."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise RuntimeError(NO_LIBRARY) from None
    named = os.environ.get("CHROMIUM")
    program = named or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise RuntimeError(NO_CHROMIUM)
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses to start as root with one
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=as_root)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def mlflow_server(home: Path) -> Iterator[str]:
    """MLflow's server as `gptmill up` starts it, on a free port; its address."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    server = servers(home.resolve(), port, 0)[0]
    with (home / "pictures.log").open("ab") as log:
        process = subprocess.Popen(server.command, env={**os.environ, **server.environment}, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_WITHIN_S
        while True:
            try:
                with urllib.request.urlopen(server.url + server.health, timeout=2):
                    break
            except OSError:  # refused, or not ready yet
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"MLflow did not start: see {home / 'pictures.log'}") from None
            time.sleep(0.2)
        yield server.url
    finally:
        process.terminate()
        process.wait()


def tab(browser: Any, width: int, height: int) -> Any:
    """An empty page of MLflow's with the Assistant closed."""
    context = browser.new_context(viewport={"width": width, "height": height}, service_workers="block")
    context.set_default_timeout(PATIENCE_MS)
    context.add_init_script(ASSISTANT_CLOSED)
    return context.new_page()


# Addresses: what a reader gets to by ticking two runs and pressing Compare, by a click on a metric, by the chart button


def comparison(server: str, experiment: str, runs: Sequence[str]) -> str:
    """Two runs side by side."""
    return f"{server}/#/compare-runs?runs={_json(runs)}&experiments={_json([experiment])}"


def curve(server: str, experiment: str, runs: Sequence[str], metric: str, axis: str) -> str:
    """One metric of several runs. axis: `step` or `relative`."""
    of = f"runs={_json(runs)}&metric={_json(metric)}&experiments={_json([experiment])}"
    return f"{server}/#/metric?{of}&plot_metric_keys={_json([metric])}&x_axis={axis}"


def experiment_view(server: str, experiment: str, mode: str, matching: str = "") -> str:
    """All runs. mode: `CHART` or `ARTIFACT`. matching: in MLflow's search language."""
    return f"{server}/#/experiments/{experiment}/runs?compareRunsMode={mode}&searchFilter={quote(matching)}"


def _json(value: object) -> str:
    return quote(json.dumps(value))


def show_differences(page: Any) -> None:
    """On a comparison: only the parameters and metrics that differ, the headline metric in sight."""
    page.get_by_label("collapse Visualizations").click()
    for kind in ("Parameters", "Metrics"):
        page.get_by_role("switch", name=f"{kind} - Show diff only").click()
    grid = page.locator("[role=grid]").last
    grid.hover()
    first = page.get_by_role("link", name=HEADLINE, exact=True)
    while not (first.count() and first.bounding_box()["y"] < grid.bounding_box()["y"] + 60):
        page.mouse.wheel(0, 30)  # less than a row; only rows in sight are on the page
        page.wait_for_timeout(50)
    page.mouse.wheel(0, -1)  # the names stay one scroll behind the values


def main() -> int:
    """Take all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path, metavar="HOME", help="a GPTMILL_HOME with two finished runs of one preset")
    parser.add_argument("runs", nargs=2, metavar="RUN", help="ids of the two runs, or their first 8 characters")
    parser.add_argument("--into", type=Path, default=IMAGES, metavar="DIR")
    options = parser.parse_args()

    from gptcore.adapters.mlflow_history import get_run
    from gptcore.adapters.mlflow_lookup import default_uri
    from gptcore.adapters.mlflow_runs import Tracker

    tracker = Tracker(default_uri(options.home.resolve()), options.home.resolve(), print)
    runs = [get_run(tracker, run) for run in options.runs]
    experiment, ids = tracker.experiment(runs[0].preset), [run.run_id for run in runs]
    report = tracker.client.download_artifacts(runs[0].stages["report"]["run_id"], "report.html")
    with chromium() as browser, mlflow_server(options.home) as server:
        page = tab(browser, 1500, 1220)
        page.goto(comparison(server, experiment, ids))
        show_differences(page)
        page.wait_for_timeout(2000)  # the switches move for a while
        page.screenshot(path=options.into / "mlflow-comparison.png")
        page = tab(browser, 1500, 720)
        page.goto(experiment_view(server, experiment, "CHART", PIPELINES))
        page.get_by_placeholder("Search metric charts").fill(CURVES)
        page.locator(".js-plotly-plot path.js-line").nth(5).wait_for()
        page.wait_for_timeout(2000)
        page.screenshot(path=options.into / "mlflow-curves.png")
        page = tab(browser, 1280, 1400)
        page.goto(Path(report).as_uri())
        page.screenshot(path=options.into / "report.png")
    for path in sorted(options.into.glob("*.png")):
        print(f"{path} {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
