"""Earlier pipeline runs, as the tracker remembers them: for `gptmill runs` and `gptmill compare`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from gptcore.adapters.mlflow_client import MlflowException, Run, asking
from gptcore.adapters.mlflow_runs import INVOCATION, PARENT, ROLE, Tracker

PIPELINES = f"tags.`{ROLE}` = 'pipeline'"


@dataclass(frozen=True)
class PipelineRun:
    """One parent run."""

    run_id: str
    preset: str
    name: str
    status: str
    started: float
    """Unix time."""
    seconds: float | None
    """From start to end; None while it runs."""
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    """Ours and the user's, without MLflow's own."""
    stages: Mapping[str, Mapping[str, str]]
    """By stage: `run_id` and `digest`."""


def find_runs(tracker: Tracker, preset: str | None = None, limit: int = 20) -> list[PipelineRun]:
    """Pipeline runs, newest first; of one preset, or of all. Raises TrackerAway."""
    with asking(tracker.uri):
        experiments = {e.experiment_id: e.name for e in tracker.client.search_experiments()}
        chosen = [i for i, name in experiments.items() if preset in (None, name)]
        if not chosen:
            return []
        found = tracker.client.search_runs(
            chosen, PIPELINES, max_results=limit, order_by=["attributes.start_time DESC"]
        )
        return [_summary(run, experiments[run.info.experiment_id]) for run in found]


def get_run(tracker: Tracker, reference: str, preset: str | None = None) -> PipelineRun:
    """The run a RUN names: a run id, its first 8 (or more) characters, or `latest`.

    A stage's run id gives its pipeline run. ValueError where nothing, or more than one run, has that name.
    """
    if reference == "latest":
        newest = find_runs(tracker, preset, 1)
        if not newest:
            raise ValueError("there is no pipeline run yet: `gptmill run PRESET` makes one")
        return newest[0]
    if len(reference) < 8 or not reference.isalnum():
        raise ValueError(f"RUN {reference!r} is no run id: give its first 8 characters, or `latest`")
    with asking(tracker.uri):
        experiments = {e.experiment_id: e.name for e in tracker.client.search_experiments()}
        found = tracker.client.search_runs(list(experiments), f"attributes.run_id LIKE '{reference}%'", max_results=2)
        if len(found) != 1:
            what = "no run" if not found else "more than one run"
            raise ValueError(f"{what} in MLflow at {tracker.uri} begins with {reference!r}; see `gptmill runs`")
        run = found[0]
        parent = run.data.tags.get(PARENT)
        if parent:
            try:
                run = tracker.client.get_run(parent)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                raise ValueError(f"run {reference} is a stage of a pipeline run that was deleted") from None
        return _summary(run, experiments[run.info.experiment_id])


def _summary(run: Run, preset: str) -> PipelineRun:
    stages: dict[str, dict[str, str]] = defaultdict(dict)
    tags = {}
    for key, value in run.data.tags.items():
        if key.startswith("stage."):
            name, field = key.removeprefix("stage.").rsplit(".", 1)
            stages[name][field] = value
        elif not key.startswith("mlflow.") and key not in (ROLE, INVOCATION):
            tags[key] = value
    started, ended = run.info.start_time / 1000, run.info.end_time
    running = run.info.status == "RUNNING" or ended is None
    return PipelineRun(
        run_id=run.info.run_id,
        preset=preset,
        name=run.info.run_name,
        status=run.info.status,
        started=started,
        seconds=None if running else ended / 1000 - started,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=tags,
        stages={name: dict(fields) for name, fields in stages.items()},
    )
