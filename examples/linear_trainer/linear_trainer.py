"""A trainer of one's own: scikit-learn's logistic regression on raw pixels.

pip install ./examples/linear_trainer       # into the environment that Emend runs in
train: {trainer: linear, options: {rate: 0.01}, epochs: 5, augmentation: none}      # the home's params.yaml
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import accuracy_score, log_loss

from pipeline.training.trainer import Figures, Trainer, TrainingData

Floats = NDArray[np.float32]


class Linear(Trainer):
    """One output against the rest, by stochastic gradient descent. Option `rate`: its constant learning rate."""

    def prepare_dataset(self, data: TrainingData) -> None:
        self._data = data
        self._rows = rows_of(data.pixels[:])

    def create_model(self, outputs: int, base: Path | None) -> None:
        self._outputs = np.arange(outputs)
        rate = float(str(self.config.options.get("rate", 0.01)))
        self._model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=rate)

    def train_epoch(self, epoch: int) -> Figures:
        # By the epoch: a training that goes on from a checkpoint draws the same order as one that was not killed.
        self._model.set_params(random_state=self.config.seed * 1_000 + epoch)
        data = self._data
        self._model.partial_fit(self._rows, data.targets, self._outputs, data.weights)
        answers = self._model.predict_proba(self._rows)
        return {"train_loss": float(log_loss(data.targets, answers, labels=self._outputs))}

    def validate(self) -> Figures:
        targets = self._data.validation_targets
        if len(targets) == 0:
            return {"validation_loss": None, "validation_accuracy": None}
        answers = self._model.predict_proba(rows_of(self._data.validation_pixels[:]))
        return {
            "validation_loss": float(log_loss(targets, answers, labels=self._outputs)),
            "validation_accuracy": float(accuracy_score(targets, answers.argmax(1))),
        }

    def save_checkpoint(self, path: Path) -> None:
        save_file({"coef": self._model.coef_, "intercept": self._model.intercept_}, path)

    def load_checkpoint(self, path: Path) -> None:
        stored = load_file(path)
        self._model.coef_, self._model.intercept_ = stored["coef"], stored["intercept"]

    def export_model(self, folder: Path, example: NDArray[np.uint8]) -> None:
        weights, bias = self._model.coef_.astype(np.float32), self._model.intercept_.astype(np.float32)
        if len(weights) == 1:  # of two outputs scikit-learn keeps the second only
            weights, bias = np.concatenate([-weights, weights]), np.concatenate([-bias, bias])
        save_file({"weights": weights, "bias": bias}, folder / "weights.safetensors")
        onnx.save(graph(weights, bias, example.shape), folder / "model.onnx")


def rows_of(pixels: NDArray[np.uint8]) -> Floats:
    return pixels.reshape(len(pixels), -1).astype(np.float32) / np.float32(255)


def graph(weights: Floats, bias: Floats, shape: tuple[int, ...]) -> onnx.ModelProto:
    """uint8 pixels (images, *shape) to probabilities (images, outputs), which add up to 1."""
    steps = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["floats", "full"], ["scaled"]),
        helper.make_node("Flatten", ["scaled"], ["rows"]),
        helper.make_node("Gemm", ["rows", "weights", "bias"], ["logits"], transB=1),
        helper.make_node("Sigmoid", ["logits"], ["each"]),
        helper.make_node("ReduceSum", ["each", "last"], ["sum"]),
        helper.make_node("Div", ["each", "sum"], ["probabilities"]),
    ]
    constants = {"full": np.float32(255), "weights": weights, "bias": bias, "last": np.array([1], np.int64)}
    made = helper.make_graph(
        steps,
        "linear",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["images", *shape])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["images", len(bias)])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
