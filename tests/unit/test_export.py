from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from core.images import InputSpec
from pipeline.dataset import Category
from pipeline.training.export import ExportFailed, describe, export_network, pattern, read_weights
from pipeline.training.networks import Network, images_of

CATEGORIES = [Category(3, "cat", "active"), Category(1, "dog", "active")]
DOODLE = InputSpec("L", 28, 28)
PHOTO = InputSpec("RGB", 32, 32)


@pytest.mark.parametrize("spec", [DOODLE, PHOTO])
def test_the_exported_graph_answers_as_the_network(spec: InputSpec, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Network(1 if spec.mode == "L" else 3, (8, 16, 24), 2).eval()
    export_network(network, tmp_path, pattern(spec.shape), train_images=7)
    describe(tmp_path, CATEGORIES, spec, pattern(spec.shape))
    pixels = np.random.default_rng(0).integers(0, 256, (5, *spec.shape), np.uint8)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (answers,) = session.run(["probabilities"], {"pixels": pixels})
    with torch.inference_mode():
        expected = network(images_of(torch.from_numpy(pixels))).softmax(1).numpy()
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers, expected, atol=1e-5)
    np.testing.assert_allclose(answers.sum(1), 1, atol=1e-5)

    example = json.loads((tmp_path / "example_answer.json").read_text())
    (again,) = session.run(None, {"pixels": np.array(example["inputs"], np.uint8)})
    np.testing.assert_array_equal(again, np.array(example["probabilities"], np.float32))
    assert json.loads((tmp_path / "categories.json").read_text()) == {
        "outputs": [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}]
    }
    assert json.loads((tmp_path / "input.json").read_text())["width"] == spec.width
    weights, images = read_weights(tmp_path / "weights.safetensors")
    assert images == 7
    assert all(torch.equal(weights[name], tensor) for name, tensor in network.state_dict().items())


def test_the_same_weights_give_the_same_files_in_any_folder(tmp_path: Path) -> None:
    network = Network(1, (8, 16), 2).eval()
    for name in ("a", "b/c"):
        export_network(network, tmp_path / name, pattern((28, 28)))
        describe(tmp_path / name, CATEGORIES, DOODLE, pattern((28, 28)))
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == [
        *("categories.json", "example_answer.json", "input.json", "model.onnx", "weights.safetensors")
    ]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / "c" / name).read_bytes(), name


def test_a_graph_that_is_not_what_a_server_expects_is_no_model(tmp_path: Path) -> None:
    network = Network(1, (8, 16), 3).eval()
    export_network(network, tmp_path, pattern((28, 28)))
    with pytest.raises(ExportFailed, match=r"probabilities \(2, 2\) that add up to 1; it answers \(2, 3\)"):
        describe(tmp_path, CATEGORIES, DOODLE, pattern((28, 28)))
    with pytest.raises(ExportFailed, match="does not answer uint8 pixels"):
        describe(tmp_path, CATEGORIES, PHOTO, pattern((32, 32, 3)))
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "weights.safetensors"}
