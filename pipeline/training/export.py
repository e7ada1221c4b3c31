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
from pipeline.training.networks import Network, images_of

TOLERANCE = 1e-4


class ExportFailed(StageError):
    """The graph does not answer as the network does."""


class _Served(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network(images_of(pixels)).softmax(1)  # type: ignore[no-any-return]


def export(
    network: Network,
    categories: Sequence[Category],
    spec: InputSpec,
    directory: Path,
    *,
    example: NDArray[np.uint8] | None = None,
    train_images: int = 0,
) -> None:
    """Writes the model directory. categories: in output order. example: pixels of one image, best a real one.

    train_images: kept beside the weights, so that the next training knows how much it has not seen.
    Raises ExportFailed when onnxruntime's answers differ from torch's.
    """
    served = _Served(network).cpu().float().eval()
    pixels = _pattern(spec) if example is None else example
    directory.mkdir(parents=True, exist_ok=True)
    _write_graph(served, spec, directory / "model.onnx")
    graph = (directory / "model.onnx").read_bytes()
    _check(graph, served, np.stack([pixels, _pattern(spec), np.zeros_like(pixels)]))
    write_atomically(directory / "weights.safetensors", _weights(network, train_images))
    write_json(
        directory / "categories.json",
        {"outputs": [{"id": category.id, "name": category.name} for category in categories]},
    )
    write_json(directory / "input.json", {"mode": spec.mode, "width": spec.width, "height": spec.height})
    answer = {"inputs": [pixels.tolist()], "probabilities": _answers(graph, pixels[None]).tolist()}
    write_atomically(directory / "example_answer.json", (json.dumps(answer) + "\n").encode())


def read_weights(path: Path) -> tuple[dict[str, Tensor], int]:
    """The weights, and how many images they were trained on."""
    with safe_open(path, "pt") as file:
        about: Mapping[str, str] = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
    return tensors, int(about.get("train_images", 0))


def _write_graph(served: _Served, spec: InputSpec, path: Path) -> None:
    example = torch.zeros((2, *spec.shape), dtype=torch.uint8)
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


def _weights(network: Network, train_images: int) -> bytes:
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


def _pattern(spec: InputSpec) -> NDArray[np.uint8]:
    """A ramp: fixed pixels for when there is no image."""
    return (np.arange(spec.size_bytes) % 256).astype(np.uint8).reshape(spec.shape)
