"""A trained network as files that any server can read: an ONNX graph, plain weights, and what the outputs mean.

The graph takes uint8 `pixels` and gives `probabilities`; normalisation and softmax are inside. The same weights
give the same bytes, in any folder. Nothing here is pickled.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from core.images import InputSpec
from core.storage import write_atomically, write_json
from pipeline.dataset import Category
from pipeline.stages import StageError
from pipeline.training.networks import ImageNetwork, images_of, probabilities

TOLERANCE = 1e-4


class ExportFailed(StageError):
    """The graph does not answer as the network does."""


class _Served(nn.Module):
    def __init__(self, network: ImageNetwork) -> None:
        super().__init__()
        self.network = network
        self.mirrored = bool(network.mirrored)

    def forward(self, pixels: Tensor) -> Tensor:
        return probabilities(self.network, images_of(pixels), self.mirrored)


def export_network(
    network: ImageNetwork, folder: Path, example: NDArray[np.uint8], *, train_images: int = 0
) -> None:
    """Writes `model.onnx` and `weights.safetensors`. example: pixels of one image, best a real one.

    train_images: kept beside the weights, so that the next training knows how much it has not seen.
    Raises ExportFailed when onnxruntime's answers differ from torch's.
    """
    served = _Served(network).cpu().float().eval()
    folder.mkdir(parents=True, exist_ok=True)
    _write_graph(served, example.shape, folder / "model.onnx")
    graph = (folder / "model.onnx").read_bytes()
    _check(graph, served, np.stack([example, pattern(example.shape), np.zeros_like(example)]))
    write_atomically(folder / "weights.safetensors", _weights(network, train_images))


def describe(
    folder: Path, categories: Sequence[Category], spec: InputSpec, example: NDArray[np.uint8]
) -> None:
    """Writes what the outputs of `model.onnx` mean (categories: in their order), what it is asked with, and one answer.

    Raises ExportFailed when the graph is not what a server expects, whoever made it.
    """
    try:
        graph = (folder / "model.onnx").read_bytes()
        answer, two = (
            _answers(graph, example[None]),
            _answers(graph, np.stack([example, np.zeros_like(example)])),
        )
    except Exception as exc:  # onnxruntime's errors have no common root below Exception
        raise ExportFailed(
            f"model.onnx does not answer uint8 pixels {spec.shape} with probabilities: {exc}"
        ) from exc
    if two.shape != (2, len(categories)) or not np.allclose(two.sum(1), 1, atol=1e-3):
        raise ExportFailed(
            f"model.onnx must answer two images with probabilities (2, {len(categories)}) that add up to 1; it answers "
            f"{two.shape}, which add up to {two.sum(-1).ravel()[:2].tolist()}"
        )
    write_json(
        folder / "categories.json",
        {"outputs": [{"id": category.id, "name": category.name} for category in categories]},
    )
    write_json(folder / "input.json", {"mode": spec.mode, "width": spec.width, "height": spec.height})
    answered = {"inputs": [example.tolist()], "probabilities": answer.tolist()}
    write_atomically(folder / "example_answer.json", (json.dumps(answered) + "\n").encode())


def read_weights(path: Path) -> tuple[dict[str, Tensor], int]:
    """The weights, and how many images they were trained on."""
    with safe_open(path, "pt") as file:
        about: Mapping[str, str] = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
    return tensors, int(about.get("train_images", 0))


def _write_graph(served: _Served, shape: tuple[int, ...], path: Path) -> None:
    example = torch.zeros((2, *shape), dtype=torch.uint8)
    with warnings.catch_warnings():
        # The TorchScript exporter is marked deprecated; its successor takes 7 s where this takes 0.3 s, and puts
        # the source's folder into the graph.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            served,
            (example,),
            str(path),
            dynamo=False,
            input_names=["pixels"],
            output_names=["probabilities"],
            dynamic_axes={"pixels": {0: "images"}, "probabilities": {0: "images"}},
            opset_version=17,
        )


def _weights(network: ImageNetwork, train_images: int) -> bytes:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    # One key only: safetensors writes several in no fixed order, and the bytes must not vary.
    data: bytes = save(tensors, {"train_images": str(train_images)})
    return data


def _answers(graph: bytes, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"pixels": pixels})
    return np.asarray(probabilities, np.float32)


def _check(graph: bytes, served: _Served, pixels: NDArray[np.uint8]) -> None:
    with torch.inference_mode():
        expected = served(torch.from_numpy(pixels)).numpy()
    difference = float(np.abs(_answers(graph, pixels) - expected).max())
    if not difference <= TOLERANCE:
        raise ExportFailed(
            f"onnxruntime's probabilities differ from torch's by {difference:.2g}, more than {TOLERANCE:g}; check that "
            f"onnxruntime {onnxruntime.__version__} and torch {torch.__version__} are the locked versions"
        )


def pattern(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A ramp: fixed pixels for when there is no image."""
    return (np.arange(np.prod(shape)) % 256).astype(np.uint8).reshape(shape)
