"""Energy counters, from files laid out as /sys/class/powercap has them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gptcore import energy
from gptcore.energy import Counter, metered, processors


def domain(root: Path, name: str, called: str, microjoules: int, limit: int = 1_000_000) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{called}\n")
    (folder / "max_energy_range_uj").write_text(f"{limit}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder / "energy_uj"


def test_packages_are_counted_and_their_parts_are_not(tmp_path: Path) -> None:
    first = domain(tmp_path, "intel-rapl:0", "package-0", 400_000)
    second = domain(tmp_path, "intel-rapl:1", "package-1", 100)
    part = domain(tmp_path, "intel-rapl:0:0", "core", 7)
    with metered(gpus=False, root=tmp_path) as meter:
        first.write_text("900000\n")
        second.write_text("200100\n")
        part.write_text("900000\n")
    assert meter.joules == pytest.approx(0.7)


def test_a_counter_that_begins_again_goes_on(tmp_path: Path) -> None:
    file = domain(tmp_path, "intel-rapl:0", "package-0", 900_000)
    (counter,) = processors(tmp_path)
    file.write_text("100000\n")  # 100 mJ to its limit of a joule, 100 mJ since
    assert counter.look() == pytest.approx(0.2)
    file.write_text("400000\n")
    assert counter.look() == pytest.approx(0.5)


def test_it_is_looked_at_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "LOOK_EVERY_S", 0.01)
    file = domain(tmp_path, "intel-rapl:0", "package-0", 0)
    with metered(gpus=False, root=tmp_path) as meter:
        total = 0.0
        for value in (900_000, 800_000, 700_000):  # each time it went past its limit, or nearly once around
            before = meter.joules
            aside = file.with_suffix(".new")
            aside.write_text(f"{value}\n")
            aside.rename(file)
            deadline = time.monotonic() + 30
            while meter.joules == before and time.monotonic() < deadline:
                time.sleep(0.005)
            total += 0.9
        assert meter.joules == pytest.approx(total)


def test_nothing_to_read_is_no_figure(tmp_path: Path) -> None:
    with metered(gpus=False, root=tmp_path / "none") as meter:
        assert meter.joules is None
    assert meter.joules is None


def test_a_counter_that_fails_ends_the_measurement(tmp_path: Path) -> None:
    file = domain(tmp_path, "intel-rapl:0", "package-0", 0)
    with metered(gpus=False, root=tmp_path) as meter:
        file.unlink()
    assert meter.joules is None


def test_a_counter_without_a_limit_never_begins_again() -> None:
    values = iter([5_000, 9_000])
    assert Counter(lambda: next(values), 1e-3).look() == pytest.approx(4.0)


@pytest.mark.gpu
def test_a_gpu_counts() -> None:
    import torch

    with metered(gpus=True) as meter:
        matrix = torch.randn(4096, 4096, device="cuda")
        for _ in range(200):
            matrix = (matrix @ matrix).clamp(-1, 1)
        torch.cuda.synchronize()
        time.sleep(0.5)
    assert meter.joules is not None and meter.joules > 1
