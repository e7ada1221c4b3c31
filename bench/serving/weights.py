"""The same weights for every server: plain ones for torch, and the graph that ours serves."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.baseline import Plain, images_of
from bench.serving.others.network import new_network


class _Graph(nn.Module):
    def __init__(self, network: Plain) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        planes = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
        probabilities: Tensor = self.network(planes.float() / 255).softmax(1)
        return probabilities


def write_weights(path: Path, shape: tuple[int, ...], seed: int = 1) -> onnx.ModelProto:
    """Random weights, as fast as trained ones. Writes the plain ones, gives the graph."""
    torch.manual_seed(seed)
    network = new_network(shape)
    images = np.random.default_rng(seed).integers(0, 256, (256, *shape), np.uint8)
    with torch.no_grad():
        network.train()(images_of(images))  # batch statistics of some images
    network.eval()
    save_file(network.state_dict(), path)
    graph = path.with_suffix(".onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            _Graph(network).eval(),
            (torch.zeros((2, *shape), dtype=torch.uint8),),
            str(graph),
            dynamo=False,
            input_names=["pixels"],
            output_names=["probabilities"],
            dynamic_axes={"pixels": {0: "images"}, "probabilities": {0: "images"}},
            opset_version=17,
        )
    return onnx.load_model(graph)
