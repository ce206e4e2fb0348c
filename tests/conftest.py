"""One Prefect server and one tiny pipeline finished on it, for tests that need them; and tidying after each test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from prefect_fixtures import Api, prefect_server
from tiny_pipeline import answer, gptmill, write_preset
from tiny_training import close_workspaces

PATIENCE_S = 600.0
"""For one run; it takes 30 on two idle cores."""


@dataclass(frozen=True)
class Finished:
    """A finished pipeline of the tiny preset."""

    home: Path
    preset: Path
    prefect: Api
    done: CompletedProcess[str]
    """The first run's process."""

    @property
    def first(self) -> dict[str, Any]:
        """What the first run answered."""
        return answer(self.done)

    def gptmill(self, *arguments: str | Path, **more: str) -> CompletedProcess[str]:
        """The program on this home and this Prefect server."""
        return gptmill(self.home, *arguments, timeout=PATIENCE_S, PREFECT_API_URL=self.prefect.url, **more)

    def run(self, *arguments: str, **more: str) -> CompletedProcess[str]:
        """`gptmill run` on it once more."""
        return self.gptmill("run", self.preset, "--json", *arguments, **more)


@pytest.fixture(scope="session")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with prefect_server(tmp_path_factory.mktemp("prefect-server")) as api:
        yield api


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, prefect: Api) -> Finished:
    """test_pipeline.py goes on working in it; others only read."""
    folder = tmp_path_factory.mktemp("tiny")
    home, preset = folder / "home", write_preset(folder)
    done = gptmill(home, "run", preset, "--json", timeout=PATIENCE_S, PREFECT_API_URL=prefect.url)
    return Finished(home, preset, prefect, done)


@pytest.fixture(autouse=True)
def _workspaces_closed() -> Iterator[None]:
    yield
    close_workspaces()
