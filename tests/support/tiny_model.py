"""Tiny real ONNX classifiers, written as a downloaded version or logged to MLflow as the register stage does.

    python -m tests.support.tiny_model http://127.0.0.1:5000 doodles good:1 good:2 nan:3 liar:4

logs four versions: kind:seed (good, nan, liar, moody, slow). It is a process of its own because importing MLflow costs
seconds and warnings.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

CATEGORIES = ("cat", "dog", "fish")
DOODLE = (28, 28)
PHOTO = (32, 32, 3)
SLOW_PRODUCTS = 12  # of about a milliard operations each


def graph(
    seed: int, shape: tuple[int, ...] = DOODLE, *, nan: bool = False, moody: bool = False, slow: bool = False
) -> Any:
    """uint8 `pixels` (N, *shape) to float32 `probabilities` (N, 3): a linear layer and a softmax.

    nan: it answers no numbers; moody: only where an image is bright; slow: a call takes some hundred milliseconds.
    """
    rng = np.random.default_rng(seed)
    pixel_count, count = int(np.prod(shape)), len(CATEGORIES)
    weights = (rng.standard_normal((pixel_count, count)) / (255 * pixel_count**0.5) * 3).astype(np.float32)
    bias = np.full(count, np.nan, np.float32) if nan else np.zeros(count, np.float32)
    body = helper.make_graph(
        [
            helper.make_node("Cast", ["pixels"], ["ink"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["ink"], ["flat"], axis=1),
            helper.make_node("Gemm", ["flat", "weights", "bias"], ["quick" if slow else "logits"]),
            *(_detour() if slow else []),
            *(
                [
                    helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[1], keepdims=1),
                    helper.make_node("Greater", ["mean", "bright"], ["is_bright"]),
                    helper.make_node("Where", ["is_bright", "nothing", "logits"], ["moody"]),
                ]
                if moody
                else []
            ),
            helper.make_node("Softmax", ["moody" if moody else "logits"], ["probabilities"], axis=1),
        ],
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", *shape])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", count])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(bias, "bias"),
            *(
                [
                    numpy_helper.from_array(np.float32(200), "bright"),
                    numpy_helper.from_array(np.float32(np.nan), "nothing"),
                ]
                if moody
                else []
            ),
            *([numpy_helper.from_array(np.float32(1e-30), "next_to_nothing")] if slow else []),
        ],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _detour() -> list[Any]:
    """Powers of a large matrix that come to nothing: as long for one image as for many."""
    nodes = [
        helper.make_node("ReduceMax", ["flat"], ["brightest"], axes=[0], keepdims=1),
        helper.make_node("Softmax", ["brightest"], ["row"], axis=1),
        helper.make_node("Transpose", ["row"], ["column"]),
        helper.make_node("MatMul", ["column", "row"], ["power0"]),
    ]
    nodes += [
        helper.make_node("MatMul", [f"power{number}", "power0"], [f"power{number + 1}"])
        for number in range(SLOW_PRODUCTS)
    ]
    last = f"power{SLOW_PRODUCTS}"
    return [
        *nodes,
        helper.make_node("ReduceMax", [last], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "next_to_nothing"], ["nothing_much"]),
        helper.make_node("Add", ["quick", "nothing_much"], ["logits"]),
    ]


def images(count: int = 2, shape: tuple[int, ...] = DOODLE, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def answer(model: Any, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["probabilities"], {"pixels": pixels})[0])


def extra_files(model: Any, pixels: NDArray[np.uint8], *, liar: bool = False) -> dict[str, Any]:
    """Our files beside MLflow's. A liar's recorded answer is another graph's."""
    recorded = answer(graph(seed=1000) if liar else model, pixels)
    return {
        "categories.json": {"outputs": [{"id": i, "name": name} for i, name in enumerate(CATEGORIES)]},
        "input.json": {"mode": "L", "width": 28, "height": 28},
        "example_answer.json": {"inputs": pixels.tolist(), "probabilities": np.nan_to_num(recorded).tolist()},
    }


def write_version(directory: Path, number: int, model: Any, *, name: str = "doodles", **files: Any) -> Path:
    """As `Registry.download` leaves it. files: extra ones, by name without `.json`."""
    target = directory / name / str(number)
    (target / "extra_files").mkdir(parents=True)
    onnx.save_model(model, target / "model.onnx")
    identity = {
        "name": name,
        "version": number,
        "source": f"models:/m-{number}",
        "run_id": "r",
        "created_at": "",
    }
    (target / "version.json").write_text(json.dumps(identity))
    for stem, content in files.items():
        (target / "extra_files" / f"{stem}.json").write_text(json.dumps(content))
    return target


def log_versions(tracking_uri: str, name: str, kinds: list[str]) -> None:
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment(name)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, *DOODLE), "pixels")]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, len(CATEGORIES)), "probabilities")]),
    )
    for kind, _, seed in (kind.partition(":") for kind in kinds):
        model = graph(int(seed), nan=kind == "nan", moody=kind == "moody", slow=kind == "slow")
        pixels = images()
        with tempfile.TemporaryDirectory() as folder, mlflow.start_run():
            paths = [Path(folder) / file for file in extra_files(model, pixels)]
            for path, content in zip(
                paths, extra_files(model, pixels, liar=kind == "liar").values(), strict=True
            ):
                path.write_text(json.dumps(content))
            mlflow.onnx.log_model(
                model,
                name="model",
                registered_model_name=name,
                signature=signature,
                input_example={"pixels": pixels},
                pip_requirements=["onnxruntime"],
                save_as_external_data=False,
                onnx_execution_providers=["CPUExecutionProvider"],
                extra_files=[str(path) for path in paths],
            )


if __name__ == "__main__":
    log_versions(sys.argv[1], sys.argv[2], sys.argv[3:])
