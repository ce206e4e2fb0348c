"""MLflow's client, made quick to give up, quiet, and one line long when it fails.

The only module that imports mlflow's names; the others take them from here, so that the settings below come first.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from gptcore.adapters.mlflow_lookup import SQLITE
from gptcore.durable import locked, sync_directory

# MLflow reads these when it is imported or used; whatever the user has set stays.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout belongs to --json
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # with the defaults a dead server blocks for 246 s
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}.items():
    os.environ.setdefault(_name, _value)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # mlflow's own classes break its own advice on type hints, and it says so
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts
    from mlflow.entities import (
        Dataset,
        DatasetInput,
        InputTag,
        LoggedModel,
        LoggedModelOutput,
        LoggedModelStatus,
        Metric,
        Param,
        Run,
        RunTag,
    )
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import load_model, save_model
    from mlflow.types import ColSpec, DataType, Schema
    from requests import RequestException
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

# It prints a page of traceback for every database error that it also raises, and `asking` says each in one line.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

__all__ = [
    "ColSpec",
    "DataType",
    "Dataset",
    "DatasetInput",
    "InputTag",
    "LoggedModel",
    "LoggedModelOutput",
    "LoggedModelStatus",
    "Metric",
    "MlflowClient",
    "MlflowException",
    "Model",
    "ModelSignature",
    "ModelVersion",
    "Param",
    "Run",
    "RunTag",
    "Schema",
    "TrackerAway",
    "asking",
    "connect",
    "download_artifacts",
    "load_model",
    "save_model",
]

_AWAY = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED", "IO_ERROR"}
"""Error codes of MLflow that stand for a tracker in trouble, not for a wrong request."""


class TrackerAway(ConnectionError):
    """The tracker does not answer, or answers that it cannot now."""


@contextmanager
def asking(uri: str) -> Iterator[None]:
    """Turn every way in which a tracker can be out of reach into one TrackerAway with one line."""
    try:
        yield
    except TrackerAway:
        raise
    except (MlflowException, SQLAlchemyError, RequestException, ConnectionError, TimeoutError) as error:
        if isinstance(error, MlflowException) and error.error_code not in _AWAY:
            raise
        raise TrackerAway(f"MLflow at {uri} does not answer: {_cause(error)}") from error


def _cause(error: BaseException) -> str:
    """The shortest true line: the database's own words, or the innermost error that the message quotes."""
    for raised in (error, error.__cause__):
        if isinstance(raised, DBAPIError) and raised.orig is not None:
            return str(raised.orig)[:200]
    line = (str(error).splitlines() or [type(error).__name__])[0]
    for mark in ("Failed to establish a new connection: ", "Caused by ", "failed with exception "):
        if mark in line:
            line = line.rsplit(mark, 1)[1].rstrip("')\"")
            break
    return line[:200]


def connect(uri: str, home: Path) -> MlflowClient:
    """A client with explicit URIs; raises TrackerAway where the database cannot be opened."""
    with asking(uri):
        if uri.startswith(SQLITE):
            with locked(home / "mlflow.lock"):
                _set_up(Path("/" + uri.removeprefix(SQLITE).lstrip("/")))
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _set_up(database: Path) -> None:
    """Make MLflow's tables aside and rename the file.

    Its migrations take seconds; a kill among them, or a second process at it, would leave a file that never opens.
    """
    if not database.exists():
        for left in database.parent.glob(f".{database.name}.*.part"):
            left.unlink()
        aside = database.with_name(f".{database.name}.{uuid4().hex}.part")  # MLflow remembers what it opened by name
        MlflowClient(tracking_uri=f"{SQLITE}{aside}", registry_uri=f"{SQLITE}{aside}").search_experiments(max_results=1)
        aside.replace(database)
        sync_directory(database.parent)
