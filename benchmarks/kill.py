"""SIGKILL the whole process group at random instants inside every stage, then give the same command again.

One JSON object last: how many kills each stage took, whether its output equals an uninterrupted run's, what stayed
RUNNING in MLflow, metric steps logged twice, and processes left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from gptcore.adapters.mlflow_client import MlflowClient
from gptcore.adapters.mlflow_lookup import default_uri
from gptcore.adapters.mlflow_runs import KEY, PARENT, STAGE

SHORT = (
    "corpus.sources=[{kind: python_docs, stdlib: false, packages: [numpy, networkx]}]",
    "corpus.held_out=[networkx]",
    "pretrain.steps=200",
    "finetune.summarization.steps=100",
    "finetune.qa.steps=100",
    "benchmark.items=100",
    "runtime.checkpoint_every=20",
)
"""What makes quickstart short enough to be killed some twenty times."""
STARTED, ENDED = re.compile(r"^(\S+): (?:running|resuming)$"), re.compile(r"^(\S+) +(?:ran|resumed)\b")
LONGEST_RUN_S = 1800.0
GONE_WITHIN_S = 20.0


class Running:
    """A `gptmill` process in a group of its own, and the lines of its stderr with their times."""

    def __init__(self, arguments: Sequence[str], home: Path, **environment: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        own = ("PREFECT_", "MLFLOW_", "GPTMILL_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows", *arguments],
            env={**kept, "GPTMILL_HOME": str(home), **environment},
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lines: list[tuple[float, str]] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            with self._news:
                self.lines.append((time.monotonic(), line.rstrip("\n")))
                self._news.notify_all()

    @property
    def text(self) -> str:
        """Everything on stderr so far."""
        return "\n".join(line for _, line in self.lines)

    def spans(self) -> dict[str, tuple[float, float | None]]:
        """When each stage began its own work, and when it was finished (None: not yet)."""
        found: dict[str, tuple[float, float | None]] = {}
        for at, line in list(self.lines):
            if match := STARTED.match(line):
                found[match[1]] = (at, None)
            elif (match := ENDED.match(line)) and match[1] in found:
                found[match[1]] = (found[match[1]][0], at)
        return found

    def wait_for(self, stage: str) -> bool:
        """Return once a stage is at work; False where the process ends, or the stage is finished already."""
        until = time.monotonic() + LONGEST_RUN_S
        with self._news:
            while stage not in self.spans():
                if self.process.poll() is not None or time.monotonic() > until:
                    return False
                self._news.wait(0.05)
        return True

    def signal_group(self, signum: signal.Signals) -> None:
        """What a terminal, or a machine out of memory, does to every process of the group."""
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            os.killpg(self.process.pid, signum)

    def end(self, timeout: float = LONGEST_RUN_S) -> str:
        """Wait for the process; everything it wrote to stdout."""
        assert self.process.stdout and self.process.stderr
        try:
            self.process.wait(timeout)  # with --json stdout holds one line, so the pipe never fills
        except subprocess.TimeoutExpired:
            self.signal_group(signal.SIGKILL)
            self.process.wait()
            raise
        self._reader.join()
        said = self.process.stdout.read()
        self.process.stdout.close()
        self.process.stderr.close()
        return said


def finish(arguments: Sequence[str], home: Path, **environment: str) -> tuple[dict[str, Any], dict[str, float]]:
    """Run to the end: the command's JSON answer, and each run stage's seconds from its first to its last line."""
    run = Running(arguments, home, **environment)
    said = run.end()
    if run.process.returncode:
        raise RuntimeError(f"gptmill {' '.join(arguments)} ended with {run.process.returncode}:\n{run.text[-3000:]}")
    seconds = {stage: ended - began for stage, (began, ended) in run.spans().items() if ended}
    return json.loads(said.splitlines()[-1]), seconds


def kill_in(stage: str, instant: float, arguments: Sequence[str], home: Path, **environment: str) -> str | None:
    """Run until `instant` seconds into a stage and kill the group; the stage at work then, None between two."""
    run = Running(arguments, home, **environment)
    if run.wait_for(stage):
        time.sleep(max(0.0, run.spans()[stage][0] + instant - time.monotonic()))
    run.signal_group(signal.SIGKILL)
    run.end()
    if run.process.returncode not in (-signal.SIGKILL, 0):  # 0: it was quicker than the kill
        raise RuntimeError(f"{stage}: the run ended by itself ({run.process.returncode}):\n{run.text[-3000:]}")
    return next((name for name, (_, ended) in run.spans().items() if ended is None), None)


def kill_each(
    wanted: Mapping[str, int],
    seconds: Mapping[str, float],
    draw: random.Random,
    arguments: Sequence[str],
    home: Path,
    **environment: str,
) -> Counter[str]:
    """Kill every stage as often as wanted, each time at a uniformly random instant of what is left of its work.

    seconds: how long each stage takes undisturbed. Returns the kills that hit each stage: a stage that was quicker
    this time is finished, and the kill hits what comes after it.
    """
    hit: Counter[str] = Counter()
    for stage, times in wanted.items():
        left = seconds[stage]
        for _ in range(times):
            instant = draw.uniform(0, left)
            left -= instant
            at_work = kill_in(stage, instant, arguments, home, **environment)
            print(f"{stage}: killed {instant:.2f} s in; at work: {at_work}", file=sys.stderr, flush=True)
            if at_work is not None:
                hit[at_work] += 1
            if at_work != stage:
                break
    return hit


def left_behind(home: Path) -> list[str]:
    """Processes that still use a home after some seconds of grace, as command lines."""
    until = time.monotonic() + GONE_WITHIN_S
    while (found := _using(home)) and time.monotonic() < until:
        time.sleep(0.2)
    return found


def _using(home: Path) -> list[str]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("GPTMILL_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


@dataclass
class Record:
    """What MLflow holds after the kills; each of these lists is empty when all is well."""

    left_running: list[str] = field(default_factory=list)
    steps_twice: list[str] = field(default_factory=list)
    """`<stage> <metric> <step>`."""
    extra_runs: list[str] = field(default_factory=list)
    """Parent runs beyond the first, and runs of a stage beyond one."""
    extra_versions: list[str] = field(default_factory=list)


def record_of(home: Path) -> tuple[Record, int]:
    """Read a home's MLflow database through its client; the number of stage runs comes beside it."""
    client, record = MlflowClient(tracking_uri=default_uri(home), registry_uri=default_uri(home)), Record()
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=1000)
    stages: dict[tuple[str, str], int] = defaultdict(int)
    for run in runs:
        name, tags = run.info.run_name, run.data.tags
        if run.info.status == "RUNNING":
            record.left_running.append(f"{name} {run.info.run_id}")
        if PARENT in tags:
            stages[tags[STAGE], tags[KEY]] += 1
        for metric in run.data.metrics:
            steps = Counter(point.step for point in client.get_metric_history(run.info.run_id, metric))
            record.steps_twice += [f"{name} {metric} {step}" for step, times in steps.items() if times > 1]
    parents = [run.info.run_id for run in runs if PARENT not in run.data.tags]
    record.extra_runs = parents[1:] + [stage for (stage, _), times in stages.items() for _ in range(times - 1)]
    for model in client.search_registered_models():
        versions = client.search_model_versions(f"name = '{model.name}'")
        record.extra_versions += [f"{model.name} {version.version}" for version in versions[1:]]
    return record, sum(stages.values())


