"""What a MODEL on the command line stands for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gptcore.adapters.mlflow_client import MlflowException, asking, download_artifacts
from gptcore.adapters.mlflow_history import get_run
from gptcore.adapters.mlflow_models import MODEL_ID
from gptcore.adapters.mlflow_runs import KEY, Tracker, local_path
from gptcore.store import Store
from gptcore.weight_files import WEIGHTS


def model_directory(reference: str, uri: str, home: Path, say: Callable[[str], None], holding: str = WEIGHTS) -> Path:
    """The directory of `models:/name@alias`, `models:/name/version` or `RUN/STAGE` that holds a file.

    ValueError where there is none.
    """
    tracker = Tracker(uri, home, say)
    if reference.startswith("models:/"):
        return _registered(reference, tracker, holding)
    run_name, _, stage = reference.partition("/")
    run = get_run(tracker, run_name)
    if stage not in run.stages or "run_id" not in run.stages[stage]:
        raise ValueError(f"run {run.run_id[:8]} has no stage {stage!r}; it has: {', '.join(run.stages) or 'none'}")
    with asking(uri):
        key = tracker.client.get_run(run.stages[stage]["run_id"]).data.tags[KEY]
    directory = Store(home / "store").directory(stage, key)
    if not (directory / holding).exists():
        raise ValueError(f"{stage} of run {run.run_id[:8]} holds no {holding} in this store ({directory})")
    return directory


def _registered(reference: str, tracker: Tracker, holding: str) -> Path:
    name, at, alias = reference.removeprefix("models:/").partition("@")
    with asking(tracker.uri):
        try:
            if at:
                version = tracker.client.get_model_version_by_alias(name, alias)
            else:
                name, _, number = name.partition("/")
                version = tracker.client.get_model_version(name, number)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise ValueError(f"{reference} is not registered at {tracker.uri}; `gptmill run PRESET` makes it") from None
        model_id = version.tags.get(MODEL_ID)  # ModelVersion.model_id is None on SQLite
        if model_id is None:
            raise ValueError(f"{reference} was not published by gptmill: no logged model stands behind it")
        location = tracker.client.get_logged_model(model_id).artifact_location
        folder = local_path(location) or Path(download_artifacts(artifact_uri=location, tracking_uri=tracker.uri))
    return _inside(folder, holding)


def _inside(folder: Path, holding: str) -> Path:
    found = sorted(p.parent for p in folder.rglob(holding))
    if not found:
        raise ValueError(f"{folder} holds no {holding}")
    return found[0]
