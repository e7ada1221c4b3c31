"""The model that `mlflow models serve` serves: `python -m bench.serving.others.mlflow_model FOLDER` saves it there."""

from __future__ import annotations

import sys

import mlflow
import numpy as np
from mlflow.pyfunc import PythonModel

from bench.serving.others.network import Classifier


class Model(PythonModel):  # type: ignore[misc]
    def load_context(self, context: object) -> None:
        self.classifier = Classifier()

    def predict(self, context: object, model_input: list[str]) -> list[list[float]]:
        pixels = np.stack([self.classifier.pixels(each) for each in model_input])
        rows: list[list[float]] = self.classifier.probabilities(pixels).tolist()
        return rows


if __name__ == "__main__":
    mlflow.pyfunc.save_model(sys.argv[1], python_model=Model(), pip_requirements=[])
