"""The code of a published model: MLflow copies this file beside the weights and runs the copy when it loads them.

Input: rows with the skill's fields (a DataFrame or a list of dicts); output: one string a row.
"""

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class SkillModel(PythonModel):
    """A fine-tuned model behind MLflow's `predict`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load weights and tokenizer from the artifacts."""
        from gptcore import load  # torch, wanted only where the model is used

        self._model = load(context.artifacts["model"])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[str]:
        """One answer a row."""
        rows: list[dict[str, str]] = model_input.to_dict(orient="records")
        return self._model.answer(rows)


set_model(SkillModel())
