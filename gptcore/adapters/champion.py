"""A new version and the champion, figure by figure: what the gate goes by."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from gptcore.adapters.mlflow_client import MlflowException, ModelVersion, Run, asking
from gptcore.adapters.mlflow_runs import PARENT, Tracker
from gptcore.adapters.mlflow_samples import benchmark_directory
from gptcore.evaluation.comparison import Delta, differences, direction, judged
from gptcore.evaluation.decomposition import NotPaired
from gptcore.evaluation.gate import Evidence
from gptcore.evaluation.headline import BASELINE, STDERR
from gptcore.evaluation.measured import figures, paired, recorded
from gptcore.evaluation.paired import PairedDifference
from gptcore.store import Store


def guarded_figures(metrics: Mapping[str, float], guard: Iterable[str]) -> dict[str, float]:
    """The figures that a guard's names stand for, with their standard errors: to be kept on the version."""
    chosen = [name for name in metrics if _can_guard(name) and any(fnmatch.fnmatchcase(name, g) for g in guard)]
    return {key: metrics[key] for name in chosen for key in (name, name + STDERR) if key in metrics}


def _can_guard(name: str) -> bool:
    return not name.endswith(STDERR) and BASELINE not in name and direction(name) is not None


def weighing(
    tracker: Tracker,
    benchmark: Path,
    skill: str,
    metric: str,
    guard: Sequence[str],
    skills: Collection[str],
    scratch: Path,
) -> Callable[[ModelVersion], Evidence]:
    """What compares the model measured in `benchmark` with a champion, item by item where its samples can be reached.

    guard: names as in `publish.guard`; those of the other ones of `skills` are not this model's.
    """

    def weigh(champion: ModelVersion) -> Evidence:
        new = recorded(benchmark)
        mine = guarded_figures(new, guard)
        exact = [g for g in guard if "*" not in g and g.partition("/")[0] not in skills]
        directory = _champions(tracker, champion, f"benchmark-{skill}", scratch)
        old = recorded(directory) if directory else _tags(champion)
        names = [name for name in mine if not name.endswith(STDERR)]
        known = [name for name in names if name in old]
        own = [name for name in new if name.startswith(f"{skill}/") and _can_guard(name) and name in old]
        found = _item_by_item(directory, benchmark, {metric, *known, *own}) if directory else {}

        def compared(names: Collection[str]) -> dict[str, Delta]:
            """Judged together, these alone."""
            kept = {key for name in names for key in (name, name + STDERR)}
            of_both = [{key: values[key] for key in kept if key in values} for values in (old, new)]
            return judged([differences([of_both[0]], [of_both[1]], found)])[0]

        target = found.get(metric)
        return Evidence(
            target=target if isinstance(target, PairedDifference) else None,
            guarded=compared(known),
            unmeasured=tuple(g for g in exact if g not in mine),
            unknown=tuple(name for name in names if name not in old),
            beside=compared({*own, *known}),
        )

    return weigh


def _item_by_item(old: Path, new: Path, names: Iterable[str]) -> dict[str, PairedDifference | str]:
    first, second = figures(old, None), figures(new, None)
    found: dict[str, PairedDifference | str] = {}
    for name in names:
        if name in first and name in second:
            try:
                found[name] = paired([first[name]], [second[name]])
            except NotPaired as reason:
                found[name] = str(reason)
    return found


def _tags(version: ModelVersion) -> dict[str, float]:
    """The figures that a version keeps as tags."""
    values = {}
    for name, text in version.tags.items():
        try:
            values[name] = float(text)
        except ValueError:  # a digest, a reason
            continue
    return values


def _champions(tracker: Tracker, champion: ModelVersion, stage: str, scratch: Path) -> Path | None:
    """The champion's benchmark: its run of `publish` names the digest, the pipeline's run the benchmark's own run."""
    with asking(tracker.uri):
        run = _run(tracker, champion.run_id)
        if run is None:
            return None
        parent = _run(tracker, run.data.tags.get(PARENT))
        known = {
            "digest": run.data.tags.get(f"input.{stage}"),
            "run_id": parent.data.tags.get(f"stage.{stage}.run_id") if parent else None,
        }
    given = {name: value for name, value in known.items() if value is not None}
    return benchmark_directory(tracker, Store(tracker.home / "store"), stage, given, scratch)


def _run(tracker: Tracker, run_id: str | None) -> Run | None:
    if not run_id:
        return None
    try:
        return tracker.client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
