"""The scores and samples of an earlier run's benchmarks: from the store, or else from the run's artifacts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gptcore.adapters.mlflow_client import MlflowException, asking
from gptcore.adapters.mlflow_runs import Tracker, local_path
from gptcore.store import Store

SCORES, SAMPLES = "scores.json", "samples-"


def benchmark_directory(
    tracker: Tracker, store: Store, stage: str, known: Mapping[str, str], scratch: Path
) -> Path | None:
    """A folder that holds a benchmark stage's scores.json and samples; None where nobody has them any more.

    known: `digest` and `run_id` of the stage, as far as the pipeline's run tells them. What a server holds is fetched
    into `scratch`. Raises TrackerAway.
    """
    if "digest" in known:
        found = store.holding(stage, known["digest"])
        if found is not None:
            return found
    return _of_artifacts(tracker, known["run_id"], scratch) if "run_id" in known else None


def _of_artifacts(tracker: Tracker, run_id: str, scratch: Path) -> Path | None:
    with asking(tracker.uri):
        try:
            local = local_path(tracker.client.get_run(run_id).info.artifact_uri)
            if local is not None:
                return local if (local / SCORES).exists() else None
            target = scratch / run_id
            target.mkdir(parents=True, exist_ok=True)
            for file in tracker.client.list_artifacts(run_id):
                if file.path == SCORES or file.path.startswith(SAMPLES):
                    tracker.client.download_artifacts(run_id, file.path, str(target))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
    return target if (target / SCORES).exists() else None
