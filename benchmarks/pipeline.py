"""Wall times of a preset from the shell, in a home of its own: cold, again, `plan`, and what is not the stages' work.

Seconds everywhere, around whole processes. Overhead is a run's wall time minus the sum of its stages' own seconds:
for the first run ever (databases are made in it), and for one in which every stage runs once more, shortened, on
initialised databases. One JSON object last; the stages' own lines go to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gptcore.presets import load_preset

QUALITY = (
    "pretrain/val_bits_per_byte",
    "heldout/bits_per_byte",
    "qa/exact_match",
    "qa/exact_match_type",
    "qa/f1",
    "summarization/rouge1",
    "summarization/rouge2",
    "summarization/rougeL",
)
ENDINGS = ("", "_stderr", "_base", "_base_stderr", "_baseline", "_baseline_stderr")
REPEATED = 5
"""Times that a quick command is measured."""
SHORT_STEPS = 20
"""Updates after the warm-up in the run that only measures overhead."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="quickstart", help="a name in configs/, or the path of a YAML file")
    parser.add_argument(
        "--home", type=Path, metavar="DIR", help="an empty folder to work in and keep (a temporary one)"
    )
    options = parser.parse_args(arguments)
    preset = str(Path(options.preset).absolute()) if options.preset.endswith(".yaml") else options.preset
    if options.home is None:
        with tempfile.TemporaryDirectory(prefix="gptmill-benchmark-") as folder:
            print(json.dumps(measure(preset, Path(folder) / "home")))
        return 0
    if options.home.exists() and any(options.home.iterdir()):
        parser.error(f"--home {options.home} is not empty, and a first run is to be measured")
    print(json.dumps(measure(preset, options.home.absolute())))
    return 0


def measure(preset: str, home: Path) -> dict[str, Any]:
    """All figures of a preset in an empty home."""
    home.mkdir(parents=True, exist_ok=True)
    cold_s, cold = timed(home, "run", preset)
    cached = []
    for _ in range(REPEATED):
        seconds, again = timed(home, "run", preset)
        assert all(row["status"] == "reused" for row in again["stages"].values()), again
        cached.append(seconds)
    plans = [timed(home, "plan", preset)[0] for _ in range(REPEATED)]
    short = shortened(preset, list(cold["stages"]))
    short_s, whole = timed(home, "run", preset, *short)
    assert all(row["status"] == "ran" for row in whole["stages"].values()), whole
    metrics = {name: value for row in cold["stages"].values() for name, value in row["metrics"].items()}
    return {
        "preset": preset,
        "cold_s": round(cold_s, 2),
        **spread("cached", cached),
        **spread("plan", plans),
        "overhead_first_s": round(cold_s - own_seconds(cold), 2),
        "overhead_s": round(short_s - own_seconds(whole), 2),
        "overhead_run": ["run", preset, *short],
        "stages": {name: round(row["seconds"], 2) for name, row in cold["stages"].items()},
        "quality": {
            name + ending: metrics[name + ending] for name in QUALITY for ending in ENDINGS if name + ending in metrics
        },
        "machine": machine(),
    }


def timed(home: Path, *arguments: str) -> tuple[float, dict[str, Any]]:
    """Wall seconds of a `gptmill … --json`, and its answer; CalledProcessError when it fails."""
    own = ("PREFECT_", "MLFLOW_", "GPTMILL_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    command = [sys.executable, "-m", "flows", *arguments, "--json"]
    started = time.perf_counter()
    done = subprocess.run(
        command, env={**kept, "GPTMILL_HOME": str(home)}, cwd=home, stdout=subprocess.PIPE, text=True, check=True
    )
    seconds = time.perf_counter() - started
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seconds, answer


def shortened(preset: str, stages: Sequence[str]) -> list[str]:
    """Options with which every stage runs again, and none for long."""
    loaded = load_preset(preset)
    trained = {"pretrain": loaded.pretrain, **{f"finetune.{skill}": t for skill, t in loaded.finetune.items()}}
    short = [f"{part}.steps={training.warmup_steps + SHORT_STEPS}" for part, training in trained.items()]
    short += ["benchmark.items=50", "benchmark.heldout_documents=20"]
    data = [stage for stage in stages if stage in ("corpus", "tokenizer", "tokens")]
    return [
        *(word for override in short for word in ("--set", override)),
        *(word for stage in data for word in ("--force", stage)),
    ]


def own_seconds(answer: dict[str, Any]) -> float:
    """What the stages themselves took."""
    return float(sum(row["seconds"] for row in answer["stages"].values()))


def spread(name: str, seconds: Sequence[float]) -> dict[str, Any]:
    """The median under `<name>_s`, and the extremes beside it."""
    return {
        f"{name}_s": round(statistics.median(seconds), 3),
        f"{name}_spread_s": [round(min(seconds), 3), round(max(seconds), 3)],
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = {line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")}
    cpu = ", ".join(sorted(names)) or platform.processor()
    return {"cores": len(os.sched_getaffinity(0)), "cpu": cpu, "system": platform.platform()}


if __name__ == "__main__":
    sys.exit(main())
