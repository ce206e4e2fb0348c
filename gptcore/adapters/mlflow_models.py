"""Logged models, registered versions and their aliases. Every step first looks for what an earlier try left."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from gptcore.adapters.mlflow_client import (
    LoggedModel,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    MlflowException,
    ModelVersion,
    asking,
)
from gptcore.adapters.mlflow_runs import KEY, LONGEST_DIGEST, Tracker, local_path, place_once
from gptcore.evaluation.gate import Decision, Evidence, gate, score_of

CANDIDATE, CHAMPION = "candidate", "champion"
GATE, SKILL, MODEL_ID, DATASET = "gptmill.gate", "gptmill.skill", "gptmill.model_id", "gptmill.dataset"


class ModelRegistry:
    """Publishes models from one run. Every method raises TrackerAway where the tracker does not answer."""

    def __init__(self, tracker: Tracker, run_id: str, key: str) -> None:
        self.tracker, self.client, self.run_id, self.key = tracker, tracker.client, run_id, key

    def logged_model(self, name: str, skill: str, params: Mapping[str, str]) -> LoggedModel:
        """The logged model of this key and skill: the one an earlier try made, or a new one, PENDING."""
        with asking(self.tracker.uri):
            experiment = self.client.get_run(self.run_id).info.experiment_id
            mine = f"tags.`{KEY}` = '{self.key}' AND tags.`{SKILL}` = '{skill}'"
            usable = (LoggedModelStatus.PENDING, LoggedModelStatus.READY)
            found = [m for m in self.client.search_logged_models([experiment], mine) if m.status in usable]
            if found:
                return min(found, key=lambda model: model.creation_timestamp)
            tags = {KEY: self.key, SKILL: skill}
            return self.client.create_logged_model(experiment, name, self.run_id, tags, dict(params), "text-generation")

    def complete(self, model: LoggedModel, directory: Path) -> None:
        """Give a logged model its files and make it READY. Local files are hard-linked, others uploaded."""
        root = local_path(model.artifact_location)
        if root is not None:
            for path in sorted(p for p in directory.rglob("*") if p.is_file()):
                place_once(path, root / path.relative_to(directory))
        with asking(self.tracker.uri):
            if root is None:
                self.client.log_model_artifacts(model.model_id, str(directory))
            self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)

    def link(self, model: LoggedModel, metrics: Mapping[str, float], dataset: str, digest: str) -> None:
        """Tie a model and its scores on one dataset together, and show the model as an output of the run.

        The points carry the model's own creation time, so that a second try sends the same points again.
        """
        with asking(self.tracker.uri):
            points = [
                Metric(
                    key,
                    value,
                    model.creation_timestamp,
                    0,
                    model_id=model.model_id,
                    dataset_name=dataset,
                    dataset_digest=digest[:LONGEST_DIGEST],
                    run_id=self.run_id,
                )
                for key, value in metrics.items()
            ]
            self.client.log_batch(self.run_id, metrics=points, synchronous=True)
            outputs = self.client.get_run(self.run_id).outputs
            if model.model_id not in {output.model_id for output in (outputs.model_outputs if outputs else ())}:
                self.client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step=0)])

    def register(self, name: str, model: LoggedModel, tags: Mapping[str, str]) -> ModelVersion:
        """The version of a registered model that stands for this logged model, made if there is none."""
        with asking(self.tracker.uri):
            try:
                self.client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            mine = f"name = '{name}' AND tags.`{MODEL_ID}` = '{model.model_id}'"
            found = list(self.client.search_model_versions(mine))
            version = (
                min(found, key=lambda version: int(version.version)) if found else self._version(name, model, tags)
            )
            shown = json.dumps([{"name": name, "version": version.version}])
            self.client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": shown})  # the UI's link
            return version

    def _version(self, name: str, model: LoggedModel, tags: Mapping[str, str]) -> ModelVersion:
        """A new version. Its source is the place itself where that is local: MLflow's SQL registry would look
        `models:/<id>` up in whatever tracker is the process's default.
        """
        local = local_path(model.artifact_location) is not None
        return self.client.create_model_version(
            name,
            source=model.artifact_location if local else f"models:/{model.model_id}",
            run_id=self.run_id,
            tags={**tags, KEY: self.key, MODEL_ID: model.model_id},
            model_id=model.model_id,
        )

    def move_aliases(
        self, version: ModelVersion, metric: str, margin: float, weigh: Callable[[ModelVersion], Evidence] | None = None
    ) -> Decision:
        """Put `candidate` on a version, and `champion` through the gate; the reason stays on the version.

        weigh: compares with a champion what it has kept; without it only the two versions' tags are compared.

        The decision is written before the alias moves: a try that finds its version champion already was killed in
        between, and keeps what was written.
        """
        with asking(self.tracker.uri):
            name, number = version.name, str(version.version)
            champion = self.champion(name)
            if champion is not None and str(champion.version) == number:
                kept = champion.tags.get(GATE, "")
                decision = Decision(True, kept if kept.startswith("promoted") else "promoted by hand")
            else:
                held_by = None if champion is None else str(champion.version)
                old = None if champion is None else score_of(champion.tags, metric)
                evidence = weigh(champion) if weigh and champion is not None else Evidence()
                decision = gate(metric, score_of(version.tags, metric), old, held_by, margin, evidence)
                if champion is not None and champion.tags.get(DATASET) != version.tags.get(DATASET):
                    decision = Decision(decision.promote, f"{decision.reason}; not all of its test items are the same")
            self.client.set_model_version_tag(name, number, GATE, decision.reason)
            self.client.update_model_version(name, number, decision.reason)
            self.client.set_registered_model_alias(name, CANDIDATE, number)
            if decision.promote:
                self.client.set_registered_model_alias(name, CHAMPION, number)
            return decision

    def champion(self, name: str) -> ModelVersion | None:
        """The version that bears the alias, if any."""
        try:
            return self.client.get_model_version_by_alias(name, CHAMPION)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None