def arguments_of(preset: str, overrides: Sequence[str]) -> list[str]:
    """Of the `gptmill run` that is killed."""
    return ["run", preset, "--json", *(part for o in overrides for part in ("--set", o))]


def soak(arguments: Sequence[str], folder: Path, rounds: int, seed: int) -> dict[str, Any]:
    """Kill every stage `rounds` times and compare with an undisturbed run."""
    draw = random.Random(seed)
    reference, seconds = finish(arguments, folder / "reference")
    undisturbed = {stage: row["digest"] for stage, row in reference["stages"].items()}
    hits: Counter[str] = Counter()
    equal = dict.fromkeys(undisturbed, True)
    whole, orphans = Record(), []
    homes = 0
    while wanted := {stage: rounds - hits[stage] for stage in undisturbed if hits[stage] < rounds}:
        home = folder / f"killed-{homes}"  # one home is enough, unless a stage was quicker than its kill
        homes += 1
        hits += kill_each(wanted, seconds, draw, arguments, home)
        answer, _ = finish(arguments, home)
        for stage, row in answer["stages"].items():
            equal[stage] &= row["digest"] == undisturbed[stage]
        orphans += left_behind(home)
        found, _ = record_of(home)
        for name, entries in asdict(found).items():
            getattr(whole, name).extend(entries)
    for line in [*orphans, *(entry for entries in asdict(whole).values() for entry in entries)]:
        print(f"not as it should be: {line}", file=sys.stderr)
    return {
        "kills": hits.total(),
        "stages": {stage: {"kills": hits[stage], "digest_equal": equal[stage]} for stage in undisturbed},
        **{name: len(entries) for name, entries in asdict(whole).items()},
        "orphans": len(orphans),
        "seed": seed,
    }


def main() -> int:
    """Soak a preset; exit code 0 whenever the measurement was made, whatever it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="quickstart", help="a name in configs/ or a YAML file (quickstart)")
    parser.add_argument("--set", action="append", dest="overrides", metavar="A.B=C", help="instead of the short form's")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="kills in every stage (2)")
    parser.add_argument("--seed", type=int, help="draws the instants; the clock's unless given")
    parser.add_argument("--folder", type=Path, help="where to work and to leave everything; else a temporary one")
    options = parser.parse_args()
    preset = str(Path(options.preset).resolve()) if Path(options.preset).is_file() else options.preset
    arguments = arguments_of(preset, SHORT if options.overrides is None else options.overrides)
    seed = time.time_ns() % 2**32 if options.seed is None else options.seed
    print(f"seed {seed}", file=sys.stderr)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="gptmill-kill-"))
    result = soak(arguments, folder.resolve(), options.rounds, seed)
    if options.folder is None:
        shutil.rmtree(folder)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
